"""The samplers: the one list of their names.

Covers: the names, as a type and as values.
Does not cover: what each one computes (`model.pipeline`), the setting (`settings`).
"""

from __future__ import annotations

from typing import Literal, get_args

Sampler = Literal["dpm++", "ddim", "euler"]

SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)

SAMPLERS_TEXT = f"{', '.join(SAMPLERS[:-1])} or {SAMPLERS[-1]}"
"""The names for a person."""
