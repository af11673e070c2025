"""The noise schedule of `v` and `epsilon`, as numbers and as the arguments of diffusers' schedulers.

Covers: the betas of Stable Diffusion, their rescaling to zero terminal SNR.
Does not cover: the objectives (`diffusion`), the scheduler that draws (`pipeline`). Flow has no schedule: its times are
continuous.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Objective = Literal["flow", "v", "epsilon"]

STEPS = 1000
"""Number of noise levels in the schedule. Flow's continuous times also run from 0 to this number."""

SCHEDULE: Mapping[str, Any] = {
    "num_train_timesteps": STEPS,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
"""Stable Diffusion's schedule (scheduler/scheduler_config.json of its repositories): sqrt(beta) grows linearly."""


def alphas_cumprod(objective: Objective) -> npt.NDArray[np.float64]:
    """Power of the signal at each step, `float64[1000]`, decreasing.

    For `v` it is rescaled so that the last step has no signal: `sqrt(power)` is shifted and stretched, and keeps its
    first value (arXiv:2305.08891, algorithm 1). Sampling starts from pure noise, so training must include it.

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
