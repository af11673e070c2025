"""How often each caption slot of a row is drawn: `train.caption_weights`, and that of `torch_dataset`.

Covers: refusing weights that do not fit a store, and rows that they leave without a caption.
Does not cover: the draw itself (`sample_order`).

The captions of a row are in its first slots. A row with fewer captions than slots uses the weights of its own, so their
sum is 1 there too. A weight of 0 leaves a slot out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from daskt2i.errors import ConfigError
from daskt2i.formatting import many
from daskt2i.loader.joined.joined_reader import open_reader
from daskt2i.loader.sample_order import Whole
from daskt2i.loader.shards import Wanted
from daskt2i.store.run_folder import RunFolder

_COUNTS = Wanted(latents=False, text=False, captions="all")
"""The masks alone: they say how many captions a row has."""


def check_weights(weights: Sequence[float], slots: int, name: str) -> None:
    """Refuse weights that do not fit the slots of a store.

    Args:
        weights: of the slots.
        slots: of the store.
        name: of the setting, for the message.

    Raises:
        ConfigError: there are more or fewer weights than slots, one is negative or not finite, or all are zero.
    """
    shown = ", ".join(f"{weight:g}" for weight in weights)
    if len(weights) != slots:
        raise ConfigError(
            f"{name} has {many(len(weights), 'weight')} ({shown}), but a row of the store has {many(slots, 'slot')} "
            f"for captions. Nothing was changed; give {many(slots, 'weight')}, or none, which draws all equally."
        )
    if not all(0 <= weight < np.inf for weight in weights) or not any(weights):
        raise ConfigError(
            f"{name} is {shown}, but a weight is a number from 0 on, and one of them must be more than 0. Nothing was "
            "changed; give such weights, or none, which draws all captions equally."
        )


def require_captions(folder: RunFolder, rows: Whole, weights: Sequence[float], name: str) -> None:
    """Refuse weights that leave rows without a caption. It reads the masks of the rows only if slot 0 is left out.

    Args:
        folder: the run folder.
        rows: rows that are read, ascending.
        weights: of the slots, which fit the store.
        name: of the setting, for the message.

    Raises:
        ConfigError: rows have captions in slots of weight 0 alone.
        StoreError: a shard is damaged.
    """
    left_out = int(np.flatnonzero(np.asarray(weights))[0])
    if not left_out:
        return
    reader = open_reader(folder, 0, sample=False, wanted=_COUNTS)
    try:
        chunks = np.flatnonzero(np.diff(rows // reader.grid.rows_per_chunk)) + 1
        parts = ([(-1, row) for row in part.tolist()] for part in np.split(rows, chunks))
        lacking = sum(int((reader.read([part])[0].captions <= left_out).sum()) for part in parts)
    finally:
        reader.close()
    if lacking:
        what = "has no caption" if lacking == 1 else "have no captions"
        raise ConfigError(
            f"{name} leaves out the first {many(left_out, 'slot')}, and {many(lacking, 'row')} of {len(rows):,} {what} "
            f"in later ones. Nothing was changed; give slot 0 a weight, or leave these rows out (where: captions > "
            f"{left_out})."
        )
