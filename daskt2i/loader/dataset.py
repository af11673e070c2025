"""Training samples for the denoiser from a latent store: each row once per epoch, with another caption each time.

Covers: the training rows and the validation rows, a rank's part of each batch, memory and threads for them.
Does not cover: which rows are held out together (`content`), the order (`sample_order`), the arrays of a batch
(`batch_arrays`), random numbers (`random_numbers`), reading ahead (`read_ahead`), damaged shards (`shards`), training
itself (`train`), pictures (`picture_dataset`), adding noise to latents (`model.diffusion`).
Pictures are not mirrored. The store has no mirrored latents, and a mirrored latent is not the latent of the mirrored
picture.

The position is one whole number: the samples that all ranks together have taken since the start. Epoch e is the part of
the stream from e x `rows` on. So a batch may cover two epochs, and nothing is padded or dropped. In an epoch, whole
shards (chunks) are shuffled, and then the rows inside each window of `window` shards. The random parts of a sample
depend only on seed, epoch and row, not on the number of ranks or on interruptions.

A row is read with only the caption of its epoch, because 5 captions x 77 tokens x 768 features are 36 times its
latents. If a store does not fit into the cache, only this caption is kept. Measurements: docs/benchmarks/loader.md.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from daskt2i.errors import ConfigError, StoreError
from daskt2i.formatting import many
from daskt2i.loader.batch_arrays import Batch, BatchArrays
from daskt2i.loader.content import groups_of, split
from daskt2i.loader.random_numbers import Draw, in_bulk, one_by_one
from daskt2i.loader.read_ahead import Placed, ReadAhead
from daskt2i.loader.sample_order import Purpose, RandomStreams, Sample, ShardSampler, key_of
from daskt2i.loader.shards import Reader
from daskt2i.loader.upcoming_rows import Parts, Unit, UpcomingRows
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore

SAMPLES = "samples"
"""Key of a training's identity that older versions did not write."""

SAMPLED: Mapping[str, str] = {"numbers": "Philox and Box-Muller", "validation": "by content"}
"""Its value: how random numbers are made and validation rows are chosen. `older` is what was before."""

AHEAD = 2
"""Batches to prepare while the model works on one."""

PARTS = 8
"""Rows of a shard are freed in so many parts. More parts free memory earlier, and take more time to copy."""


