"""The batches of one epoch for one rank and one worker process of a DataLoader.

Covers: the end of an epoch, also with buckets; sharing batches among worker processes.
Does not cover: the tensors (`sample_tensors`), reading and memory (`loader.row_stream`), whose epoch it is
(`torch_dataset`).

All ranks together take the same samples in the same steps, whatever their number is, if the batch of all of them is the
same. Worker processes of a rank take its batches in turn, as a DataLoader asks them for batches in turn.

In an epoch each row comes once. Its last batch is smaller, and the ranks share it as equally as they can. If fewer rows
than ranks are left, the batch before takes them too: so each rank has the same number of batches, and none is empty.

With buckets an epoch is a round of the mix (`joined.bucket_mix`): all of its batches are whole, and rows of a bucket
that do not fill a batch come in a later round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from daskt2i.loader.joined.bucket_mix import BucketMix
from daskt2i.loader.joined.joined_reader import AnyReader
from daskt2i.loader.memory.mapped_rows import MappedRows
from daskt2i.loader.own_trainer.sample_tensors import SampleTensors, Tensors
from daskt2i.loader.read_ahead import Placed
from daskt2i.loader.row_stream import RowStream
from daskt2i.loader.sample_order import ShardSampler, Whole


@dataclass(frozen=True, slots=True)
class Steps:
    """Where the batches of an epoch begin and end.

    Attributes:
        rows: rows of an epoch.
        batch: samples of a batch over all ranks.
        world: number of ranks.
        drop_last: whether the rows after the last whole batch are left out.
    """

    rows: int
    batch: int
    world: int
    drop_last: bool

    def left(self, position: int) -> int:
        """Rows of the epoch from a stream position on."""
        return self.rows - position % self.rows

    def count(self, position: int) -> int:
        """Number of batches from a position to the end of its epoch."""
        whole, rest = divmod(self.left(position), self.batch)
        return whole + (rest >= self.world and not self.drop_last)

    def size(self, position: int) -> int:
        """Samples of the batch that begins at a position."""
        left = self.left(position)
        if left < self.batch:
            return left
        rest = left - self.batch
        return left if rest < self.world and not self.drop_last else self.batch

    def after(self, position: int) -> int:
        """The position after the batch that begins at a position. After the last one it is the next epoch."""
        following = position + self.size(position)
        if following % self.rows and self.count(following) == 0:
            return self.next_epoch(position)
        return following

    def next_epoch(self, position: int) -> int:
        """First position of the epoch after that of a position."""
        return position + self.left(position)

    def epoch(self, position: int) -> int:
        """The epoch of a position."""
        return position // self.rows

    def begin(self, epoch: int) -> int:
        """First position of an epoch."""
        return epoch * self.rows


@dataclass(frozen=True, slots=True)
class MixSteps:
    """Where the batches of a round of several buckets begin and end. It has the methods of `Steps`.

    Attributes:
        mix: the order of the buckets.
        rows: rows of all buckets.
        batch: samples of a batch over all ranks.
        world: number of ranks.
    """

    mix: BucketMix
    rows: int
    batch: int
    world: int

    def left(self, position: int) -> int:
        """Samples of the round from a stream position on."""
        return self.begin(self.epoch(position) + 1) - position

    def count(self, position: int) -> int:
        """Number of batches from a position to the end of its round."""
        return self.left(position) // self.batch

    def size(self, position: int) -> int:
        """Samples of any batch."""
        return self.batch

    def after(self, position: int) -> int:
        """The position after the batch that begins at a position."""
        return position + self.batch

    def next_epoch(self, position: int) -> int:
        """First position of the round after that of a position."""
        return position + self.left(position)

    def epoch(self, position: int) -> int:
        """The round of a position."""
        return self.mix.round_of(position // self.batch)

    def begin(self, epoch: int) -> int:
        """First position of a round."""
        return self.mix.begin(epoch) * self.batch


class EpochStream(RowStream[Tensors]):
    """The batches of a worker process.

    Args:
        reader, rows, order, arrays, rank: as in `RowStream`.
        steps: where batches begin and end.
        worker, workers: number of this worker process, number of all worker processes of the rank.
        cache_bytes, threads, mapped: as in `RowStream`, for this process.
    """

    def __init__(
        self,
        reader: AnyReader,
        rows: Whole,
        order: ShardSampler | BucketMix,
        arrays: SampleTensors,
        *,
        steps: Steps | MixSteps,
        rank: int,
        worker: int,
        workers: int,
        cache_bytes: int,
        threads: int,
        mapped: MappedRows | None,
    ) -> None:
        batch, world = steps.batch * workers, steps.world
        how: dict[str, Any] = {"cache_bytes": cache_bytes, "threads": threads, "mapped": mapped}
        super().__init__(reader, rows, order, arrays, batch=batch, rank=rank, world=world, **how)
        self._steps, self._worker, self._workers = steps, worker, workers

    def epoch(self, position: int) -> Iterator[tuple[int, Tensors]]:
        """The batches of this process from a position to the end of its epoch, each with the position after it.

        Args:
            position: where the batch of worker 0 begins.

        Raises:
            StoreError: a shard cannot be read, or it does not match its receipt.
        """
        count = -(-(self._steps.count(position) - self._worker) // self._workers)
        if count <= 0:
            return
        places = range(position, position + count * self._batch, self._batch)
        for place, made in zip(places, self.batches(position, places.stop), strict=True):
            yield self._steps.after(self._begin(place)), made

    def _begin(self, position: int) -> int:
        """Where the batch of this worker begins, of the batches that all workers take from a position on."""
        return position + self._worker * self._steps.batch

    def _part(self, position: int) -> list[Placed]:
        return super()._part(self._begin(position))

    def _size(self, position: int) -> int:
        return self._steps.size(position)

    def _room(self) -> int:
        return super()._room() * self._workers
