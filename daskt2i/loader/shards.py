"""The shards of a latent store as training reads them: decoded, checked, and kept while they are needed.

Covers: which rows are accepted, the caption that an epoch wants, raw latents to final ones, shards that are missing or
damaged, a cache that is bounded in bytes.
Does not cover: the order of rows (`sample_order`), batches (`dataset`), looking at rows with xarray
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
from daskt2i.store.layout import EMPTY_PREFIX
from daskt2i.store.receipts import Receipts
from daskt2i.store.zarr_flush import reading_store
from daskt2i.store.zarr_store import ZarrStore, inner_rows

Floats = npt.NDArray[np.float32]

TOKENS = 8
"""Trimmed text has a multiple of so many tokens: few shapes for compilers, and what matrix units like."""

_BLOCK_BYTES = 32 * 2**20  # text is decoded in blocks of so much: a shard of 150 MB at once takes 1.5 times as long


@dataclass(frozen=True, slots=True)
class LoadedShard:
    """Consecutive rows, decoded.

    Attributes:
        start: the first row.
        mean, std: `float16[row, c, y, x]`, raw; std is None where nothing is drawn.
        captions: `int64[row]`, how many.
        states: `float16[row, slot, token, feature]`, of all captions or of one chosen; perhaps fewer tokens.
        mask: `bool[row, slot, token]`, of all captions.
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
    """A store as it is read for training.

    Args:
        key: of the random numbers.
        sample: read what a draw from the posterior needs, where there is one.

    Raises:
        StoreMissing: there is no store here.
        StoreError: it was not made by `encode`, or its metadata or the empty prompt are damaged.
    """

    def __init__(self, store: ZarrStore, key: int, sample: bool) -> None:
        layout, attributes = store.layout(), store.attributes() or {}
        if "daskt2i" not in attributes:
            raise StoreError(
                f"{store.address} was not made by encode, so what it holds is unknown. It was not touched; name a run "
                "folder that encode made."
            )
        self.attributes: dict[str, Any] = attributes["daskt2i"]
        self.grid = ChunkGrid(layout["rows"], layout["rows_per_chunk"])
        self._store, self._key = store, key
        arrays = layout["arrays"]
        if missing := {"latent_mean", "text_states", "text_mask"} - arrays.keys():
            raise StoreError(
                f"{store.address} has no {', '.join(sorted(missing))}, and training needs them. It was not touched; "
                "encode into another folder with encoders that make them."
            )
        channels, height, width = arrays["latent_mean"]["shape"]
        self.latent_shape: tuple[int, int, int] = (channels, height, width)
        self.slots, self.tokens, self.features = arrays["text_states"]["shape"]
        self.draws = sample and "latent_std" in arrays
        latent_bytes = channels * height * width * (4 if self.draws else 2)
        self._text_bytes = self.slots * self.tokens * self.features * 2
        self.row_bytes = latent_bytes + self._text_bytes + self.slots * self.tokens + 8
        text = self.attributes["text_encoder"]
        pad = text.get("pad", self.attributes["identity"]["encoders"]["text"].get("pad"))
        self.masked: bool = pad != "full"
        self.empty_states: npt.NDArray[np.float16] = self._constant("text_states")
        self.empty_mask: npt.NDArray[np.bool_] = self._constant("text_mask")
        mean, std, factor = latent_scaling(self.attributes["image_encoder"], channels)
        self._shift = mean[:, None, None]
        self._scale = np.float32(factor) / std[:, None, None]

    def final(self, raw: Floats) -> Floats:
        """`float32[b, c, y, x]` as the denoiser sees it, in place: `(raw - shift) * scale`, by the VAE's own config."""
        raw -= self._shift
        raw *= self._scale
        return raw

    def accepted(self) -> Whole:
        """The accepted rows, ascending, from the receipts alone: reading `valid` would touch every shard.

        Raises:
            StoreError: a chunk has no receipt of this store's fingerprint.
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
                "The others stand; run encode again, which does what is left, then train."
            )
        return np.concatenate([kept[index] for index in range(len(self.grid))])

    def read(self, start: int, stop: int, rows: Sequence[int], epoch: int | None = None) -> LoadedShard:
        """Rows `start <= row < stop`, of which `rows` are of use; with the caption of an epoch alone, or with all.

        Raises:
            StoreError: they cannot be read, or are not what the receipt says.
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
        # One number of each caption tells: zarr gives a shard that is missing as NaN throughout.
        if not np.isfinite(states[:, :, 0, 0][places]).all():
            raise self._gone(start)
        return LoadedShard(start, mean, std, captions, states, mask)

    def width(self, mask: npt.NDArray[np.bool_]) -> int:
        """Tokens that are worth keeping of captions with this mask, `bool[n, token]`."""
        if not self.masked:
            return self.tokens
        longest = int(np.flatnonzero(mask.any(0)).max(initial=0)) + 1
        return min(-(-longest // TOKENS) * TOKENS, self.tokens)

    def _text(self, start: int, stop: int) -> Iterator[tuple[int, npt.NDArray[np.float16]]]:
        """All text states of these rows in blocks, each with the place of its first row."""
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
            f"Chunk {index} of {self._store.address} does not hold what its receipt says: a shard is missing. What "
            "training has saved stands. Run verify to see which chunks are damaged, then encode again: it repairs "
            "those alone."
        )

    def _constant(self, name: str) -> npt.NDArray[Any]:
        """What the text encoder makes of the empty prompt."""
        import zarr

        store = reading_store(self._store.folder, self._store.name)
        try:
            return np.asarray(zarr.open_array(store=store, path=EMPTY_PREFIX + name, mode="r", zarr_format=3)[...])
        except Exception as error:  # zarr and its codecs raise many kinds for damaged bytes
            raise StoreError(
                f"The empty prompt's {name} in {self._store.address} cannot be read ({error}). The rows are untouched; "
                "run encode again, it makes that anew."
            ) from error


class Cache:
    """Decoded shards, the least recently used go first. Safe from several threads.

    Args:
        limit: bytes.
        load: makes a shard; called in `threads` threads, once for all who ask at the same time.
    """

    def __init__(self, limit: int, load: Callable[[Sample], LoadedShard], threads: int) -> None:
        self._limit, self._load = limit, load
        self._held, self._largest = 0, 0
        self._lock = threading.RLock()  # a future that is done already calls back at once
        self._coming: dict[Sample, Future[LoadedShard]] = {}
        self._kept: OrderedDict[Sample, Future[LoadedShard]] = OrderedDict()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="daskt2i-shards")

    def get(self, key: Sample) -> Future[LoadedShard]:
        """The shard, or its promise."""
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
        """Whether so many find room, as far as their size is known."""
        return shards * self._largest <= self._limit

    def close(self) -> None:
        """End the threads and forget everything."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._kept.clear()
            self._held = 0

    def _keep(self, key: Sample, future: Future[LoadedShard]) -> None:
        with self._lock:
            del self._coming[key]
            if future.cancelled() or future.exception() is not None:
                return  # whoever asks next has it tried again
            self._kept[key] = future
            size = future.result().nbytes
            self._held += size
            self._largest = max(self._largest, size)
            while self._held > self._limit:
                self._held -= self._kept.popitem(last=False)[1].result().nbytes
