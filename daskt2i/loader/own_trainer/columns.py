"""What a sample has: names of columns, and the arrays of the store behind them.

Covers: the columns of a store, which of them a sample has by default.
Does not cover: reading (`loader.shards`), tensors (`sample_tensors`).

| column | shape in a batch | |
|---|---|---|
| latents | `float32[b, channel, y, x]` | scaled and shifted for a denoiser |
| text_states, text_mask | `[b, token, feature]`, `bool[b, token]` | of the chosen caption; `[b, slot, ...]` with all |
| image_id | `int64[b]` | |
| any other array of the store or of its columns | `[b, ...]` | as stored; text as a list |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from daskt2i.errors import ConfigError
from daskt2i.loader.sample_order import Weights
from daskt2i.loader.shards import Captions, Wanted
from daskt2i.store.columns.arrays import column_arrays
from daskt2i.store.forms.made_rows import made_layout
from daskt2i.store.zarr_store import ZarrStore

LATENTS, TEXT, TEXT_MASK = "latents", "text_states", "text_mask"

ALWAYS = ("row", "caption_index", "position")
"""Keys that every sample or batch has, so a column cannot have their names."""

_BEHIND = ("latent_mean", "latent_std", TEXT_MASK, "valid")
"""Arrays that a column stands for, or that say nothing of an accepted row."""


def wanted_columns(store: ZarrStore, asked: Sequence[str] | None, captions: Captions) -> tuple[str, ...]:
    """The columns of a sample.

    Args:
        store: the store.
        asked: names that the caller gave; None for latents, text and `image_id`.

    Raises:
        ConfigError: there is no such column.
    """
    arrays = made_layout(store)["arrays"]
    text = [TEXT] if TEXT in arrays else []  # a store may have captions alone
    there = [LATENTS, *text, *(name for name in arrays if name not in (*_BEHIND, TEXT, *ALWAYS))]
    if asked is None:
        return (LATENTS, *text, *(name for name in ("image_id",) if name in there))
    there += [name for name in column_arrays(store.folder) if name not in there]
    names = [asked] if isinstance(asked, str) else list(asked)
    if missing := [name for name in names if name not in (*there, *([TEXT_MASK] if text else []))]:
        raise ConfigError(
            f"There is no column {missing[0]!r} in this store. Nothing was read; choose from {', '.join(there)}."
        )
    if not names:
        raise ConfigError(f"columns is empty, so a sample has nothing. Choose from {', '.join(there)}.")
    return tuple(dict.fromkeys(names))


def wanted_of(columns: Iterable[str], captions: Captions, weights: Weights | None = None) -> Wanted:
    """What a reader reads for these columns."""
    extra = tuple(name for name in columns if name not in (LATENTS, TEXT, TEXT_MASK))
    return Wanted(LATENTS in columns, TEXT in columns, captions, extra, weights=weights)
