"""What the scheduler of a pipeline says of the training: its objective, its noise levels, its shift.

Covers: reading them from scheduler_config.json, for schedulers of DDPM's kind and of flow matching.
Does not cover: the objectives themselves (`model.diffusion`), drawing (`model.pipeline`: `scheduler_for`).

| scheduler_config.json | objective |
|---|---|
| `prediction_type: epsilon` (the default) | `epsilon` |
| `prediction_type: v_prediction` | `v` |
| `prediction_type: flow_prediction`, `use_flow_sigmas`, `FlowMatch…Scheduler` | `flow` |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import ModelError
from daskt2i.model.noise_schedule import STEPS, Objective

_OBJECTIVES: Mapping[str, Objective] = {"epsilon": "epsilon", "v_prediction": "v", "flow_prediction": "flow"}


def objective_of(scheduler: Mapping[str, Any], name: str) -> Objective:
    """The objective with which the denoiser of a pipeline was trained.

    Args:
        scheduler: the content of scheduler_config.json.
        name: of the pipeline, for messages.

    Raises:
        ModelError: it is none that daskt2i trains.
    """
    if "FlowMatch" in str(scheduler.get("_class_name")) or scheduler.get("use_flow_sigmas"):
        return "flow"
    found = scheduler.get("prediction_type", "epsilon")
    if found not in _OBJECTIVES:
        raise ModelError(
            f"The scheduler of {name} says prediction_type {found}, which daskt2i does not train. Nothing was started; "
            f"give a pipeline with {', '.join(_OBJECTIVES)} (train.pretrained.model)."
        )
    return _OBJECTIVES[found]


def shift_of(scheduler: Mapping[str, Any]) -> float:
    """The shift of the times of flow matching (`train.shift`); 1 for other objectives."""
    return float(scheduler.get("shift" if "FlowMatch" in str(scheduler.get("_class_name")) else "flow_shift") or 1.0)


def alphas_of(scheduler: Mapping[str, Any], name: str) -> npt.NDArray[np.float64]:
    """Power of the signal at each noise level, `float64[1000]`, decreasing (diffusers: `alphas_cumprod`).

    Args:
        scheduler, name: as in `objective_of`.

    Raises:
        ModelError: its schedule is none that daskt2i knows, or has another number of levels.
    """
    steps = int(scheduler.get("num_train_timesteps", STEPS))
    kind = scheduler.get("beta_schedule", "linear")
    low, high = float(scheduler.get("beta_start", 0.0001)), float(scheduler.get("beta_end", 0.02))
    if (given := scheduler.get("trained_betas")) is not None:
        betas = np.array(given, np.float64)
    elif kind == "linear":
        betas = np.linspace(low, high, steps)
    elif kind == "scaled_linear":
        betas = np.linspace(low**0.5, high**0.5, steps) ** 2
    elif kind == "squaredcos_cap_v2":  # arXiv:2102.09672, eq. 17
        levels = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - levels[1:] / levels[:-1], 0.999)
    else:
        betas = np.empty(0)
    if len(betas) != STEPS:
        raise ModelError(
            f"The scheduler of {name} has {len(betas) or 'unknown'} noise levels (beta_schedule {kind}), but daskt2i "
            f"trains with {STEPS:,}. Nothing was started; give another pipeline (train.pretrained.model)."
        )
    power: Any = np.cumprod(1 - betas)
    if scheduler.get("rescale_betas_zero_snr"):
        signal = np.sqrt(power)  # arXiv:2305.08891, algorithm 1
        power = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
    found: npt.NDArray[np.float64] = power
    return found
