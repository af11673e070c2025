"""Rows of a source under other numbers.

Covers: reading rows by a list of numbers, the number that a row has in its source.
Does not cover: which rows there are, and in which order (`selection`, `bucketed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from daskt2i.protocols import Source
from daskt2i.types import Row


def rows_at(source: Source, numbers: npt.NDArray[np.int64]) -> Iterator[Row]:
    """The rows of a source with these numbers, in this order.

    One call for each run of neighbours, because a source may give a range faster than single rows.
    """
    for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1) if len(numbers) else []:
        yield from source.rows(int(run[0]), int(run[-1]) + 1)


def renumbered(rows: Iterable[Row], numbers: Sequence[int]) -> list[Row]:
    """Rows with new numbers. `origin` is the number in the source that workers read."""
    return [
        replace(row, index=number, origin=row.index if row.origin is None else row.origin)
        for row, number in zip(rows, numbers, strict=True)
    ]


def original(row: Row) -> Row:
    """The row with its number in the source that workers read."""
    return row if row.origin is None else replace(row, index=row.origin)
