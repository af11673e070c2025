"""The order of training samples, and the random numbers of each: functions of a seed, an epoch and a row.

Covers: whole shards shuffled, rows shuffled inside a window of them, which caption an epoch takes, random numbers by
counter.
Does not cover: reading anything (`shards`), batches and ranks (`dataset`).
"""

from __future__ import annotations

import enum
import hashlib
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

Whole = npt.NDArray[np.int64]

Sample = tuple[int, int]
"""(epoch, row)"""


class Purpose(enum.IntEnum):
    """What a stream of random numbers is for; part of its counter."""

    SPLIT = 0
    SHARDS = 1
    ROWS = 2
    CAPTION = 3
    SAMPLE = 4
    HELDOUT = 5


def key_of(seed: int) -> int:
    """The key of a seed's random numbers, 128 bits."""
    return int.from_bytes(hashlib.sha256(f"daskt2i latents {seed}".encode()).digest()[:16], "little")


class RandomStreams:
    """Random numbers by counter (Salmon et al. 2011, Philox 4x64), for one thread.

    One generator is moved from counter to counter, which takes a tenth of the 28 microseconds of a new one.
    """

    def __init__(self, key: int) -> None:
        self._bits = np.random.Philox(key=key)
        self._generator = np.random.Generator(self._bits)
        self._state: Any = self._bits.state  # its buffer is empty, so nothing is left over of another counter

    def at(self, purpose: Purpose, epoch: int, row: int) -> np.random.Generator:
        """The numbers of a purpose, epoch and row; what was returned before stands there too."""
        self._state["state"]["counter"][:] = (0, row, epoch, purpose)
        self._bits.state = self._state
        return self._generator

    def slot(self, epoch: int, row: int, captions: int) -> int:
        """Which caption of a row an epoch takes: `captions` epochs go through all of them, in an order of their own."""
        turn, place = divmod(epoch, captions)
        return int(self.at(Purpose.CAPTION, turn, row).permutation(captions)[place])


class ShardSampler:
    """The training rows in the order of each epoch, made window by window: an epoch of many rows takes no memory.

    Args:
        rows: `int64[n]`, ascending.
    """

    def __init__(self, rows: Whole, rows_per_chunk: int, window: int, key: int) -> None:
        self._rows, self._window, self._streams = rows, window, RandomStreams(key)
        # Where each shard begins; one that has no training row is not there.
        self._edges = np.append(np.unique(rows // rows_per_chunk, return_index=True)[1], len(rows))
        self._shards: OrderedDict[int, tuple[Whole, Whole]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], Whole] = OrderedDict()

    def samples(self, position: int, count: int) -> list[Sample]:
        """(epoch, row) of `count` places of the stream."""
        found: list[Sample] = []
        while len(found) < count:
            epoch, place = divmod(position + len(found), len(self._rows))
            ends = self._epoch(epoch)[1]
            number = int(np.searchsorted(ends, place, side="right"))
            left = int(ends[number]) - place
            rows = self._window_rows(epoch, number)
            found += [(epoch, int(row)) for row in rows[len(rows) - left :][: count - len(found)]]
        return found

    def _epoch(self, epoch: int) -> tuple[Whole, Whole]:
        """The order of the shards, and the place in the epoch where each window ends."""
        if epoch not in self._shards:
            order = self._streams.at(Purpose.SHARDS, epoch, 0).permutation(len(self._edges) - 1)
            sizes = np.diff(self._edges)[order]
            ends = np.add.reduceat(sizes, np.arange(0, len(sizes), self._window)).cumsum()
            _remember(self._shards, epoch, (order, ends))
        return self._shards[epoch]

    def _window_rows(self, epoch: int, number: int) -> Whole:
        if (epoch, number) not in self._windows:
            shards = self._epoch(epoch)[0][number * self._window :][: self._window]
            rows = np.concatenate([self._rows[self._edges[s] : self._edges[s + 1]] for s in shards])
            _remember(self._windows, (epoch, number), self._streams.at(Purpose.ROWS, epoch, number).permutation(rows))
        return self._windows[epoch, number]


def _remember(memory: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    memory[key] = value
    while len(memory) > 3:  # reading ahead may stand in the next one already
        memory.popitem(last=False)
