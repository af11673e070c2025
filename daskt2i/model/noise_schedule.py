"""The noise schedule of `v` and `epsilon`, as numbers and as the arguments of diffusers' schedulers.

Covers: the betas of Stable Diffusion, their rescaling to zero terminal SNR.
Does not cover: what a model learns with them (`diffusion`), which scheduler draws (`pipeline`). Flow has no schedule:
its times are continuous.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Objective = Literal["flow", "v", "epsilon"]

STEPS = 1000
"""Noise levels of the schedule; flow's continuous times run from 0 to this number too."""

SCHEDULE: Mapping[str, Any] = {
    "num_train_timesteps": STEPS,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
"""Stable Diffusion's (scheduler/scheduler_config.json of its repositories): the betas' roots lie on a line."""


def alphas_cumprod(objective: Objective) -> npt.NDArray[np.float64]:
    """Power of the signal at each step, `float64[1000]`, falling.

    For `v` it is rescaled so that the last step holds no signal at all: `sqrt(power)` is shifted and stretched, its
    first value kept (arXiv:2305.08891, algorithm 1). Sampling starts from pure noise, so the model must have seen it.

    Raises:
        ValueError: the objective has no schedule.
    """
    if objective == "flow":
        raise ValueError("flow has no noise schedule")
    roots = np.linspace(SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5, STEPS)
    power: npt.NDArray[np.float64] = np.cumprod(1 - roots**2)
    if objective == "v":
        signal = np.sqrt(power)
        power = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
    return power
