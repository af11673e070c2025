"""Reads the shards of a latent store for training: decodes them, checks them, and keeps them in a cache.

Covers: the accepted rows, the caption of an epoch, scaling raw latents, missing or damaged shards, a cache with a limit
in bytes.
Does not cover: the order of rows (`sample_order`), batches (`dataset`), opening a store with xarray
(`store.zarr_store.open_store`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.encoders.latent_scaling import latent_scaling
from daskt2i.errors import StoreError
from daskt2i.loader.sample_order import RandomStreams, Sample, Whole
from daskt2i.plan import ChunkGrid
from daskt2i.store.layout import EMPTY_PREFIX, about_store, padding_is_text
from daskt2i.store.receipts import Receipts
from daskt2i.store.zarr_flush import reading_store
from daskt2i.store.zarr_store import ZarrStore, inner_rows

Floats = npt.NDArray[np.float32]

TOKENS = 8
"""Trimmed text has a multiple of so many tokens. So compilers see few shapes, and matrix units are used well."""

_BLOCK_BYTES = 32 * 2**20  # text is decoded in blocks: decoding a shard of 150 MB at once takes 1.5 times as long


@dataclass(frozen=True, slots=True)
class LoadedShard:
    """Consecutive decoded rows.

    Attributes:
        start: the first row.
        mean, std: `float16[row, c, y, x]`, raw; std is None if nothing is drawn from the posterior.
        captions: `int64[row]`, number of captions.
        states: `float16[row, slot, token, feature]` of all captions or of one chosen caption; tokens may be trimmed.
        mask: `bool[row, slot, token]` of all captions.
    """

    start: int
    mean: npt.NDArray[np.float16]
    std: npt.NDArray[np.float16] | None
    captions: Whole
    states: npt.NDArray[np.float16]
    mask: npt.NDArray[np.bool_]

    @property
    def nbytes(self) -> int:
        std = 0 if self.std is None else self.std.nbytes
        return self.mean.nbytes + std + self.captions.nbytes + self.states.nbytes + self.mask.nbytes


class Reader:
    """Reads a store for training.

    Args:
        store: the store.
        key: key of the random numbers.
        sample: whether to read the std for a draw from the posterior, if there is one.

    Raises:
        StoreMissing: there is no store here.
        StoreError: `encode` did not make the store, or its metadata or the empty prompt is damaged.
    """

    def __init__(self, store: ZarrStore, key: int, sample: bool) -> None:
        layout, attributes = store.layout(), store.attributes() or {}
        if "daskt2i" not in attributes:
            raise StoreError(
                f"{store.address} was not made by encode, so its content is unknown. It was not changed; give a run "
                "folder that encode made (out)."
            )
        self.attributes: dict[str, Any] = about_store(store) or {}
        self.grid = ChunkGrid(layout["rows"], layout["rows_per_chunk"])
        self._store, self._key = store, key
        arrays = layout["arrays"]
        if missing := {"latent_mean", "text_states", "text_mask"} - arrays.keys():
            raise StoreError(
                f"{store.address} has no {', '.join(sorted(missing))}, but training needs them. It was not changed; "
                "encode into another run folder (out) with encoders that make them."
            )
        channels, height, width = arrays["latent_mean"]["shape"]
        self.latent_shape: tuple[int, int, int] = (channels, height, width)
        self.slots, self.tokens, self.features = arrays["text_states"]["shape"]
        self.draws = sample and "latent_std" in arrays
        latent_bytes = channels * height * width * (4 if self.draws else 2)
        self._text_bytes = self.slots * self.tokens * self.features * 2
        self.row_bytes = latent_bytes + self._text_bytes + self.slots * self.tokens + 8
        self.masked = not padding_is_text(self.attributes)
        self.empty_states: npt.NDArray[np.float16] = self._constant("text_states")
        self.empty_mask: npt.NDArray[np.bool_] = self._constant("text_mask")
        mean, std, factor = latent_scaling(self.attributes["image_encoder"], channels)
        self._shift = mean[:, None, None]
        self._scale = np.float32(factor) / std[:, None, None]

    def final(self, raw: Floats) -> Floats:
        """Scale `float32[b, c, y, x]` for the denoiser in place: `(raw - shift) * scale`, from the VAE's own config."""
        raw -= self._shift
        raw *= self._scale
        return raw

    def accepted(self) -> Whole:
        """The accepted rows, ascending. They come from the receipts, because reading `valid` would read every shard.

        Raises:
            StoreError: a chunk has no receipt with this store's fingerprint.
        """
        fingerprint, kept = self.attributes["fingerprint"], dict[int, Whole]()
        for receipt in Receipts(self._store.folder).read():
            ours = receipt.fingerprint == fingerprint and receipt.chunk < len(self.grid)
            if not ours or (receipt.start, receipt.stop) != self._edges(receipt.chunk):
                continue
            rejected = [rejection.row for rejection in receipt.rejected]
            kept[receipt.chunk] = np.setdiff1d(np.arange(receipt.start, receipt.stop), rejected, assume_unique=True)
        if opened := len(self.grid) - len(kept):
            first = next(index for index in range(len(self.grid)) if index not in kept)
            raise StoreError(
                f"{opened} of {len(self.grid)} chunks of {self._store.folder} are not done, first chunk {first}. "
                "The other chunks stay; run encode again, which encodes only the open chunks, then train."
            )
        return np.concatenate([kept[index] for index in range(len(self.grid))])

    def read(self, start: int, stop: int, rows: Sequence[int], epoch: int | None = None) -> LoadedShard:
        """Rows `start <= row < stop`.

        Args:
            rows: the rows that must be valid.
            epoch: load only the caption of this epoch; None loads all captions.

        Raises:
            StoreError: the rows cannot be read, or they do not match the receipt.
        """
        mean = self._store.read("latent_mean", start, stop)
        std = self._store.read("latent_std", start, stop) if self.draws else None
        mask = self._store.read("text_mask", start, stop)
        captions = mask.any(-1).sum(-1)
        places = np.array(rows, np.int64) - start
        filled = [np.isfinite(values[places]).all() for values in (mean, std) if values is not None]
        if not (all(filled) and captions[places].all()):
            raise self._gone(start)
        if epoch is None:
            states = np.empty((stop - start, self.slots, self.tokens, self.features), np.float16)
            for first, block in self._text(start, stop):
                states[first : first + len(block)] = block
        else:
            streams = RandomStreams(self._key)
            chosen = {int(i): streams.slot(epoch, start + int(i), int(captions[i])) for i in places}
            width = self.width(mask[places, list(chosen.values())])
            states = np.zeros((stop - start, 1, width, self.features), np.float16)
            for first, block in self._text(start, stop):
                for i in chosen.keys() & range(first, first + len(block)):
                    states[i, 0] = block[i - first, chosen[i], :width]
        # One number of each caption is enough to check: for a missing shard zarr gives only NaN.
        if not np.isfinite(states[:, :, 0, 0][places]).all():
            raise self._gone(start)
        return LoadedShard(start, mean, std, captions, states, mask)

    def width(self, mask: npt.NDArray[np.bool_]) -> int:
        """Number of tokens to keep of captions with this mask, `bool[n, token]`."""
        if not self.masked:
            return self.tokens
        longest = int(np.flatnonzero(mask.any(0)).max(initial=0)) + 1
        return min(-(-longest // TOKENS) * TOKENS, self.tokens)

    def _text(self, start: int, stop: int) -> Iterator[tuple[int, npt.NDArray[np.float16]]]:
        """All text states of these rows in blocks, each with the index of its first row."""
        inner = inner_rows(self.grid.rows_per_chunk, self._text_bytes)
        step = max(1, _BLOCK_BYTES // self._text_bytes // inner) * inner
        for first in range(start, stop, step):
            yield first - start, self._store.read("text_states", first, min(first + step, stop))

    def _edges(self, index: int) -> tuple[int, int]:
        chunk = self.grid[index]
        return chunk.start, chunk.stop

    def _gone(self, start: int) -> StoreError:
        index = start // self.grid.rows_per_chunk
        return StoreError(
            f"Chunk {index} of {self._store.address} does not match its receipt: a shard is missing. Saved checkpoints "
            "stay. Run verify to find the damaged chunks, then encode again: it repairs only these."
        )

    def _constant(self, name: str) -> npt.NDArray[Any]:
        """An array of the empty prompt."""
        import zarr

        store = reading_store(self._store.folder, self._store.name)
        try:
            return np.asarray(zarr.open_array(store=store, path=EMPTY_PREFIX + name, mode="r", zarr_format=3)[...])
        except Exception as error:  # zarr and its codecs raise many kinds for damaged bytes
            raise StoreError(
                f"The empty prompt's {name} in {self._store.address} cannot be read ({error}). The rows are unchanged; "
                "run encode again, which writes it again."
            ) from error


class Cache:
    """A cache of decoded shards. It drops the least recently used shard first. Several threads may use it.

    Args:
        limit: limit in bytes.
        load: loads a shard. Several requests for one shard at the same time call it once.
        threads: number of threads that call `load`.
    """

    def __init__(self, limit: int, load: Callable[[Sample], LoadedShard], threads: int) -> None:
        self._limit, self._load = limit, load
        self._held, self._largest = 0, 0
        self._lock = threading.RLock()  # reentrant, because a finished future calls back in the same thread
        self._coming: dict[Sample, Future[LoadedShard]] = {}
        self._kept: OrderedDict[Sample, Future[LoadedShard]] = OrderedDict()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="daskt2i-shards")

    def get(self, key: Sample) -> Future[LoadedShard]:
        """A future of the shard."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            if key not in self._coming:
                future = self._coming[key] = self._pool.submit(self._load, key)
                future.add_done_callback(lambda done: self._keep(key, done))
                return future
            return self._coming[key]

    def holds(self, shards: int) -> bool:
        """Whether so many shards fit, judged by the largest shard so far."""
        return shards * self._largest <= self._limit

    def close(self) -> None:
        """End the threads and free all shards."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._kept.clear()
            self._held = 0

    def _keep(self, key: Sample, future: Future[LoadedShard]) -> None:
        with self._lock:
            del self._coming[key]
            if future.cancelled() or future.exception() is not None:
                return  # the next request loads it again
            self._kept[key] = future
            size = future.result().nbytes
            self._held += size
            self._largest = max(self._largest, size)
            while self._held > self._limit:
                self._held -= self._kept.popitem(last=False)[1].result().nbytes