class LatentDataset:
    """Training samples of one rank, and its validation rows.

    Args:
        folder: the run folder, a path or an fsspec address.
        seed: seed of the split, the order, captions, dropout, posterior, noise and times.
        batch: samples in one step over all ranks. `world` must divide it.
        rank, world: number of this rank, number of all ranks.
        window: number of shards whose rows are shuffled together.
        heldout: number of validation rows. There may be fewer, see `content.split`.
        dropout: share of captions replaced by the empty prompt.
        posterior: `sample` draws from the VAE's posterior each time, `mean` takes its mean.
        cache_bytes: memory for decoded rows, best for the rows of one window or more. If fewer fit, the samples are the
            same, but each shard is decoded several times an epoch (`limit` says it). Additional memory is needed for
            prepared batches with all tokens, and for two inner chunks of at most 10 MiB for each thread.
        threads: threads that decode shards; the same number of threads makes batches.
        allow_random: whether to accept latents of random weights, for speed tests.
        store: how the store of this folder is read; None for plain reading.
        older: whether an older version began this training: its random numbers, and its split by row.

    Raises:
        ConfigError: the batch or the number of validation rows does not fit this store.
        StoreMissing: there is no store here.
        StoreError: chunks are not done, weights were random, or metadata are damaged.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        seed: int,
        batch: int,
        rank: int = 0,
        world: int = 1,
        window: int = 8,
        heldout: int = 64,
        dropout: float = 0.1,
        posterior: Literal["sample", "mean"] = "sample",
        cache_bytes: int = 512 * 2**20,
        threads: int = 2,
        allow_random: bool = False,
        store: ZarrStore | None = None,
        older: bool = False,
    ) -> None:
        if batch % world:
            raise ConfigError(
                f"train.batch is {batch}, which {world} ranks cannot share equally. Set it to a multiple of {world}, "
                "or set another launch.ranks."
            )
        self._key = key_of(seed)
        self._batch, self._rank, self._world, self._older = batch, rank, world, older
        self._reader = Reader(store or ZarrStore(folder), self._key, posterior == "sample")
        if self.attributes["random_weights"] and not allow_random:
            raise StoreError(
                f"{folder} was encoded with random weights, for speed tests, so a model cannot learn from it. It was "
                "not changed; encode with trained weights into another run folder (out)."
            )
        self.accepted = accepted = self._reader.accepted()
        if len(accepted) <= heldout:
            raise ConfigError(
                f"train.validation is {heldout}, but {folder} has {many(len(accepted), 'accepted row')}, so no rows "
                "are left for training. Set train.validation lower, or encode more rows into another run folder."
            )
        mixed = RandomStreams(self._key).at(Purpose.SPLIT, 0, 0).permutation(accepted)
        groups = groups_of(folder, accepted, self.attributes["fingerprint"]) if heldout and not older else ()
        self.split = split(mixed, groups, heldout)
        self.heldout, self._training = self.split.heldout, self.split.training
        self._order = ShardSampler(self._training, self._reader.grid.rows_per_chunk, window, self._key)
        self._limit = cache_bytes
        draw: Draw = one_by_one if older else in_bulk
        self._arrays = BatchArrays(self._reader, self._key, draw, dropout)
        self._row_bytes = self._reader.row_bytes(every_caption=False)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="daskt2i-batches")
        self._loaders = ThreadPoolExecutor(threads, thread_name_prefix="daskt2i-shards")
        whole = 1.1 * self._reader.row_bytes(every_caption=True) * len(self._training) <= cache_bytes
        self._kept = self._rows_in_memory(None) if whole else None

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the store under `daskt2i`: encoders, fingerprint, identity."""
        return self._reader.attributes

    @property
    def rows(self) -> int:
        """Number of training rows, which is the length of an epoch."""
        return len(self._training)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a latent."""
        return self._reader.latent_shape

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
        samples = self._order.samples(position, self._batch)
        chunk = self._reader.grid.rows_per_chunk
        # Older versions did not look at the epoch if the whole store was in memory.
        look = not (self._older and self._kept)
        order = sorted((row // chunk, epoch * look, row, place) for place, (epoch, row) in enumerate(samples))
        share = self._batch // self._world
        mine = order[self._rank * share : (self._rank + 1) * share]
        return [(position + place, samples[place]) for _, _, _, place in mine]

    def batches(self, position: int, stop: int | None = None) -> Iterator[Batch]:
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
        waiting: deque[Future[Batch]] = deque()
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

    def heldout_batches(self, size: int) -> Iterator[Batch]:
        """This rank's validation rows in order, with the same noise, time and caption each time and without dropout.

        Args:
            size: rows in a batch. The last batch may have fewer.

        Raises:
            StoreError: a row cannot be read, or it does not match its receipt.
        """
        mine = self.heldout[self._rank :: self._world]
        for start in range(0, len(mine), size):
            samples = [(0, int(row)) for row in mine[start : start + size]]
            found = self._pool.map(lambda sample: (self._reader.read([[sample]])[0], 0), samples)
            yield self._arrays.make(samples, list(found), Purpose.HELDOUT)

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
        """All training rows of a chunk, with all captions."""
        edges = self._reader.grid[chunk]
        first, last = np.searchsorted(self._training, (edges.start, edges.stop))
        return [(-1, int(row)) for row in self._training[first:last]]

    def _make(self, rows: UpcomingRows, wanted: list[tuple[Unit, Sample]], samples: list[Sample]) -> Batch:
        return self._arrays.make(samples, rows.take(wanted), Purpose.SAMPLE)


def _parts(rows: list[Sample]) -> Parts:
    size = -(-len(rows) // PARTS)
    return [rows[first : first + size] for first in range(0, len(rows), size)]
