"""An array of a store in blocks, as the encoder made it.

Covers: int8 and bfloat16 arrays; the choice between them and an exact one.
Does not cover: packed text (`texts`), the arithmetic (`store.forms.numbers`), decompressing (`loader.inner_chunks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from daskt2i.loader.inner_chunks import ShardedArray
from daskt2i.store.forms.chunks import numbers_of
from daskt2i.store.forms.form import Form, Forms
from daskt2i.store.zarr_store import ZarrStore


class ReadsBlocks(Protocol):
    """What reads an array shard by shard."""

    def blocks(self, start: int, stop: int, rows: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """See `ShardedArray.blocks`."""


def array_of(store: ZarrStore, name: str, forms: Forms) -> ReadsBlocks:
    """An array as the encoder made it. The text states of a packed store stay packed."""
    form = forms.get(name)
    if form is None:
        return ShardedArray(store, name)
    return ShardedArray(store, form.values) if form.number == "exact" else DecodedArray(store, form)


class DecodedArray:
    """An array with another form of its numbers, as the encoder made it."""

    def __init__(self, store: ZarrStore, form: Form) -> None:
        self._form = form
        self._values = ShardedArray(store, form.values)
        self._scale = ShardedArray(store, form.scale) if form.number == "int8" else None

    def blocks(self, start: int, stop: int, rows: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """See `ShardedArray.blocks`. Only the wanted rows of a block are decoded from int8; others may be zeros."""
        scale: npt.NDArray[np.float32] | None = None
        if self._scale is not None:
            for first, block in self._scale.blocks(start, stop, rows):
                if scale is None:
                    scale = np.zeros((stop - start, *block.shape[1:]), np.float32)
                scale[first - start : first - start + len(block)] = block
        for first, block in self._values.blocks(start, stop, rows):
            of_block = None if scale is None else scale[first - start : first - start + len(block)]
            yield first, numbers_of(self._form, block, of_block)
