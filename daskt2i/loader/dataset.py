"""Training samples for the denoiser from a latent store: each row once per epoch, with another caption each time.

Covers: the training rows and the validation rows, their order, a rank's part of each batch, all random parts of a
sample (caption, dropout, posterior, noise, time), scaling raw latents, decoded shards in memory, reading ahead,
damaged shards.
Does not cover: training itself (`train`), pictures (`picture_dataset`), adding noise to latents (`model.diffusion`).
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

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from daskt2i.errors import ConfigError, StoreError
from daskt2i.loader.sample_order import Purpose, RandomStreams, Sample, ShardSampler, Whole, key_of
from daskt2i.loader.shards import Cache, Floats, LoadedShard, Reader
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore

AHEAD = 2
"""Batches to prepare while the model works on one."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A rank's part of a batch.

    Attributes:
        latents: `float32[b, channel, y, x]`, scaled and shifted for the denoiser.
        noise: `float32[b, channel, y, x]`, standard normal.
        uniform: `float32[b]` in [0, 1); it chooses the step of a schedule.
        normal: `float32[b]`, standard normal; it chooses the time of flow.
        text_states: `float16[b, token, feature]` of the chosen captions.
        text_mask: `bool[b, token]`, True for tokens of the caption.
        rows: `int64[b]`, rows of the store.
        slots: `int64[b]`, index of the caption in the row; -1 if the empty prompt replaces it.
    """

    latents: Floats
    noise: Floats
    uniform: Floats
    normal: Floats
    text_states: npt.NDArray[np.float16]
    text_mask: npt.NDArray[np.bool_]
    rows: Whole
    slots: Whole

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> Batch:
        return Batch(*(getattr(self, field.name)[part] for field in fields(self)))


class LatentDataset:
    """Training samples of one rank, and its validation rows.

    Args:
        folder: the run folder, a path or an fsspec address.
        seed: seed of the split, the order, captions, dropout, posterior, noise and times.
        batch: samples in one step over all ranks. `world` must divide it.
        rank, world: number of this rank, number of all ranks.
        window: number of shards whose rows are shuffled together.
        heldout: number of validation rows.
        dropout: share of captions replaced by the empty prompt.
        posterior: `sample` draws from the VAE's posterior each time, `mean` takes its mean.
        cache_bytes: memory for decoded shards, best for two windows (this and the next). If not even one window fits,
            the samples are the same, but each batch decodes its shards again. The prepared batches, and one block of
            32 MiB or one row for each thread, need additional memory.
        threads: threads that decode shards; the same number of threads makes batches.
        allow_random: whether to accept latents of random weights, for speed tests.
        store: how the store of this folder is read; None for plain reading.

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
    ) -> None:
        if batch % world:
            raise ConfigError(
                f"train.batch is {batch}, which {world} ranks cannot share equally. Set it to a multiple of {world}, "
                "or set another launch.ranks."
            )
        self._key = key_of(seed)
        self._batch, self._rank, self._world, self._dropout = batch, rank, world, dropout
        self._reader = Reader(store or ZarrStore(folder), self._key, posterior == "sample")
        if self.attributes["random_weights"] and not allow_random:
            raise StoreError(
                f"{folder} was encoded with random weights, for speed tests, so a model cannot learn from it. It was "
                "not changed; encode with trained weights into another run folder (out)."
            )
        accepted = self._reader.accepted()
        if len(accepted) <= heldout:
            raise ConfigError(
                f"train.validation is {heldout}, but {folder} has {len(accepted)} accepted rows, so no rows are left "
                "for training. Set train.validation lower, or encode more rows into another run folder."
            )
        mixed = RandomStreams(self._key).at(Purpose.SPLIT, 0, 0).permutation(accepted)
        self.heldout = np.sort(mixed[:heldout])
        self._training = np.sort(mixed[heldout:])
        grid = self._reader.grid
        self._order = ShardSampler(self._training, grid.rows_per_chunk, window, self._key)
        self._reach = window * grid.rows_per_chunk // 2
        # A rank needs the shards of its part of the sorted rows of a window. Neighbours share a shard at the edge.
        self._shards = min(window if world == 1 else -(-window // world) + 1, len(grid))
        self._whole = self._reader.row_bytes * grid.rows <= cache_bytes
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="daskt2i-batches")
        self._cache = Cache(cache_bytes, self._load, threads)

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

    def part(self, position: int) -> list[Sample]:
        """(epoch, row) of this rank's samples of the batch that begins at a stream position.

        The rows of a batch are sorted before the ranks share them. So a rank needs few shards of the window, and mostly
        the same in each epoch. The mean over the batch does not depend on the order.
        """
        samples = sorted(self._order.samples(position, self._batch), key=lambda s: (*reversed(self._shard_of(s)), s[1]))
        share = self._batch // self._world
        return samples[self._rank * share : (self._rank + 1) * share]

    def batches(self, position: int) -> Iterator[Batch]:
        """This rank's part of each batch from a stream position on, without end.

        Raises:
            StoreError: a shard cannot be read, or it does not match its receipt.
        """
        parts: deque[list[Sample]] = deque()
        waiting: deque[Future[Batch]] = deque()
        try:
            while True:
                # If two windows fit, shards are requested half a window early; else when a batch needs them.
                early = self._whole or self._cache.holds(2 * self._shards)
                reach = self._reach // self._batch if early else 0
                while len(parts) <= max(AHEAD, reach):
                    parts.append(self.part(position))
                    position += self._batch
                    if early or self._cache.holds(self._shards):
                        for key in dict.fromkeys(self._shard_of(sample) for sample in parts[-1]):
                            self._cache.get(key)
                while len(waiting) <= AHEAD:
                    waiting.append(self._pool.submit(self._make, parts.popleft()))
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def heldout_batches(self, size: int) -> Iterator[Batch]:
        """This rank's validation rows in order, with the same noise, time and caption each time and without dropout.

        Args:
            size: rows in a batch. The last batch may have fewer.

        Raises:
            StoreError: a row cannot be read, or it does not match its receipt.
        """
        mine = self.heldout[self._rank :: self._world]
        for start in range(0, len(mine), size):
            rows = [int(row) for row in mine[start : start + size]]
            shards = self._pool.map(lambda row: self._reader.read(row, row + 1, [row]), rows)
            yield self._stack([(0, row) for row in rows], shards, Purpose.HELDOUT)

    def close(self) -> None:
        """End the reading threads and free the shards. May be called twice."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._cache.close()

    def _shard_of(self, sample: Sample) -> Sample:
        """Cache key (epoch, chunk) of a sample's shard. If the whole store fits, all epochs use the same shards."""
        epoch, row = sample
        return (-1 if self._whole else epoch), row // self._reader.grid.rows_per_chunk

    def _load(self, key: Sample) -> LoadedShard:
        """A shard for the cache. Several threads call it."""
        epoch, index = key
        chunk = self._reader.grid[index]
        first, last = np.searchsorted(self._training, (chunk.start, chunk.stop))
        rows = self._training[first:last].tolist()
        return self._reader.read(chunk.start, chunk.stop, rows, None if epoch < 0 else epoch)

    def _make(self, samples: Sequence[Sample]) -> Batch:
        return self._stack(samples, self._shards_of(samples), Purpose.SAMPLE)

    def _shards_of(self, samples: Sequence[Sample]) -> Iterator[LoadedShard]:
        """The shard of each sample. It holds one at a time, because all of them may not fit into memory."""
        last: Sample | None = None
        for sample in samples:
            if (key := self._shard_of(sample)) != last:
                shard, last = self._cache.get(key).result(), key
            yield shard

    def _stack(self, samples: Sequence[Sample], shards: Iterable[LoadedShard], purpose: Purpose) -> Batch:
        """Samples as arrays, each from its shard."""
        reader, streams, count = self._reader, RandomStreams(self._key), len(samples)
        mean, std = (np.zeros((count, *reader.latent_shape), np.float16) for _ in range(2))
        noise, drawn = (np.empty((count, *reader.latent_shape), np.float32) for _ in range(2))
        uniform, normal = np.empty(count, np.float32), np.empty(count, np.float32)
        states = np.zeros((count, *reader.empty_states.shape), np.float16)
        mask = np.zeros((count, *reader.empty_mask.shape), np.bool_)
        slots = np.empty(count, np.int64)
        for i, ((epoch, row), shard) in enumerate(zip(samples, shards, strict=True)):
            place, generator = row - shard.start, streams.at(purpose, epoch, row)
            uniform[i], lot = generator.random(2, np.float32)
            normal[i] = generator.standard_normal(dtype=np.float32)
            generator.standard_normal(out=noise[i], dtype=np.float32)
            mean[i] = shard.mean[place]
            if shard.std is not None:
                generator.standard_normal(out=drawn[i], dtype=np.float32)
                std[i] = shard.std[place]
            if purpose == Purpose.SAMPLE and lot < self._dropout:
                slots[i], states[i], mask[i] = -1, reader.empty_states, reader.empty_mask
                continue
            slots[i] = slot = streams.slot(epoch, row, int(shard.captions[place]))
            mask[i] = shard.mask[place, slot]
            length = reader.width(mask[i : i + 1])
            states[i, :length] = shard.states[place, slot if shard.states.shape[1] > 1 else 0, :length]
        latents, width = mean.astype(np.float32), reader.width(mask)
        if reader.draws:
            drawn *= std
            latents += drawn
        return Batch(
            reader.final(latents),
            noise,
            uniform,
            normal,
            np.ascontiguousarray(states[:, :width]),
            np.ascontiguousarray(mask[:, :width]),
            np.array([row for _, row in samples], np.int64),
            slots,
        )
