"""Training samples for an autoencoder from the pictures of a source: each row once per epoch, cropped and mirrored.

Covers: the training rows and the validation rows, their order, a rank's part of each batch, all random parts of a
sample, decoded pictures in memory, reading ahead, unusable rows.
Does not cover: latents (`dataset`), training itself (`train.autoencoder_rank`), where bytes come from (`sources`),
decoding (`images`).

The position is one whole number: the samples that all ranks together have taken since the start. Epoch e is the part of
the stream from e x `rows` on. So a batch may cover two epochs, and nothing is padded or dropped. The random parts of a
sample depend only on seed, epoch and row, not on the number of ranks or on interruptions.

A row that cannot be read keeps its place in the batch. Its sample has weight 0 in the loss, and no other picture
replaces it. Reading all rows before the training would find such rows earlier, but it would take as long as an epoch of
reading.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from daskt2i.errors import ConfigError, ImagesMissing, Reason, RowRejected, SourceError
from daskt2i.faults.patience import fetched_patiently
from daskt2i.formatting import many
from daskt2i.images import read as images
from daskt2i.protocols import Source
from daskt2i.types import Pixels, Rejection, Row

AHEAD = 2
"""Batches to read while the model works on one."""

STREAK = 32
"""The training ends after so many unusable rows in a row: a mount is missing, or the source is wrong."""

_BLOCK = 1024
# Purposes of streams of random numbers; part of their counter.
_SPLIT, _ORDER, _SAMPLE, _HELDOUT = range(4)


@dataclass(frozen=True, slots=True)
class PictureBatch:
    """A rank's part of a batch.

    Attributes:
        pixels: `uint8[b, height, width, 3]`, upright RGB; black if the row could not be read.
        noise: `float32[b, channel, y, x]`, standard normal numbers for the draw from the posterior.
        weight: `float32[b]`, 1; 0 if the row could not be read.
        rows: `int64[b]`, rows of the source.
    """

    pixels: Pixels
    noise: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> PictureBatch:
        return PictureBatch(self.pixels[part], self.noise[part], self.weight[part], self.rows[part])


@dataclass(frozen=True, slots=True)
class _Sample:
    """One training picture, or the reason why there is none."""

    pixels: Pixels | None
    noise: npt.NDArray[np.float32]
    rejection: Rejection | None


class Pictures:
    """Training samples of one rank, and its validation pictures.

    It uses all rows that the source's index does not reject. It also uses rows without captions, because training an
    autoencoder needs no captions.

    Args:
        source: the source of the pictures. One thread calls its `rows`, several threads call its `read`.
        resolution: side of a whole picture, pixels.
        limits: limits on the size of an image.
        seed: seed of the split, the order, crops, mirroring and noise.
        batch: samples in one step over all ranks. `world` must divide it.
        heldout: number of validation rows.
        crop: side of random crops, pixels; None for whole pictures.
        flip: whether to mirror half of the samples, left to right, at random.
        latent: (channels, reduction) of the autoencoder, for the shape of the noise.
        rank, world: number of this rank, number of all ranks.
        cache_bytes: memory for decoded pictures.
        threads: number of threads that read and decode.
        tell: called once for each unusable row, in the consumer's thread.

    Raises:
        ConfigError: the batch, the crop or the number of validation rows does not fit this source.
        SourceMissing, SourceError: the source as a whole cannot be used.
    """

    def __init__(
        self,
        source: Source,
        resolution: int,
        limits: images.Limits,
        *,
        seed: int,
        batch: int,
        heldout: int,
        crop: int | None,
        flip: bool,
        latent: tuple[int, int],
        rank: int = 0,
        world: int = 1,
        cache_bytes: int = 512 * 2**20,
        threads: int = 4,
        tell: Callable[[Rejection], None] = lambda rejection: None,
    ) -> None:
        self.resolution, self.limits, self.batch = resolution, limits, batch
        self.crop, self.flip = crop, flip
        self._source, self._rank, self._world, self._tell = source, rank, world, tell
        self._channels, self._reduction = latent
        self._key = int.from_bytes(hashlib.sha256(f"daskt2i pictures {seed}".encode()).digest()[:16], "little")
        self._check()
        usable = self._usable()
        if len(usable) <= heldout:
            raise ConfigError(
                f"vae.validation is {heldout}, but the source has {many(len(usable), 'usable row')}, so no rows are "
                "left for training. Set vae.validation lower, or add pictures."
            )
        mixed = self._generator(_SPLIT, 0, 0).permutation(usable)
        self.heldout = np.sort(mixed[:heldout])
        self._training = np.sort(mixed[heldout:])
        self._orders: OrderedDict[int, npt.NDArray[np.int64]] = OrderedDict()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="daskt2i-pictures")
        self._cache = _Cache(cache_bytes)
        self._told: set[int] = set()
        self._streak = 0

    @property
    def rows(self) -> int:
        """Number of training rows, which is the length of an epoch."""
        return len(self._training)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The training rows in the order of an epoch, `int64[rows]`."""
        if epoch not in self._orders:
            self._orders[epoch] = self._generator(_ORDER, epoch, 0).permutation(self._training)
            while len(self._orders) > 2:  # reading ahead may already need the next epoch
                self._orders.popitem(last=False)
        return self._orders[epoch]

    def part(self, position: int) -> list[tuple[int, int]]:
        """(epoch, row) of this rank's samples of the batch that begins at a stream position.

        The rows of a batch are sorted before the ranks share them. So a rank needs mostly the same rows in each epoch,
        and finds them in its memory. The mean over the batch does not depend on the order.
        """
        places = (divmod(place, self.rows) for place in range(position, position + self.batch))
        samples = [(epoch, int(self.order(epoch)[index])) for epoch, index in places]
        share = self.batch // self._world
        return sorted(samples, key=lambda s: (s[1], s[0]))[self._rank * share : (self._rank + 1) * share]

    def batches(self, position: int) -> Iterator[PictureBatch]:
        """This rank's part of each batch from a stream position on, without end.

        Raises:
            ImagesMissing, SourceError: the last `STREAK` rows were all missing, or all unusable.
        """
        waiting: deque[tuple[list[tuple[int, int]], list[Future[_Sample]]]] = deque()
        try:
            while True:
                while len(waiting) <= AHEAD:
                    part = self.part(position)
                    rows = [(self._row(row), epoch) for epoch, row in part]
                    waiting.append((part, [self._pool.submit(self._sample, row, epoch) for row, epoch in rows]))
                    position += self.batch
                part, futures = waiting.popleft()
                yield self._stack([row for _, row in part], [future.result() for future in futures])
        finally:
            for _, futures in waiting:
                for future in futures:
                    future.cancel()

    def heldout_batches(self, size: int) -> Iterator[PictureBatch]:
        """This rank's whole validation pictures with the same noise each time, without unusable rows.

        Args:
            size: pictures in a batch. The last batch may have fewer.
        """
        yield from self._whole(self.heldout[self._rank :: self._world], size)

    def sight(self, count: int, size: int, heldout: bool = False) -> Iterator[PictureBatch]:
        """The first `count` whole training or validation pictures, the same on each rank, without unusable rows."""
        yield from self._whole(self.heldout[:count] if heldout else self.order(0)[:count], size)

    def close(self) -> None:
        """End the reading threads and free the pictures. May be called twice."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._cache.clear()

    def _check(self) -> None:
        if self.batch % self._world:
            raise ConfigError(
                f"vae.batch is {self.batch}, which {self._world} ranks cannot share equally. Set it to a multiple of "
                f"{self._world}, or set another launch.ranks."
            )
        for name, side in (("dataset.image.resolution", self.resolution), ("vae.crop", self.crop)):
            if side is not None and side % self._reduction:
                lower = side // self._reduction * self._reduction
                good = " or ".join(str(n) for n in (lower, lower + self._reduction) if n)
                raise ConfigError(
                    f"{name} is {side}, but the model reduces each side {self._reduction} times. Set it to {good}."
                )
        if self.crop is not None and self.crop > self.resolution:
            raise ConfigError(
                f"vae.crop is {self.crop}, but pictures are {self.resolution} pixels wide (dataset.image.resolution). "
                "Set it smaller, or to null for whole pictures."
            )

    def _usable(self) -> npt.NDArray[np.int64]:
        """Rows that the index does not reject."""
        count = self._source.info().rows
        found: list[int] = []
        for start in range(0, count, _BLOCK):
            rows = self._source.rows(start, min(start + _BLOCK, count))
            found += [row.index for row in rows if row.reason in (None, Reason.NO_CAPTION)]
        return np.array(found, np.int64)

    def _row(self, index: int) -> Row:
        """A row of the source, without a reason for rejection: a missing caption does not matter here."""
        (row,) = self._source.rows(index, index + 1)
        return dataclasses.replace(row, reason=None, detail="")

    def _generator(self, purpose: int, epoch: int, row: int) -> np.random.Generator:
        """Random numbers by counter (Salmon et al. 2011, Philox 4x64). Making the generator takes 28 microseconds."""
        return np.random.Generator(np.random.Philox(counter=[0, row, epoch, purpose], key=self._key))

    def _noise(self, generator: np.random.Generator, side: int) -> npt.NDArray[np.float32]:
        latent = side // self._reduction
        return generator.standard_normal((self._channels, latent, latent), dtype=np.float32)

    def _read(self, row: Row) -> Pixels | Rejection:
        """The whole picture, from the cache if it has it. Several threads call it."""
        pixels = self._cache.get(row.index)
        if pixels is None:
            try:
                pixels = images.read(fetched_patiently(self._source, row), self.resolution, self.limits).pixels
            except RowRejected as error:
                return Rejection(row.index, row.image_id, error.reason, error.detail or row.file_name)
            self._cache.put(row.index, pixels)
        return pixels

    def _sample(self, row: Row, epoch: int) -> _Sample:
        """One training sample. Its random numbers do not depend on whether the row can be read."""
        generator = self._generator(_SAMPLE, epoch, row.index)
        side = self.crop or self.resolution
        top, left = (int(n) for n in generator.integers(0, self.resolution - side + 1, 2))
        mirrored = self.flip and bool(generator.integers(0, 2))
        noise = self._noise(generator, side)
        found = self._read(row)
        if isinstance(found, Rejection):
            return _Sample(None, noise, found)
        pixels = found[top : top + side, left : left + side]
        return _Sample(pixels[:, ::-1] if mirrored else pixels, noise, None)

    def _still(self, row: Row) -> _Sample:
        """A whole picture, always with the same noise."""
        noise = self._noise(self._generator(_HELDOUT, 0, row.index), self.resolution)
        found = self._read(row)
        return _Sample(None, noise, found) if isinstance(found, Rejection) else _Sample(found, noise, None)

    def _whole(self, rows: npt.NDArray[np.int64], size: int) -> Iterator[PictureBatch]:
        for start in range(0, len(rows), size):
            part = [self._row(int(index)) for index in rows[start : start + size]]
            samples = list(self._pool.map(self._still, part))
            batch = self._stack([row.index for row in part], samples)
            keep = np.flatnonzero(batch.weight)
            if len(keep) == len(part):
                yield batch
            elif len(keep):
                yield PictureBatch(batch.pixels[keep], batch.noise[keep], batch.weight[keep], batch.rows[keep])

    def _stack(self, rows: Sequence[int], samples: Sequence[_Sample]) -> PictureBatch:
        """Samples as arrays. It reports each row that could not be read."""
        side = samples[0].noise.shape[-1] * self._reduction
        pixels = np.zeros((len(samples), side, side, 3), np.uint8)
        for target, sample in zip(pixels, samples, strict=True):
            if sample.pixels is not None:
                target[:] = sample.pixels
                self._streak = 0
            else:
                assert sample.rejection is not None
                self._report(sample.rejection)
        weight = np.array([sample.pixels is not None for sample in samples], np.float32)
        return PictureBatch(pixels, np.stack([s.noise for s in samples]), weight, np.array(rows, np.int64))

    def _report(self, rejection: Rejection) -> None:
        if rejection.row not in self._told:
            self._told.add(rejection.row)
            self._tell(rejection)
        self._streak += 1
        if self._streak < STREAK:
            return
        what = f"row {rejection.row}: {rejection.reason}, {rejection.detail}"
        if rejection.reason is Reason.MISSING_FILE:
            raise ImagesMissing(
                f"All of the last {STREAK} images that training read are missing (the last: {what}), so it stopped. "
                "The saved checkpoints stay; make sure that the images are at their place, and run it again."
            )
        raise SourceError(
            f"None of the last {STREAK} images that training read can be used (the last: {what}), so it stopped. The "
            "saved checkpoints stay; check the images and the setting dataset.image, and run it again."
        )


class _Cache:
    """A cache of decoded pictures by row. It drops the least recently used first. Several threads may use it."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._lock = threading.Lock()
        self._pictures: OrderedDict[int, Pixels] = OrderedDict()

    def get(self, row: int) -> Pixels | None:
        with self._lock:
            found = self._pictures.get(row)
            if found is not None:
                self._pictures.move_to_end(row)
            return found

    def put(self, row: int, pixels: Pixels) -> None:
        pixels.flags.writeable = False  # many samples are views of it
        with self._lock:
            if row in self._pictures:
                return
            self._pictures[row] = pixels
            self._held += pixels.nbytes
            while self._held > self._limit:
                self._held -= self._pictures.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        with self._lock:
            self._pictures.clear()
            self._held = 0
