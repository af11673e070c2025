"""Reads rows of a latent store for training, and checks them.

Covers: the accepted rows, the caption of an epoch, scaling raw latents, missing or damaged shards.
Does not cover: decoding (`inner_chunks`), decoded rows (`loaded_rows`), rows in memory (`upcoming_rows`), the order of
rows (`sample_order`), batches (`batch_arrays`), opening a store with xarray (`store.zarr_store.open_store`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from daskt2i.encoders.latent_scaling import latent_scaling
from daskt2i.errors import ConfigError, StoreError
from daskt2i.loader.forms.caption_states import CaptionStates, encodes_at_training
from daskt2i.loader.forms.decoded import ReadsBlocks, array_of
from daskt2i.loader.forms.texts import EncodedTexts, NoTexts, ShardTexts, StoredTexts, Texts, read_constant
from daskt2i.loader.joined.column_rows import ColumnRows
from daskt2i.loader.memory.loaded_rows import LoadedRows
from daskt2i.loader.memory.used_again import Blocks
from daskt2i.loader.sample_order import RandomStreams, Sample, Weights, Whole
from daskt2i.plan import ChunkGrid
from daskt2i.store.columns.arrays import column_arrays
from daskt2i.store.forms.made_rows import made_layout, stored_forms
from daskt2i.store.layout import about_store, padding_is_text
from daskt2i.store.parts.places import store_of_part
from daskt2i.store.parts.rows_file import Ranges, is_in
from daskt2i.store.receipts import Receipts
from daskt2i.store.views import View, grid_of
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Chunk

Floats = npt.NDArray[np.float32]

Captions = Literal["random", "first", "all"]

TOKENS = 8
"""Trimmed text has a multiple of so many tokens. So compilers see few shapes, and matrix units are used well."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read of a row.

    Attributes:
        latents: `latent_mean`, and `latent_std` if it is drawn from.
        text: `text_states`. The masks are always read: they say how many captions a row has.
        captions: `random` takes another caption of a row in each epoch, `first` its first one, `all` all of them.
        extra: names of other arrays, of the store or of its columns.
        encoder: makes the states of captions, if the store has captions alone.
        weights: how often `random` draws each slot; None for equally often. Rows in files have all captions, so these
            do not depend on it.
    """

    latents: bool = True
    text: bool = True
    captions: Captions = "random"
    extra: tuple[str, ...] = ()
    encoder: CaptionStates | None = None
    weights: Weights | None = field(default=None, repr=False)


ALL = Wanted()
"""What training reads."""

SOURCE_SIZE, CROP_BOX, POOLED = "source_size", "crop_box", "text_pooled"

SIZED = Wanted(extra=(SOURCE_SIZE, CROP_BOX, POOLED))
"""What training reads for a model that is told sizes and crops, as SDXL's."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of a store that a reader has, and how they are numbered.

    Attributes:
        offset: number of row 0 of the store.
        removed: rows of the store that are removed.
        view: the view whose latents are read; None for a store with plain names.
        mirrored: the view of the same pictures, mirrored; half of the samples take it. None for none.
    """

    offset: int = 0
    removed: Ranges = ()
    view: View | None = None
    mirrored: View | None = None


WHOLE = Piece()
"""A store that is alone."""


class Reader:
    """Reads a store for training.

    Args:
        store: the store.
        key: key of the random numbers.
        sample: whether to read the std for a draw from the posterior, if there is one.
        wanted: what to read.
        piece: which rows, and which of their latents.

    Raises:
        StoreMissing: there is no store here.
        StoreError: `encode` did not make the store, or its metadata or the empty prompt is damaged.
    """

    def __init__(self, store: ZarrStore, key: int, sample: bool, wanted: Wanted = ALL, piece: Piece = WHOLE) -> None:
        layout, attributes = made_layout(store), store.attributes() or {}
        if "daskt2i" not in attributes:
            raise StoreError(
                f"{store.address} was not made by encode, so its content is unknown. It was not changed; give a run "
                "folder that encode made (out)."
            )
        self.attributes: dict[str, Any] = about_store(store) or {}
        self.grid = grid_of(layout, self.attributes)
        self.mirrors = piece.mirrored is not None and wanted.latents
        self._store, self._key, self.piece = store, key, piece
        arrays = layout["arrays"]
        mean, std = (_in_view(name, piece.view) for name in ("latent_mean", "latent_std"))
        coded = not encodes_at_training(self.attributes)
        if missing := {mean, *(("text_states", "text_mask") if coded else ("caption",))} - arrays.keys():
            raise StoreError(
                f"{store.address} has no {', '.join(sorted(missing))}, but training needs them. It was not changed; "
                "encode into another run folder (out) with encoders that make them."
            )
        channels, height, width = arrays[mean]["shape"]
        self.latent_shape: tuple[int, int, int] = (channels, height, width)
        self.pooled = int(arrays[POOLED]["shape"][-1]) if POOLED in arrays else 0
        self._wanted, self.weights = wanted, wanted.weights
        forms = stored_forms(store)
        if coded:
            self.slots, self.tokens, self.features = arrays["text_states"]["shape"]
            self.text_kind = _kind(arrays["text_states"]["dtype"])
            self._texts: Texts = StoredTexts(store, forms, arrays)
        else:
            (self.slots,) = arrays["caption"]["shape"]
            encoder = wanted.encoder if wanted.text else None
            self.tokens, self.features = (1, 0) if encoder is None else (encoder.tokens, encoder.features)
            self.text_kind = _kind("float16" if encoder is None else encoder.dtype.name)
            self._texts = NoTexts(store) if encoder is None else EncodedTexts(store, encoder)
        if not wanted.latents:
            self.latent_shape = (0, 0, 0)
        if not wanted.text:
            self.features = 0
        self.draws = sample and wanted.latents and std in arrays
        self.latent_kind = _kind(*(arrays[name]["dtype"] for name in (mean, std)[: 1 + self.draws]))
        self.latent_bytes = channels * height * width * self.latent_kind.itemsize * (1 + self.draws)
        self._latents = ("latent_mean", "latent_std")[: wanted.latents + self.draws]
        self.slot_arrays = {name for name in wanted.extra if name in arrays and arrays[name]["dims"][:1] == ["slot"]}
        columns = column_arrays(store.folder) if set(wanted.extra) - arrays.keys() else {}
        if lost := [name for name in wanted.extra if name not in arrays and name not in columns]:
            raise ConfigError(
                f"{store.address} has no {lost[0]}, which was asked for. Nothing was read; leave it out (columns), or "
                f"run add for this column on the run folder {store_of_part(store.folder)}."
            )
        self._extra = {name: arrays[name] if name in arrays else columns[name].about for name in wanted.extra}
        views: list[View | None] = [view for view in (piece.view, piece.mirrored) if view is not None] or [None]
        latents = (_in_view(name, view) for name in self._latents for view in views)
        self._arrays: dict[str, ReadsBlocks] = {
            name: ColumnRows(columns[name]) if name in columns else array_of(store, name, forms)
            for name in (*latents, *self._extra)
        }
        self._blocks = Blocks()
        self.masked = not padding_is_text(self.attributes)
        self.empty_pooled = read_constant(store, POOLED) if POOLED in wanted.extra else np.empty(0, np.float16)
        shift, scale, factor = latent_scaling(self.attributes["image_encoder"], channels)
        self._shift = shift[:, None, None]
        self._scale = np.float32(factor) / scale[:, None, None]

    @property
    def empty_mask(self) -> npt.NDArray[np.bool_]:
        """Mask of the empty prompt, `bool[token]`."""
        return self._texts.empty()[0]

    @property
    def empty_states(self) -> npt.NDArray[Any]:
        """States of the empty prompt, `[token, feature]`."""
        return self._texts.empty()[1]

    def final(self, raw: Floats) -> Floats:
        """Scale `float32[b, c, y, x]` for the denoiser in place: `(raw - shift) * scale`, from the VAE's own config."""
        raw -= self._shift
        raw *= self._scale
        return raw

    def accepted(self, unfinished: bool = False) -> Whole:
        """The accepted rows of this piece, ascending.

        Args:
            unfinished: whether chunks may be missing.

        Raises:
            StoreError: a chunk has no receipt with this store's fingerprint.
        """
        return self.numbered(accepted_rows(self._store, self.attributes["fingerprint"], self.grid, unfinished))

    def numbered(self, rows: Whole) -> Whole:
        """Of accepted rows of the store, those of this piece, with their numbers here."""
        piece, size = self.piece, self.grid.rows_per_chunk
        kept = rows[~is_in(rows, piece.removed)]
        if piece.view is not None:
            first = piece.view.first_chunk * size
            kept = kept[(kept >= first) & (kept < first + piece.view.chunks * size)]
        return kept + piece.offset

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(channels, height, width) of the latents of each bucket: here one."""
        return (self.latent_shape,)

    def pixels_of(self, row: int) -> tuple[int, int]:
        """Height and width of the picture of a row, after crop and resize, pixels."""
        if self.piece.view is not None:
            return self.piece.view.height, self.piece.view.width
        image = self.attributes["identity"]["image"]
        resolution = int(image.get("resolution") or image["resolutions"][0])
        return resolution, resolution

    def buckets(self, rows: Whole) -> list[tuple[tuple[int, int, int], Whole]]:
        """(latent shape, rows) of each bucket: here one."""
        return [(self.latent_shape, rows)]

    @property
    def fingerprint(self) -> str:
        """That of the store."""
        return str(self.attributes["fingerprint"])

    def read(self, parts: Sequence[Sequence[Sample]], mirror: bool = True) -> list[LoadedRows]:
        """Rows of one shard in parts, each with the caption of its epoch only; with all captions if the epochs are
        negative.

        Args:
            mirror: whether half of the samples get mirrored latents, if the store has them.

        Raises:
            StoreError: the rows cannot be read, or they do not match the receipt.
        """
        parts = [sorted(part, key=lambda sample: sample[1]) for part in parts]
        chunk = self.grid[(parts[0][0][1] - self.piece.offset) // self.grid.rows_per_chunk]
        rows = sorted({row for part in parts for _, row in part})
        texts = self._texts.opened(chunk, rows, self.piece.offset)
        if not texts.counts.all():
            raise self._gone(chunk.index)
        made = []
        for part in parts:
            places = np.searchsorted(rows, [row for _, row in part])
            made.append(self._room_for(part, texts, places, mirror))
        for name in self._latents:
            self._fill_latents(name, chunk, made)
        if self._wanted.text:
            texts.fill(made)
        for name in self._extra:
            for first, block in self._decoded(name, chunk, rows):
                for one in made:
                    one.fill_rows(one.extra[name], block, first)
        if not all(np.isfinite(one.first_numbers()).all() for one in made):
            raise self._gone(chunk.index)
        return made

    def _decoded(self, name: str, chunk: Chunk, rows: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """`ShardedArray.blocks` with the numbers of this piece."""
        offset = self.piece.offset
        local = [row - offset for row in rows] if offset else rows
        for first, block in self._arrays[name].blocks(chunk.start, chunk.stop, local):
            yield first + offset, block

    def _fill_latents(self, name: str, chunk: Chunk, made: Sequence[LoadedRows]) -> None:
        """Fill `latent_mean` or `latent_std` of these rows, each from its view."""
        for view in (self.piece.view, self.piece.mirrored)[: 1 + (self.piece.mirrored is not None)]:
            is_mirrored = view is not None and view is self.piece.mirrored
            only = [None if one.mirrored is None else one.mirrored == is_mirrored for one in made]
            if is_mirrored and all(one is None for one in only):
                return
            chosen = (
                row
                for one, mine in zip(made, only, strict=True)
                for place, (_, row) in enumerate(one.samples)
                if mine is None or mine[place]
            )
            for first, block in self._decoded(_in_view(name, view), chunk, sorted(set(chosen))):
                for one, mine in zip(made, only, strict=True):
                    target = one.mean if name == "latent_mean" else one.std
                    if target is not None:
                        one.fill_rows(target, block, first, mine)

    def _room_for(self, samples: Sequence[Sample], texts: ShardTexts, places: Whole, mirror: bool) -> LoadedRows:
        """Arrays for these rows; latents and tokens are not filled yet."""
        count, slots, captions = len(samples), None, texts.counts[places]
        if samples[0][0] >= 0 and self._wanted.captions != "all":
            drawn = self.slots > 1 and self._wanted.captions == "random"
            streams = RandomStreams(self._key) if drawn else None
            slots = np.zeros(count, np.int64)
            if streams is not None:
                counts = zip(samples, captions.tolist(), strict=True)
                slots[:] = [streams.slot(epoch, row, n, self.weights) for (epoch, row), n in counts]
        mask = texts.masks(places, slots)
        lengths = self.widths(mask)
        if slots is None:
            lengths = lengths * (np.arange(self.slots) < captions[:, None])
        latents = [(self.latent_kind, (count, *self.latent_shape))] * (1 + self.draws)
        text = (self.text_kind, (int(lengths.sum()) + 1, self.features))
        mean, *std, tokens = self._blocks.block(*latents, text)
        tokens[-1] = 0
        begins = (lengths.cumsum() - lengths.ravel()).reshape(lengths.shape)
        extra = {name: _room(count, about) for name, about in self._extra.items()}
        mirrored = None
        if mirror and self.mirrors and samples[0][0] >= 0:
            numbers = RandomStreams(self._key)
            mirrored = np.array([numbers.mirrored(epoch, row) for epoch, row in samples])
        latent = std[0] if std else None
        return LoadedRows(samples, mean, latent, captions, slots, mask, begins, lengths, tokens, extra, mirrored)

    def close(self) -> None:
        """Free the memory of rows that nobody holds."""
        self._blocks.close()

    def row_bytes(self, every_caption: bool) -> float:
        """Expected size of a `LoadedRow`, with one caption or with all, from the texts of a few shards."""
        every_caption = every_caption or self._wanted.captions == "all"
        state = self.features * self.text_kind.itemsize
        if not self.masked:
            text = float(self.tokens * state * (self.slots if every_caption else 1))
        else:
            sizes = []
            for index in sorted({0, len(self.grid) // 2, len(self.grid) - 1}):
                tokens = self._texts.tokens_of(self.grid[index])
                padded = (self._width(tokens) * (tokens > 0)).sum(-1)
                used = np.maximum((tokens > 0).sum(-1), 1)
                sizes.append(float((padded if every_caption else padded / used).mean()) * state)
            text = max(sizes)
        return self.latent_bytes + self.slots * self.tokens + text

    def widths(self, mask: npt.NDArray[np.bool_]) -> Whole:
        """Number of tokens to keep of each caption with this mask, `bool[..., token]`."""
        if not self.masked:
            return np.full(mask.shape[:-1], self.tokens, np.int64)
        return self._width((self.tokens - mask[..., ::-1].argmax(-1)) * mask.any(-1))

    def _width(self, last: Whole) -> Whole:
        """Number of tokens to keep of captions with so many tokens."""
        return np.clip(-(-last // TOKENS) * TOKENS, min(TOKENS, self.tokens), self.tokens)

    def _gone(self, index: int) -> StoreError:
        return StoreError(
            f"Chunk {index} of {self._store.address} does not match its receipt: a shard is missing. Saved checkpoints "
            "stay. Run verify to find the damaged chunks, then encode again: it repairs only these."
        )


def accepted_rows(store: ZarrStore, fingerprint: str, grid: ChunkGrid, unfinished: bool = False) -> Whole:
    """The accepted rows of a store, ascending. They come from the receipts, because reading `valid` would read every
    shard.

    Args:
        fingerprint, grid: of the store.
        unfinished: whether chunks may be missing.

    Raises:
        StoreError: a chunk has no receipt with this fingerprint.
    """
    kept = dict[int, Whole]()
    for receipt in Receipts(store.folder).read():
        if receipt.fingerprint != fingerprint or receipt.chunk >= len(grid):
            continue
        chunk = grid[receipt.chunk]
        if (receipt.start, receipt.stop) == (chunk.start, chunk.stop):
            rejected = [rejection.row for rejection in receipt.rejected]
            kept[receipt.chunk] = np.setdiff1d(np.arange(receipt.start, receipt.stop), rejected, assume_unique=True)
    if (opened := len(grid) - len(kept)) and not unfinished:
        first = next(index for index in range(len(grid)) if index not in kept)
        raise StoreError(
            f"{opened} of {len(grid)} chunks of {store.folder} are not done, first chunk {first}. "
            "The other chunks stay; run encode again, which encodes only the open chunks, then train."
        )
    return np.concatenate([np.empty(0, np.int64), *(kept[index] for index in sorted(kept))])


def _in_view(name: str, view: View | None) -> str:
    return name if view is None else view.array(name)


def _room(count: int, about: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Memory for rows of an array of the layout."""
    text = about["dtype"] == "string"
    return np.zeros((count, *about["shape"]), object if text else np.dtype(about["dtype"]))


def _kind(*dtypes: str) -> np.dtype[Any]:
    """The dtype in memory of arrays with these dtypes. A cast to float16 would make a large number infinite."""
    return np.dtype(np.float16 if set(dtypes) == {"float16"} else np.float32)
