"""Reads rows of a latent store for training, and checks them.

Covers: the accepted rows, the caption of an epoch, scaling raw latents, missing or damaged shards.
Does not cover: decoding (`inner_chunks`), rows in memory (`upcoming_rows`), the order of rows (`sample_order`), batches
(`dataset`), opening a store with xarray (`store.zarr_store.open_store`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.encoders.latent_scaling import latent_scaling
from daskt2i.errors import StoreError
from daskt2i.loader.inner_chunks import ShardedArray
from daskt2i.loader.sample_order import RandomStreams, Sample, Whole
from daskt2i.plan import ChunkGrid
from daskt2i.store.layout import EMPTY_PREFIX, about_store, padding_is_text
from daskt2i.store.receipts import Receipts
from daskt2i.store.zarr_flush import reading_store
from daskt2i.store.zarr_store import ZarrStore

Floats = npt.NDArray[np.float32]

TOKENS = 8
"""Trimmed text has a multiple of so many tokens. So compilers see few shapes, and matrix units are used well."""


@dataclass(frozen=True, slots=True)
class LoadedRow:
    """A decoded row.

    Attributes:
        mean, std: `float16[c, y, x]`, raw; std is None if nothing is drawn from the posterior.
        captions: number of captions.
        mask: `bool[slot, token]` of all captions.
        states: `float16[token, feature]` of each loaded slot; tokens are trimmed.
    """

    mean: npt.NDArray[np.float16]
    std: npt.NDArray[np.float16] | None
    captions: int
    mask: npt.NDArray[np.bool_]
    states: Mapping[int, npt.NDArray[np.float16]]

    @property
    def nbytes(self) -> int:
        std = 0 if self.std is None else self.std.nbytes
        return self.mean.nbytes + std + self.mask.nbytes + sum(one.nbytes for one in self.states.values())


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
        self._latent_bytes = channels * height * width * (4 if self.draws else 2)
        names = ("text_mask", "latent_mean", "text_states", *(("latent_std",) if self.draws else ()))
        self._arrays = {name: ShardedArray(store, name) for name in names}
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

    def read(self, samples: Sequence[Sample]) -> dict[Sample, LoadedRow]:
        """Rows of one shard, each with the caption of its epoch only; with all captions if the epoch is negative.

        Raises:
            StoreError: the rows cannot be read, or they do not match the receipt.
        """
        shard = samples[0][1] // self.grid.rows_per_chunk
        epochs: dict[int, list[int]] = {}
        for epoch, row in samples:
            epochs.setdefault(row, []).append(epoch)
        start, stop = self._edges(shard)
        rows = sorted(epochs)
        streams = RandomStreams(self._key)

        def each(name: str) -> Iterator[tuple[int, npt.NDArray[Any]]]:
            """(row, its values) of one array. The values are valid until the next row."""
            left = deque(rows)
            for first, block in self._arrays[name].blocks(start, stop, rows):
                while left and left[0] < first + len(block):
                    yield left[0], block[left.popleft() - first]

        masks = {row: values.copy() for row, values in each("text_mask")}
        captions = {row: int(mask.any(-1).sum()) for row, mask in masks.items()}
        if not all(captions.values()):
            raise self._gone(start)
        latents: list[dict[int, npt.NDArray[np.float16]]] = [{}, {}]
        for name, found in zip(("latent_mean", "latent_std")[: 1 + self.draws], latents, strict=False):
            for row, values in each(name):
                found[row] = values.copy()
        texts: dict[Sample, dict[int, npt.NDArray[np.float16]]] = {}
        for row, values in each("text_states"):
            for epoch in epochs[row]:
                count = captions[row]
                slots = range(count) if epoch < 0 else (streams.slot(epoch, row, count),)
                texts[epoch, row] = {
                    slot: values[slot, : self.width(masks[row][slot : slot + 1])].copy() for slot in slots
                }
        # One number of each row and caption is enough to check: a missing shard has only NaN.
        firsts = [values.flat[0] for found in latents for values in found.values()]
        firsts += [values.flat[0] for text in texts.values() for values in text.values()]
        if not np.isfinite(firsts).all():
            raise self._gone(start)
        means, stds = latents
        return {
            (epoch, row): LoadedRow(means[row], stds.get(row), captions[row], masks[row], text)
            for (epoch, row), text in texts.items()
        }

    def row_bytes(self, every_caption: bool) -> float:
        """Expected size of a `LoadedRow`, with one caption or with all, from the masks of a few shards."""
        state = self.features * 2
        if not self.masked:
            text = float(self.tokens * state * (self.slots if every_caption else 1))
        else:
            sizes = []
            for index in sorted({0, len(self.grid) // 2, len(self.grid) - 1}):
                start, stop = self._edges(index)
                mask = self._store.read("text_mask", start, stop)
                lengths = (self.tokens - mask[..., ::-1].argmax(-1)) * mask.any(-1)
                padded = np.minimum(-(-lengths // TOKENS) * TOKENS, self.tokens).sum(-1)
                used = np.maximum(mask.any(-1).sum(-1), 1)
                sizes.append(float((padded if every_caption else padded / used).mean()) * state)
            text = max(sizes)
        return self._latent_bytes + self.slots * self.tokens + text

    def width(self, mask: npt.NDArray[np.bool_]) -> int:
        """Number of tokens to keep of captions with this mask, `bool[n, token]`."""
        if not self.masked:
            return self.tokens
        longest = int(np.flatnonzero(mask.any(0)).max(initial=0)) + 1
        return min(-(-longest // TOKENS) * TOKENS, self.tokens)

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
