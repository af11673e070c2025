"""Where the text states of rows come from: padded arrays of the store, or packed ones.

Covers: filling the tokens of rows whose captions are chosen.
Does not cover: choosing captions (`loader.shards`), how states are packed (`store.forms.packed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from daskt2i.loader.forms.decoded import array_of
from daskt2i.loader.inner_chunks import ShardedArray
from daskt2i.loader.memory.loaded_rows import LoadedRows
from daskt2i.store.forms.form import STATES, Form, Forms
from daskt2i.store.forms.packed import lengths_of, places_of
from daskt2i.store.zarr_store import ZarrStore


class Texts(Protocol):
    """Fills the tokens of rows."""

    def fill(self, made: Sequence[LoadedRows], start: int, stop: int, rows: Sequence[int], offset: int = 0) -> None:
        """Fill `LoadedRows.tokens` of rows of one shard.

        Args:
            start, stop: first row of the shard, and the row after its last one.
            rows: all rows of `made`, ascending, with their numbers in the store.
            offset: the rows of `made` have numbers that are so much larger.

        Raises:
            StoreError: the shard is damaged.
        """


def texts_of(store: ZarrStore, forms: Forms) -> Texts:
    """The texts of a store."""
    form = forms.get(STATES)
    return PackedTexts(store, form, forms) if form is not None and form.packed else PaddedTexts(store, forms)


class PaddedTexts:
    """Text states with padding, `[row, slot, token, feature]`."""

    def __init__(self, store: ZarrStore, forms: Forms) -> None:
        self._states = array_of(store, STATES, forms)

    def fill(self, made: Sequence[LoadedRows], start: int, stop: int, rows: Sequence[int], offset: int = 0) -> None:
        """See `Texts.fill`."""
        for first, block in self._states.blocks(start, stop, rows):
            for one in made:
                one.fill_tokens(block, first + offset)


class PackedTexts:
    """Text states without padding, of which each block holds tokens of many rows."""

    def __init__(self, store: ZarrStore, form: Form, forms: Forms) -> None:
        self._form = form
        self._packed = array_of(store, STATES, forms)
        self._begin = ShardedArray(store, form.begin)

    def fill(self, made: Sequence[LoadedRows], start: int, stop: int, rows: Sequence[int], offset: int = 0) -> None:
        """See `Texts.fill`."""
        slots, tokens, _ = self._form.made.shape
        room = slots * tokens
        begin = np.zeros((stop - start, slots), np.int64)
        for first, block in self._begin.blocks(start, stop, rows):
            begin[first - start : first - start + len(block)] = block
        moves = [self._moves(one, begin, start + offset) for one in made]
        wanted = np.unique(np.concatenate([sources // room for sources, _ in moves])) + start
        for one in made:
            one.tokens[:] = 0  # the loaded rows have a few tokens of padding
        for first, block in self._packed.blocks(start, stop, wanted.tolist()):
            low = (first - start) * room
            flat = block.reshape(-1, block.shape[-1])
            for one, (sources, targets) in zip(made, moves, strict=True):
                here = (sources >= low) & (sources < low + len(flat))
                one.tokens[targets[here]] = flat[sources[here] - low]

    def _moves(
        self, one: LoadedRows, begin: npt.NDArray[np.int64], start: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Where each token is in the packed array, and where it goes."""
        places = np.array([row - start for _, row in one.samples])
        chosen = begin[places] if one.slots is None else begin[places, one.slots][:, None]
        lengths = np.minimum(lengths_of(one.mask, self._form.whole), one.lengths)
        return places_of(chosen.ravel(), lengths.ravel()), places_of(one.begins.ravel(), lengths.ravel())
