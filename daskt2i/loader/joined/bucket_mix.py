"""The order of samples where each batch has rows of one bucket.

Covers: which bucket a batch has, and which rows of it.
Does not cover: the order of the rows of a bucket (`loader.sample_order`), reading them (`joined_reader`).

Each bucket has a stream of its own, in which each row comes once an epoch. A batch is the next part of one of these
streams, so all batches are full. In round r bucket b with n rows gives floor((r + 1) n / batch) - floor(r n / batch)
batches; after r rounds no row of a bucket is a whole batch ahead of, or behind, r epochs. The batches of a round come
in random order. The position is that of all samples, as with one bucket, and any number of ranks draws the same ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from daskt2i.loader.sample_order import Purpose, RandomStreams, Sample, ShardSampler, Whole

_WINDOWS = 4
"""Rows are requested for so many windows of the shuffle at once, if there is memory for them. Windows of the buckets
end at different positions, so a shard would be decoded twice in most windows if only one was requested."""

_KEPT = 3
"""Rounds whose order is kept in memory: reading ahead may need the next one."""


def order_of(
    buckets: Sequence[Whole], rows_per_chunk: int, window: int, key: int, batch: int, shuffle: bool = True
) -> ShardSampler | BucketMix:
    """The order of samples: a mix only if there are several buckets. See `BucketMix`."""
    if len(buckets) == 1:
        return ShardSampler(buckets[0], rows_per_chunk, window, key, shuffle)
    return BucketMix(buckets, rows_per_chunk, window, key, batch, shuffle)


class BucketMix:
    """The order over several buckets. It has the methods of a `ShardSampler`.

    Args:
        buckets: rows of each bucket, `int64[n]`, ascending.
        rows_per_chunk: rows of a shard.
        window: number of shards whose rows are shuffled together, over all buckets; at least one of each.
        key: key of the random numbers.
        batch: samples of a batch over all ranks.
        shuffle: False takes the rows of a bucket as they are stored, and the buckets of a round in turn.
    """

    def __init__(
        self, buckets: Sequence[Whole], rows_per_chunk: int, window: int, key: int, batch: int, shuffle: bool = True
    ) -> None:
        self._sizes = np.array([len(rows) for rows in buckets], np.int64)
        self._batch, self._shuffle, self._streams = batch, shuffle, RandomStreams(key)
        rows = int(self._sizes.sum())
        self._samplers = [
            ShardSampler(one, rows_per_chunk, max(1, -(-window * len(one) // rows)), key, shuffle) for one in buckets
        ]
        self._span = max(1, _WINDOWS * window * rows_per_chunk // batch)  # batches
        self._rounds: OrderedDict[int, tuple[Whole, Whole]] = OrderedDict()

    def samples(self, position: int, count: int) -> list[Sample]:
        """(epoch, row) of the samples of the batch that begins at a position. The epoch is that of its bucket.

        Args:
            count: samples of a batch.
        """
        number, rest = divmod(position, self._batch)
        assert rest == 0
        assert count == self._batch
        round_ = self.round_of(number)
        order, places = self._order(round_)
        bucket = int(order[number - self.begin(round_)])
        done = round_ * int(self._sizes[bucket]) // self._batch
        first = (done + int(places[number - self.begin(round_)])) * self._batch
        return self._samplers[bucket].samples(first, count)

    def window(self, position: int) -> tuple[int, int]:
        """The stream positions between which rows are requested together: a part of a round."""
        number = position // self._batch
        round_ = self.round_of(number)
        begin, end = self.begin(round_), self.begin(round_ + 1)
        first = begin + (number - begin) // self._span * self._span
        return first * self._batch, min(first + self._span, end) * self._batch

    def windows(self, epoch: int) -> list[tuple[int, int]]:
        """First position in the round of each window of the shuffle, and the position after its last one."""
        count = self.begin(epoch + 1) - self.begin(epoch)
        edges = [*range(0, max(count, 1), max(1, self._span // _WINDOWS)), count]
        return [(first * self._batch, last * self._batch) for first, last in pairwise(edges)]

    def begin(self, round_: int) -> int:
        """Number of the first batch of a round."""
        return int((round_ * self._sizes // self._batch).sum())

    def round_of(self, number: int) -> int:
        """The round of a batch."""
        found = number * self._batch // int(self._sizes.sum())
        while self.begin(found + 1) <= number:
            found += 1
        return found

    def _order(self, round_: int) -> tuple[Whole, Whole]:
        """The bucket of each batch of a round, and how many batches of the round had this bucket before."""
        if round_ not in self._rounds:
            counts = (round_ + 1) * self._sizes // self._batch - round_ * self._sizes // self._batch
            order = np.repeat(np.arange(len(counts)), counts)
            if self._shuffle:
                order = self._streams.at(Purpose.BUCKETS, round_, 0).permutation(order)
            places = np.empty(len(order), np.int64)
            for bucket in np.flatnonzero(counts):
                places[order == bucket] = np.arange(counts[bucket])
            self._rounds[round_] = (order, places)
            while len(self._rounds) > _KEPT:
                self._rounds.popitem(last=False)
        return self._rounds[round_]
