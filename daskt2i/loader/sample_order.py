"""The order of training samples, and the random numbers of each sample. Both depend only on seed, epoch and row.

Covers: shuffling whole shards, shuffling rows inside a window of shards, the caption of each epoch, random bits by
counter.
Does not cover: noise and times (`random_numbers`), reading shards (`shards`), batches and ranks (`dataset`).
"""

from __future__ import annotations

import enum
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Whole = npt.NDArray[np.int64]

Sample = tuple[int, int]
"""(epoch, row)"""

Weights = Sequence[float]
"""How often each caption slot is drawn, relative to the others."""

_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio."""

_BLOCK = 4
"""Words that Philox makes for one value of its counter."""


class Purpose(enum.IntEnum):
    """The purpose of a stream of random numbers. It is part of the counter."""

    SPLIT = 0
    SHARDS = 1
    ROWS = 2
    CAPTION = 3
    SAMPLE = 4
    HELDOUT = 5
    MIRROR = 6
    BUCKETS = 7


def key_of(seed: int) -> int:
    """The key of the random numbers of a seed, 128 bits."""
    return int.from_bytes(hashlib.sha256(f"daskt2i latents {seed}".encode()).digest()[:16], "little")


class RandomStreams:
    """Random numbers by counter (Salmon et al. 2011, Philox 4x64), for one thread.

    One generator is set to each new counter. This takes a tenth of the 28 microseconds of a new generator.
    """

    def __init__(self, key: int) -> None:
        self._bits = np.random.Philox(key=key)
        self._generator = np.random.Generator(self._bits)
        self._memory = np.empty(0, np.uint64)
        self._state: Any = self._bits.state  # its buffer is empty, so it keeps no numbers of another counter

    def at(self, purpose: Purpose, epoch: int, row: int) -> np.random.Generator:
        """The generator for a purpose, epoch and row. It is always the same object: use it before the next call."""
        self._state["state"]["counter"][:] = (0, row, epoch, purpose)
        self._bits.state = self._state
        return self._generator

    def bits(self, purpose: Purpose, epoch: int, row: int, words: int, first: int = 0) -> npt.NDArray[np.uint64]:
        """Random bits for a purpose, epoch and row, `uint64[words]`, from word `first` on."""
        block, rest = divmod(first, _BLOCK)
        self._state["state"]["counter"][:] = (block, row, epoch, purpose)
        self._bits.state = self._state
        return self._bits.random_raw(rest + words)[rest:]

    def memory(self, count: int, words: int) -> npt.NDArray[np.uint64]:
        """Memory of this thread, `uint64[count, words]`, that is used again."""
        if len(self._memory) < count * words:
            self._memory = np.empty(count * words, np.uint64)
        return self._memory[: count * words].reshape(count, words)

    def mirrored(self, epoch: int, row: int) -> bool:
        """Whether an epoch takes the mirrored latent of a row, if there is one. Half of them are."""
        return bool(self.bits(Purpose.MIRROR, epoch, row, 1)[0] & np.uint64(1))

    def slot(self, epoch: int, row: int, captions: int, weights: Weights | None = None) -> int:
        """Index of the caption that an epoch takes of a row.

        Args:
            captions: of the row.
            weights: how often each slot is drawn; the first `captions` of them count, and one of these is more than 0.
                None: `captions` epochs take each one once, in random order.
        """
        if captions == 1:
            return 0
        if weights is not None:
            return self._weighted(epoch, row, np.cumsum(weights[:captions]))
        turn, place = divmod(epoch, captions)
        return int(self.at(Purpose.CAPTION, turn, row).permutation(captions)[place])

    def _weighted(self, epoch: int, row: int, sums: npt.NDArray[np.float64]) -> int:
        """A slot of a row: each has a part of [0, 1) as long as its share, and an epoch is a point in it.

        The points of a row begin at a random one, and each is the golden ratio further (Weyl). So after n epochs a slot
        came as often as its share says, but for about one; independent draws would differ by the root of n.
        """
        start = int(self.bits(Purpose.CAPTION, 0, row, 1)[0])
        point = ((start + epoch * _GOLDEN) % 2**64 >> 11) * 2.0**-53
        return int(np.searchsorted(sums / sums[-1], point, side="right"))


class ShardSampler:
    """The training rows in the order of each epoch. It makes one window at a time, so a long epoch takes no memory.

    Args:
        rows: training rows, `int64[n]`, ascending.
        rows_per_chunk: rows of a shard.
        window: number of shards whose rows are shuffled together.
        key: key of the random numbers.
        shuffle: False takes the rows as they are stored.
    """

    def __init__(self, rows: Whole, rows_per_chunk: int, window: int, key: int, shuffle: bool = True) -> None:
        self._rows, self._window, self._shuffle = rows, window, shuffle
        self._streams = RandomStreams(key)
        # Index of the first row of each shard. A shard without training rows is left out.
        self._edges = np.append(np.unique(rows // rows_per_chunk, return_index=True)[1], len(rows))
        self._shards: OrderedDict[int, tuple[Whole, Whole]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], Whole] = OrderedDict()

    def samples(self, position: int, count: int) -> list[Sample]:
        """(epoch, row) of `count` samples of the stream from a position on."""
        found: list[Sample] = []
        while len(found) < count:
            epoch, place = divmod(position + len(found), len(self._rows))
            ends = self._epoch(epoch)[1]
            number = int(np.searchsorted(ends, place, side="right"))
            left = int(ends[number]) - place
            rows = self._window_rows(epoch, number)
            found += [(epoch, int(row)) for row in rows[len(rows) - left :][: count - len(found)]]
        return found

    def window(self, position: int) -> tuple[int, int]:
        """The stream positions at which the window of a position begins and ends."""
        epoch, place = divmod(position, len(self._rows))
        ends = self._epoch(epoch)[1]
        number = int(np.searchsorted(ends, place, side="right"))
        first = epoch * len(self._rows)
        return first + (int(ends[number - 1]) if number else 0), first + int(ends[number])

    def windows(self, epoch: int) -> list[tuple[int, int]]:
        """First position in the epoch of each of its windows, and the position after its last one."""
        ends = [0, *(int(end) for end in self._epoch(epoch)[1])]
        return list(pairwise(ends))

    def _epoch(self, epoch: int) -> tuple[Whole, Whole]:
        """The order of the shards, and the position in the epoch at which each window ends."""
        if epoch not in self._shards:
            order = np.arange(len(self._edges) - 1)
            if self._shuffle:
                order = self._streams.at(Purpose.SHARDS, epoch, 0).permutation(order)
            sizes = np.diff(self._edges)[order]
            ends = np.add.reduceat(sizes, np.arange(0, len(sizes), self._window)).cumsum()
            _remember(self._shards, epoch, (order, ends))
        return self._shards[epoch]

    def _window_rows(self, epoch: int, number: int) -> Whole:
        if (epoch, number) not in self._windows:
            shards = self._epoch(epoch)[0][number * self._window :][: self._window]
            rows = np.concatenate([self._rows[self._edges[s] : self._edges[s + 1]] for s in shards])
            if self._shuffle:
                rows = self._streams.at(Purpose.ROWS, epoch, number).permutation(rows)
            _remember(self._windows, (epoch, number), rows)
        return self._windows[epoch, number]


def _remember(memory: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    memory[key] = value
    while len(memory) > 3:  # reading ahead may already need the next one
        memory.popitem(last=False)
