"""The rows of a latent store as training samples for the denoiser: each row once per epoch, with another caption.

Covers: which rows are trained on and which are held out, their order, a rank's part of each batch, everything random
about a sample (caption, dropout, posterior, noise, time), raw latents to final ones, decoded shards kept in memory,
reading ahead, shards that turn out to be unusable.
Does not cover: what is fitted (`train`), pictures (`picture_dataset`), making noised latents (`model.diffusion`).
Pictures are not mirrored: mirrored latents are not stored, and a latent turned around is not the latent of the picture
turned around.

One whole number is the position: samples taken by all ranks together since the start. Epoch e is the stream from
e x `rows` on, so batches cut across epochs and nothing is padded or dropped. Within an epoch shards (chunks) are
shuffled as a whole, and rows inside each window of `window` shards. What is drawn for a sample depends on seed, epoch
and row alone, hence neither on the number of ranks nor on interruptions.

A row is read with the one caption that its epoch wants, as 5 captions x 77 tokens x 768 features are 36 times its
latents: a store that does not fit into the cache keeps just that. Figures: docs/benchmarks/loader.md.
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
"""Batches that are made while the model works on one."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A rank's part of a batch.

    Attributes:
        latents: `float32[b, channel, y, x]`, final: scaled and shifted as the denoiser sees them.
        noise: `float32[b, channel, y, x]`, standard normal.
        uniform: `float32[b]` in [0, 1), picks the step of a schedule.
        normal: `float32[b]`, standard normal, picks flow's time.
        text_states: `float16[b, token, feature]` of the chosen captions.
        text_mask: `bool[b, token]`, True for tokens of the caption.
        rows: `int64[b]`, of the store.
        slots: `int64[b]`, which caption of the row; -1 where it was dropped to the empty prompt.
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
    """Training samples of one rank, and its held-out rows.

    Args:
        folder: the run folder, here or behind fsspec.
        seed: of the split, the order, captions, dropout, posterior, noise and times.
        batch: samples of a step over all ranks; `world` divides it.
        window: shards whose rows are shuffled together.
        heldout: rows that training never sees.
        dropout: share of captions replaced by the empty prompt.
        posterior: `sample` draws from the VAE's posterior anew each time, `mean` takes its mean.
        cache_bytes: decoded shards that are kept. Best are two windows, one for this one and one for the next; where
            not even one fits, samples are the same and each batch decodes its shards again. Beside them stand the
            batches ahead, and one block of 32 MiB or one row for each thread.
        threads: that decode shards, and as many that make batches.
        allow_random: take latents of random weights too, for speed tests.

    Raises:
        ConfigError: a batch or number of held-out rows that cannot work with this store.
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
    ) -> None:
        if batch % world:
            raise ConfigError(
                f"train.batch is {batch}, which {world} ranks cannot share equally; use a multiple of {world}, or "
                "another launch.ranks."
            )
        self._key = key_of(seed)
        self._batch, self._rank, self._world, self._dropout = batch, rank, world, dropout
        self._reader = Reader(ZarrStore(folder), self._key, posterior == "sample")
        if self.attributes["random_weights"] and not allow_random:
            raise StoreError(
                f"{folder} was encoded with random weights, for speed tests: there is nothing to be learned from it. "
                "It was not touched; encode with trained weights into another folder with --out."
            )
        accepted = self._reader.accepted()
        if len(accepted) <= heldout:
            raise ConfigError(
                f"train.validation is {heldout}, but {folder} has {len(accepted)} accepted rows, so nothing would be "
                "left to train on; set it lower with --set train.validation=N, or encode more rows into another folder."
            )
        mixed = RandomStreams(self._key).at(Purpose.SPLIT, 0, 0).permutation(accepted)
        self.heldout = np.sort(mixed[:heldout])
        self._training = np.sort(mixed[heldout:])
        grid = self._reader.grid
        self._order = ShardSampler(self._training, grid.rows_per_chunk, window, self._key)
        self._reach = window * grid.rows_per_chunk // 2
        # What a rank meets of a window: its part of the sorted rows, and what that shares with its neighbours'.
        self._shards = min(window if world == 1 else -(-window // world) + 1, len(grid))
        self._whole = self._reader.row_bytes * grid.rows <= cache_bytes
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="daskt2i-batches")
        self._cache = Cache(cache_bytes, self._load, threads)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the store says of itself under `daskt2i`: encoders, fingerprint, identity."""
        return self._reader.attributes

    @property
    def rows(self) -> int:
        """Rows that are trained on, which is the length of an epoch."""
        return len(self._training)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a latent."""
        return self._reader.latent_shape

    @property
    def features(self) -> int:
        """Length of a text state."""
        return self._reader.features

    @property
    def masked(self) -> bool:
        """Whether the denoiser needs `text_mask`: padding was left out (zeros), instead of encoded (`pad: full`)."""
        return self._reader.masked

    def part(self, position: int) -> list[Sample]:
        """(epoch, row) of this rank's samples of the batch that begins at a stream position.

        Within a batch rows are sorted before it is cut, so that a rank meets few of the window's shards, and mostly the
        same in each epoch; the mean over the batch does not know the order.
        """
        samples = sorted(self._order.samples(position, self._batch), key=lambda s: (*reversed(self._shard_of(s)), s[1]))
        share = self._batch // self._world
        return samples[self._rank * share : (self._rank + 1) * share]

    def batches(self, position: int) -> Iterator[Batch]:
        """This rank's part of each batch, from a stream position on, without end.

        Raises:
            StoreError: a shard cannot be read, or does not hold what its receipt says.
        """
        parts: deque[list[Sample]] = deque()
        waiting: deque[Future[Batch]] = deque()
        try:
            while True:
                # Shards are asked for half a window early where two windows find room, else as batches are made.
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
        """This rank's share of the held-out rows, in order: the same noise, time and caption each time, none dropped.

        Args:
            size: rows of a batch; the last may have fewer.

        Raises:
            StoreError: a row cannot be read, or is not what its receipt says.
        """
        mine = self.heldout[self._rank :: self._world]
        for start in range(0, len(mine), size):
            rows = [int(row) for row in mine[start : start + size]]
            shards = self._pool.map(lambda row: self._reader.read(row, row + 1, [row]), rows)
            yield self._stack([(0, row) for row in rows], shards, Purpose.HELDOUT)

    def close(self) -> None:
        """End the reading threads and forget the shards. May be called twice."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._cache.close()

    def _shard_of(self, sample: Sample) -> Sample:
        """(epoch, chunk) of what is kept; a store that is kept whole serves all epochs."""
        epoch, row = sample
        return (-1 if self._whole else epoch), row // self._reader.grid.rows_per_chunk

    def _load(self, key: Sample) -> LoadedShard:
        """A shard for the cache. Called in several threads."""
        epoch, index = key
        chunk = self._reader.grid[index]
        first, last = np.searchsorted(self._training, (chunk.start, chunk.stop))
        rows = self._training[first:last].tolist()
        return self._reader.read(chunk.start, chunk.stop, rows, None if epoch < 0 else epoch)

    def _make(self, samples: Sequence[Sample]) -> Batch:
        return self._stack(samples, self._shards_of(samples), Purpose.SAMPLE)

    def _shards_of(self, samples: Sequence[Sample]) -> Iterator[LoadedShard]:
        """The shard of each sample, one held at a time: they may not all find room in memory."""
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
