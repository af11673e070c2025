"""Memory that a rank of a training needs, as far as it is known before the start.

Covers: Python with its packages, decoded shards, weights with their optimiser and average.
Does not cover: activations, which depend on the batch; what a rank really uses (`launch.vitals.usage`).
"""

from __future__ import annotations

from daskt2i.config.settings import DatasetSettings, LaunchSettings, OptimiserSettings, TrainSettings
from daskt2i.loader.forms.caption_states import AT_TRAINING, BATCH
from daskt2i.model.denoisers.kinds import kind_of
from daskt2i.protocols import TextEncoder

RANK_BYTES = 1 << 30
"""Memory of a rank without its model: Python, torch, diffusers, and decoded shards up to `CACHE_BYTES`."""

CACHE_BYTES = 512 << 20
"""The part of it for decoded shards; default of `launch.cache`."""

STATE_BYTES = 20
"""Bytes for each parameter in training: weight, gradient, two moments of Adam, moving average, all in fp32."""


def encoder_bytes(dataset: DatasetSettings) -> int:
    """Bytes of the text encoder in each rank, for a store that holds captions alone; else 0.

    Raises:
        ModelMissing, ModelError, ConfigError: there is no such encoder here.
    """
    if dataset.store.text != AT_TRAINING:
        return 0
    encoder: TextEncoder = dataset.encoders.text.build(TextEncoder, "dataset.encoders.text")
    info = encoder.info()
    return info.weight_bytes + BATCH * info.item_bytes


def average_bytes(settings: OptimiserSettings | None) -> int:
    """Bytes of the further averages (`emas`) for each trained parameter, in fp32."""
    return 0 if settings is None else 4 * len(settings.further_emas())


def rank_bytes(
    settings: OptimiserSettings | None,
    launch: LaunchSettings,
    encoder: int = 0,
    parameters: int = 0,
    ranks: int = 0,
) -> int:
    """Bytes that one rank needs at least.

    Args:
        settings: of what is trained. The size of a model is known if it is a preset of the denoiser.
        encoder: of `encoder_bytes`.
        parameters: of a model without a preset (`model_size`); 0 if it is not known.
        ranks: their number, if it is known. With `launch.sharding: full` each holds its part of weights and state.
    """
    model = settings.model if isinstance(settings, TrainSettings) else None
    count = 0 if model is None else kind_of(model).presets.get(model.preset or "", parameters)
    state = count * (STATE_BYTES + average_bytes(settings)) // (ranks if launch.is_sharded(ranks) else 1)
    return RANK_BYTES + encoder + state + max(0, launch.cache_bytes() - CACHE_BYTES)
