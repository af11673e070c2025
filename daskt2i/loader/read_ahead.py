"""Which rows the next batches need, and when they are loaded.

Covers: cutting the stream into stretches that fit into memory, the units of a stretch.
Does not cover: the order of samples (`sample_order`), loading and memory (`upcoming_rows`), batches (`dataset`).

A stretch is a window of the shuffle if the rows of a window fit into memory. Then each shard is decoded once an epoch.
Else it is an equal part of a window, and each shard is decoded once for each part. Stretches never change the samples.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Callable

from daskt2i.loader.memory.mapped_rows import MappedRows
from daskt2i.loader.memory.upcoming_rows import Parts, Unit, UpcomingRows
from daskt2i.loader.sample_order import Sample

Placed = tuple[int, Sample]
"""(stream position, sample)"""


class ReadAhead:
    """The samples of one rank from a stream position on, batch by batch, with their rows requested in time.

    Args:
        rows: loads the rows.
        position: stream position of the first batch.
        batch: samples of a batch over all ranks.
        part: this rank's part of the batch that begins at a stream position.
        window: first position of the window of a position, and the position after its last one.
        room: number of stream positions whose rows fit into memory.
        units_of: (begin of the stretch, samples of the stretch) -> units and their rows, in parts.
        unit_of: (begin of the stretch, sample) -> its unit, and its name in this unit.
        stop: no batch begins at this position or later; None: without end.
    """

    def __init__(
        self,
        rows: UpcomingRows | MappedRows,
        position: int,
        batch: int,
        *,
        part: Callable[[int], list[Placed]],
        window: Callable[[int], tuple[int, int]],
        room: Callable[[], int],
        units_of: Callable[[int, list[Sample]], dict[Unit, Parts]],
        unit_of: Callable[[int, Sample], tuple[Unit, Sample]],
        stop: int | None = None,
    ) -> None:
        self._rows, self._batch = rows, batch
        self._part, self._window, self._room = part, window, room
        self._units_of, self._unit_of = units_of, unit_of
        self._made = self._known = self._end = position
        self._last = sys.maxsize if stop is None else position + -(-(stop - position) // batch) * batch
        self._parts: deque[list[Placed]] = deque()
        self._later: list[Placed] = []  # of batches that begin before the end of a stretch and end behind it
        self._begins: list[int] = []

    def next(self) -> tuple[list[tuple[Unit, Sample]], list[Sample]] | None:
        """This rank's part of the next batch, whose rows are being loaded: unit and name of each, and the samples. None
        after the last batch."""
        if self._made >= self._last:
            return None
        last = self._made + self._batch - 1
        while (not self._begins or self._begins[-1] <= last) and self._end < self._last:
            self._plan()  # until the stretch after this batch is known too
        part = self._parts.popleft()
        found = [self._unit_of(self._begins[bisect_right(self._begins, place) - 1], sample) for place, sample in part]
        self._made += self._batch
        del self._begins[: max(0, bisect_right(self._begins, self._made) - 1)]
        self._rows.require(dict.fromkeys(unit for unit, _ in found))
        return found, [sample for _, sample in part]

    def _plan(self) -> None:
        """Announce the rows of the next stretch."""
        begin = self._end
        left = self._window(begin)[1] - begin
        stretches = -(-left // max(self._room(), self._batch))
        self._end = min(begin + -(-left // stretches), self._last)
        placed, self._later = self._later, []
        while self._known < self._end:
            self._parts.append(self._part(self._known))
            placed += self._parts[-1]
            self._known += self._batch
        end = sys.maxsize if self._end >= self._last else self._end  # the last batch may be larger than the others
        self._later = [one for one in placed if one[0] >= end]
        self._rows.announce(self._units_of(begin, [sample for place, sample in placed if place < end]))
        self._begins.append(begin)
