"""Memory that a rank of a training needs, as far as it is known before the start.

Covers: Python with its packages, decoded shards, weights with their optimiser and average.
Does not cover: activations, which depend on the batch; what a rank really uses (`launch.vitals.usage`).
"""

from __future__ import annotations

from daskt2i.config.settings import LaunchSettings, OptimiserSettings, TrainSettings
from daskt2i.model.denoiser import PARAMETERS

RANK_BYTES = 1 << 30
"""Memory of a rank without its model: Python, torch, diffusers, and decoded shards up to `CACHE_BYTES`."""

CACHE_BYTES = 512 << 20
"""The part of it for decoded shards; default of `launch.cache`."""

STATE_BYTES = 20
"""Bytes for each parameter in training: weight, gradient, two moments of Adam, moving average, all in fp32."""


def rank_bytes(settings: OptimiserSettings | None, launch: LaunchSettings) -> int:
    """Bytes that one rank needs at least.

    Args:
        settings: of what is trained. The size of a model is known if it is a preset of the denoiser.
    """
    preset = settings.model.preset if isinstance(settings, TrainSettings) else None
    state = STATE_BYTES * PARAMETERS.get(preset or "", 0)
    return RANK_BYTES + state + max(0, launch.cache_bytes() - CACHE_BYTES)
