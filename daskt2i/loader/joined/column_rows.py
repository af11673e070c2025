"""Reads an array of a column by the rows of the store that it belongs to.

Covers: shards of a column, which may have another number of rows than those of the store.
Does not cover: decoding (`forms.decoded`), which columns there are (`store.columns.arrays`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.loader.forms.decoded import array_of
from daskt2i.store.columns.arrays import ColumnArray
from daskt2i.store.forms.made_rows import stored_forms


class ColumnRows:
    """What `ShardedArray` is for an array of the store.

    Args:
        column: the array.
    """

    def __init__(self, column: ColumnArray) -> None:
        self._column = column
        self._array = array_of(column.store, column.name, stored_forms(column.store))

    def blocks(self, start: int, stop: int, rows: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """(first row, values) of each inner chunk that holds one of these rows. See `ShardedArray.blocks`.

        Raises:
            StoreError: a shard of the column is damaged.
        """
        size = self._column.rows_per_chunk
        for first in range(start // size * size, stop, size):
            low, high = np.searchsorted(rows, (first, first + size)).tolist()
            if low < high:
                yield from self._array.blocks(first, min(first + size, self._column.rows), rows[low:high])
