"""The text encoder of a rank, for a store that holds captions alone.

Covers: whether a store needs it, where and how it runs, the file of states on this machine.
Does not cover: encoding (`loader.forms.caption_states`), models that are missing here (`rank_needs`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dask.utils import parse_bytes

from daskt2i.config.component import Component
from daskt2i.encoders.finding.model_copies import cache_folder
from daskt2i.launch import rank as ranks
from daskt2i.loader.forms.caption_states import CaptionStates, encodes_at_training, file_of
from daskt2i.loader.forms.state_file import StateFile
from daskt2i.protocols import TextEncoder
from daskt2i.store.layout import about_store
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.upkeep.shard_copies import AUTO, auto_limit
from daskt2i.types import Runtime


def needs_encoder(folder: RunFolder) -> bool:
    """Whether the ranks of a training encode captions."""
    about = about_store(ZarrStore(folder))
    return about is not None and encodes_at_training(about)


def caption_encoder(
    folder: RunFolder,
    text: Mapping[str, Any],
    limit: str,
    device: Callable[[], str],
    tell: Callable[[str], object],
) -> CaptionStates | None:
    """The encoder of this rank, not loaded yet; None for a store that holds text states.

    Args:
        text: the component of the text encoder.
        limit: of the file of states: a size, or `auto`.
        device: device of the rank, when the first caption is drawn.
        tell: gets a sentence if states cannot be kept.

    Raises:
        ModelMissing, ModelError, ConfigError: there is no such encoder here.
    """
    about = about_store(ZarrStore(folder))
    if about is None or not encodes_at_training(about):
        return None
    encoder = Component.model_validate(text).build(TextEncoder, "dataset.encoders.text")
    stored = about["identity"]["precision"]

    def runtime() -> Runtime:
        place = device()
        return Runtime(place, "fp32" if place == "cpu" and stored == "fp16" else stored, ranks.rank().threads)

    models = cache_folder()
    place = models.with_name(models.name.replace("models", "captions"))
    size = auto_limit(place) if limit == AUTO else int(parse_bytes(limit))
    kept = StateFile(place / file_of(about), size, tell) if size else None
    return CaptionStates(encoder, about, runtime, kept)
