"""The learning rate of each step: a warm-up, and then a cosine, a constant rate, or a constant rate with a decay.

Covers: the rate by step, and the settings that decide it.
Does not cover: changes of these settings when a training continues (`resume`).

`wsd` is warmup-stable-decay (arXiv:2404.06395). Its decay may be linear or `1 - sqrt` (arXiv:2405.18392, which measured
the second as the better one, with a decay of 20 % of the steps as good as a cosine).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from daskt2i.config.settings import OptimiserSettings

RATE_SETTINGS = ("steps", "learning_rate", "warmup", "final_rate", "schedule", "decay", "decay_shape")
"""Settings of `train:` and `vae:` that decide the rate by step."""

_DEFAULTS = {"schedule": "cosine", "decay": 0.2, "decay_shape": "sqrt"}
"""Of settings that an identity of another trainer may lack."""


def rate(settings: OptimiserSettings, step: int) -> float:
    """Learning rate of a step (from 0)."""
    return rate_of({name: getattr(settings, name) for name in RATE_SETTINGS}, step)


def rate_of(given: Mapping[str, Any], step: int) -> float:
    """The same for settings by name. The three newest of `RATE_SETTINGS` may be missing.

    After the warm-up the rate is the peak times a factor from 1 to `final_rate`.
    """
    wanted = {**_DEFAULTS, **given}
    peak, warmup, low, steps = (wanted[name] for name in ("learning_rate", "warmup", "final_rate", "steps"))
    if step < warmup:
        return float(peak * (step + 1) / warmup)
    if wanted["schedule"] == "constant":
        return float(peak)
    if wanted["schedule"] == "wsd":
        begin = max(warmup, steps - round(wanted["decay"] * steps))
        done = min(1.0, max(0.0, (step - begin) / max(1, steps - begin)))
        left = 1 - (math.sqrt(done) if wanted["decay_shape"] == "sqrt" else done)
        return float(peak * (low + (1 - low) * left))
    done = (step - warmup) / max(1, steps - warmup)
    return float(peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))))
