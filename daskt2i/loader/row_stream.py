"""Rows of a store as batches, in the order of the stream: from any position, for one rank.

Covers: a rank's part of each batch, memory and threads for its rows.
Does not cover: which rows (`dataset`, `own_trainer`), their order (`sample_order`), the arrays of a batch
(`batch_arrays`, `own_trainer.sample_arrays`), reading ahead (`read_ahead`), damaged shards (`shards`).

The position is one whole number: the samples that all ranks together have taken since the start. Epoch e is the part of
the stream from e x `rows` on.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from daskt2i.loader.joined.bucket_mix import BucketMix
from daskt2i.loader.joined.joined_reader import AnyReader
from daskt2i.loader.memory.loaded_rows import LoadedRows
from daskt2i.loader.memory.mapped_rows import MappedRows
from daskt2i.loader.memory.upcoming_rows import Parts, Unit, UpcomingRows
from daskt2i.loader.read_ahead import Placed, ReadAhead
from daskt2i.loader.sample_order import Purpose, Sample, ShardSampler, Whole

AHEAD = 2
"""Batches to prepare while the model works on one."""

PARTS = 8
"""Rows of a shard are freed in so many parts. More parts free memory earlier, and take more time to copy."""

B = TypeVar("B")
Made = TypeVar("Made", covariant=True)


class MakesBatches(Protocol[Made]):
    """What makes the arrays of a batch from rows in memory. Several threads call it."""

    def make(self, samples: Sequence[Sample], found: Sequence[tuple[LoadedRows, int]], purpose: Purpose) -> Made:
        """The batch of these samples, each from its row."""

    def close(self) -> None:
        """Free the memory that nobody holds."""


class RowStream(Generic[B]):
    """The batches of one rank.

    Args:
        reader: reads the store.
        rows: the rows of an epoch, `int64[n]`, ascending; `order` has the same ones.
        order: their order.
        arrays: makes the batches.
        batch: samples in one step over all ranks.
        rank, world: number of this rank, number of all ranks.
        cache_bytes: memory for decoded rows, best for the rows of one window or more. If fewer fit, the samples are the
            same, but each shard is decoded several times an epoch (`limit` says it). Additional memory is needed for
            prepared batches with all tokens, and for two inner chunks of at most 10 MiB for each thread.
        threads: threads that decode shards; the same number of threads makes batches.
        mapped: all rows in files. None: they are decoded from the store.
    """

    def __init__(
        self,
        reader: AnyReader,
        rows: Whole,
        order: ShardSampler | BucketMix,
        arrays: MakesBatches[B],
        *,
        batch: int,
        rank: int = 0,
        world: int = 1,
        cache_bytes: int = 512 * 2**20,
        threads: int = 2,
        mapped: MappedRows | None = None,
    ) -> None:
        self._reader, self._rows, self._order, self._arrays = reader, rows, order, arrays
        self._batch, self._rank, self._world = batch, rank, world
        self._limit = cache_bytes
        self._row_bytes = reader.row_bytes(every_caption=False)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="daskt2i-batches")
        self._loaders = ThreadPoolExecutor(threads, thread_name_prefix="daskt2i-shards")
        whole = 1.1 * reader.row_bytes(every_caption=True) * len(rows) <= cache_bytes and not reader.mirrors
        memory = self._rows_in_memory(None) if whole and mapped is None else None
        self._kept: UpcomingRows | MappedRows | None = mapped or memory
        self._look_at_epochs = True

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the store under `daskt2i`: encoders, fingerprint, identity."""
        return self._reader.attributes

    @property
    def rows(self) -> int:
        """Number of rows of an epoch."""
        return len(self._rows)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a latent; of the first bucket, if there are several."""
        return self._reader.latent_shape

    @property
    def tokens(self) -> int:
        """Most text states of a caption."""
        return self._reader.tokens

    @property
    def features(self) -> int:
        """Number of features of a text state."""
        return self._reader.features

    @property
    def masked(self) -> bool:
        """Whether the denoiser needs `text_mask`: yes if padding is zeros, no if padding is encoded (`pad: full`)."""
        return self._reader.masked

    @property
    def window_bytes(self) -> float:
        """Bytes of the decoded rows that a rank needs of a shuffle window, about."""
        rows = max(stop - start for start, stop in self._order.windows(0))
        return -(-rows // self._world) * self._row_bytes

    @property
    def limit(self) -> str | None:
        """One sentence if the memory for decoded rows is too small for full speed; else None."""
        if self._kept is not None:
            return None
        need = int(self.window_bytes)
        times = -(-need // max(1, self._limit))
        if times < 2:
            return None
        return (
            f"The cache of a rank ({self._limit / 2**20:,.0f} MiB) is smaller than its rows of a shuffle window "
            f"({need / 2**20:,.0f} MiB), so each shard is read {times} times an epoch. The samples are the same. For "
            f"full speed set launch.cache to {-(-need // 2**20) + 1} MiB, or start with a smaller train.shuffle_window."
        )

    def part(self, position: int) -> list[Sample]:
        """(epoch, row) of this rank's samples of the batch that begins at a stream position.

        The rows of a batch are sorted before the ranks share them. So a rank needs few shards of the window, and mostly
        the same in each epoch. The mean over the batch does not depend on the order.
        """
        return [sample for _, sample in self._part(position)]

    def _part(self, position: int) -> list[Placed]:
        """`part`, each sample with its stream position."""
        samples = self._order.samples(position, self._size(position))
        chunk = self._reader.grid.rows_per_chunk
        look = self._look_at_epochs
        order = sorted((row // chunk, epoch * look, row, place) for place, (epoch, row) in enumerate(samples))
        first, last = (len(order) * rank // self._world for rank in (self._rank, self._rank + 1))
        return [(position + place, samples[place]) for _, _, _, place in order[first:last]]

    def _size(self, position: int) -> int:
        """Samples of the batch that begins at a position, over all ranks."""
        return self._batch

    def batches(self, position: int, stop: int | None = None) -> Iterator[B]:
        """This rank's part of each batch from a stream position on.

        Args:
            stop: no batch begins at this position or later, and no rows are read for later ones; None: without end.

        Raises:
            StoreError: a shard cannot be read, or it does not match its receipt.
        """
        rows = self._kept or self._rows_in_memory(self._limit)
        ahead = ReadAhead(
            rows,
            position,
            self._batch,
            part=self._part,
            window=self._order.window,
            room=self._room,
            units_of=self._units_of,
            unit_of=self._unit_of,
            stop=stop,
        )
        waiting: deque[Future[B]] = deque()
        try:
            while True:
                while len(waiting) <= AHEAD and (found := ahead.next()) is not None:
                    waiting.append(self._pool.submit(self._make, rows, *found))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            if rows is not self._kept:
                rows.close()

    def close(self) -> None:
        """End the reading threads and free the shards. May be called twice."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._loaders.shutdown(wait=True, cancel_futures=True)
        self._arrays.close()
        self._reader.close()
        if self._kept is not None:
            self._kept.close()

    def _rows_in_memory(self, limit: int | None) -> UpcomingRows:
        return UpcomingRows(limit, self._reader.read, self._loaders, self._row_bytes)

    def _room(self) -> int:
        """Number of stream positions whose rows fit into memory. Of a batch a rank needs only its share."""
        return sys.maxsize if self._kept is not None else int(self._limit / self._row_bytes) * self._world

    def _unit_of(self, begin: int, sample: Sample) -> tuple[Unit, Sample]:
        """Unit of a sample, and its name there. If the whole store fits, all epochs use the same units."""
        epoch, row = sample
        chunk = row // self._reader.grid.rows_per_chunk
        return ((begin, epoch, chunk), sample) if self._kept is None else (chunk, (-1, row))

    def _units_of(self, begin: int, samples: list[Sample]) -> dict[Unit, Parts]:
        units: dict[Unit, list[Sample]] = {}
        for sample in samples:
            unit, name = self._unit_of(begin, sample)
            units.setdefault(unit, []).append(name)
        if self._kept is not None:
            return {unit: [self._all_of(unit)] for unit in units}
        return {unit: _parts(rows) for unit, rows in units.items()}

    def _all_of(self, chunk: Any) -> list[Sample]:
        """All rows of an epoch that are in a chunk, with all captions."""
        edges = self._reader.grid[chunk]
        first, last = np.searchsorted(self._rows, (edges.start, edges.stop))
        return [(-1, int(row)) for row in self._rows[first:last]]

    def _make(self, rows: UpcomingRows | MappedRows, wanted: list[tuple[Unit, Sample]], samples: list[Sample]) -> B:
        return self._arrays.make(samples, rows.take(wanted), Purpose.SAMPLE)


def _parts(rows: list[Sample]) -> Parts:
    size = -(-len(rows) // PARTS)
    return [rows[first : first + size] for first in range(0, len(rows), size)]
