"""Finds rows whose image id an earlier row has. No two good rows of a source share an id.

Covers: any number of rows in bounded memory; parts whose ids cannot meet are not read.
Does not cover: what becomes of such rows (`build`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from daskt2i.sources.index.lines import Part

MOST = 4_000_000
"""Ids that are compared at once: 64 MB with their row numbers. More ids are compared in several passes."""

_MIX = np.uint64(0x9E3779B97F4A7C15)
"""An odd factor (2**64 / golden ratio): it spreads neighbours evenly over the passes."""

Ids = npt.NDArray[np.int64]


def repeated(parts: Sequence[int], ids: Callable[[int], Ids]) -> dict[int, Ids]:
    """Part -> the places of its rows whose id an earlier row has, ascending.

    Args:
        parts: number of rows of each part.
        ids: gives the ids of a part. It is called once for each part in each pass.
    """
    if not parts:
        return {}
    starts = np.cumsum([0, *parts], dtype=np.int64)
    passes = max(1, -(-int(starts[-1]) // MOST))
    found: list[Ids] = []
    for number in range(passes):
        some, rows = list[Ids](), list[Ids]()
        for part, start in enumerate(starts[:-1]):
            all_ids = ids(part)
            turn = (all_ids.view(np.uint64) * _MIX >> np.uint64(32)) % np.uint64(passes)
            places = np.flatnonzero(turn == number)
            some.append(all_ids[places])
            rows.append(places + start)
        joined, row = np.concatenate(some), np.concatenate(rows)
        order = np.argsort(joined, kind="stable")  # stable: of equal ids the first row stays the first
        joined, row = joined[order], row[order]
        found.append(row[1:][joined[1:] == joined[:-1]])
    wrong = np.sort(np.concatenate(found))
    of_part = np.searchsorted(starts, wrong, side="right") - 1
    return {int(part): wrong[of_part == part] - starts[part] for part in np.unique(of_part)}


def may_meet(parts: Iterable[tuple[int, Part]]) -> list[list[int]]:
    """Groups of parts whose ranges of ids overlap. Ids in order, as most data sets have them, give no group."""
    ranged = sorted((part.low, part.high, number) for number, part in parts if None not in (part.low, part.high))
    groups: list[list[int]] = []
    highest: int | None = None
    for low, high, number in ranged:
        if highest is None or low > highest:  # type: ignore[operator]
            groups.append([])
        groups[-1].append(number)
        highest = high if highest is None else max(highest, high)  # type: ignore[type-var]
    return [sorted(group) for group in groups if len(group) > 1]
