"""Where the text states of rows come from: padded arrays of the store, packed ones, or a text encoder.

Covers: the masks and tokens of rows whose captions are chosen, and those of the empty prompt.
Does not cover: choosing captions (`loader.shards`), how states are packed (`store.forms.packed`), the encoder and its
memory (`caption_states`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from daskt2i.errors import StoreError
from daskt2i.loader.forms.caption_states import CaptionStates, Mask, State
from daskt2i.loader.forms.decoded import array_of
from daskt2i.loader.inner_chunks import ShardedArray
from daskt2i.loader.memory.loaded_rows import LoadedRows
from daskt2i.loader.sample_order import Whole
from daskt2i.store.forms.form import MASK, STATES, Form, Forms
from daskt2i.store.forms.packed import lengths_of, places_of
from daskt2i.store.layout import EMPTY_PREFIX
from daskt2i.store.zarr_flush import reading_store
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Chunk


class ShardTexts(Protocol):
    """The texts of some rows of one shard.

    Attributes:
        counts: `int64[n]`, number of captions of each row.
    """

    counts: Whole

    def masks(self, places: Whole, slots: Whole | None) -> Mask:
        """`bool[m, k, token]` of the chosen captions.

        Args:
            places: index of each row among the n.
            slots: the slot of each row (k is 1); None for all slots.
        """

    def fill(self, made: Sequence[LoadedRows]) -> None:
        """Fill `LoadedRows.tokens` of rows whose masks were asked for.

        Raises:
            StoreError: the shard is damaged.
        """


class Texts(Protocol):
    """The texts of a store."""

    def opened(self, chunk: Chunk, rows: Sequence[int], offset: int) -> ShardTexts:
        """The texts of rows of one shard.

        Args:
            chunk: the shard, by rows of the store.
            rows: ascending.
            offset: number of row 0 of the store in `rows`.

        Raises:
            StoreError: the shard is damaged.
        """

    def tokens_of(self, chunk: Chunk) -> Whole:
        """Number of tokens of each caption of a shard, about, `int64[row, slot]`; 0 for an unused slot."""

    def empty(self) -> State:
        """The empty prompt: mask `bool[token]`, states `[token, feature]`."""


class StoredTexts:
    """The texts of a store that has text states.

    Raises:
        StoreError: the empty prompt of the store is damaged.
    """

    def __init__(self, store: ZarrStore, forms: Forms, arrays: Mapping[str, Any]) -> None:
        self._store = store
        form = forms.get(STATES)
        self.form = form if form is not None and form.packed else None
        self.states = array_of(store, STATES, forms)
        self.begin = ShardedArray(store, self.form.begin) if self.form is not None else None
        self._mask = ShardedArray(store, MASK)
        self._shape = tuple(arrays[MASK]["shape"])
        self._empty = read_constant(store, MASK), read_constant(store, STATES)

    def opened(self, chunk: Chunk, rows: Sequence[int], offset: int) -> ShardTexts:
        """See `Texts.opened`."""
        local = [row - offset for row in rows]
        mask = np.empty((len(rows), *self._shape), np.bool_)
        for first, block in self._mask.blocks(chunk.start, chunk.stop, local):
            low, high = np.searchsorted(local, (first, first + len(block)))
            np.take(block, np.array(local[low:high]) - first, axis=0, out=mask[low:high], mode="clip")
        kind = _Padded if self.form is None else _Packed
        return kind(self, chunk, local, offset, mask)

    def tokens_of(self, chunk: Chunk) -> Whole:
        """See `Texts.tokens_of`. They come from the masks."""
        return lengths_of(self._store.read(MASK, chunk.start, chunk.stop), whole=False)

    def empty(self) -> State:
        """See `Texts.empty`."""
        return self._empty


def read_constant(store: ZarrStore, name: str) -> npt.NDArray[Any]:
    """An array of the empty prompt, `[token, feature]` or less.

    Raises:
        StoreError: it is missing or damaged.
    """
    import zarr

    place = reading_store(store.folder, store.name)
    try:
        return np.asarray(zarr.open_array(store=place, path=EMPTY_PREFIX + name, mode="r", zarr_format=3)[...])
    except Exception as error:  # zarr and its codecs raise many kinds for damaged bytes
        raise StoreError(
            f"The empty prompt's {name} in {store.address} cannot be read ({error}). The rows are unchanged; run "
            "encode again, which writes it again."
        ) from error


class _Stored:
    """Rows of one shard whose masks are known."""

    def __init__(self, texts: StoredTexts, chunk: Chunk, local: Sequence[int], offset: int, mask: Mask) -> None:
        self.texts, self.chunk, self.local, self.offset = texts, chunk, local, offset
        self._mask = mask
        self.counts: Whole = mask.any(-1).sum(-1)

    def masks(self, places: Whole, slots: Whole | None) -> Mask:
        """See `ShardTexts.masks`."""
        chosen = self._mask[places]
        return chosen if slots is None else chosen[np.arange(len(places)), slots][:, None]


class _Padded(_Stored):
    """Text states with padding, `[row, slot, token, feature]`."""

    def fill(self, made: Sequence[LoadedRows]) -> None:
        """See `ShardTexts.fill`."""
        for first, block in self.texts.states.blocks(self.chunk.start, self.chunk.stop, self.local):
            for one in made:
                one.fill_tokens(block, first + self.offset)


class _Packed(_Stored):
    """Text states without padding, of which each block holds tokens of many rows."""

    def fill(self, made: Sequence[LoadedRows]) -> None:
        """See `ShardTexts.fill`."""
        form, array = self.texts.form, self.texts.begin
        assert form is not None
        assert array is not None
        start, stop = self.chunk.start, self.chunk.stop
        slots, tokens, _ = form.made.shape
        room = slots * tokens
        begin = np.zeros((stop - start, slots), np.int64)
        for first, block in array.blocks(start, stop, self.local):
            begin[first - start : first - start + len(block)] = block
        moves = [self._moves(form, one, begin) for one in made]
        wanted = np.unique(np.concatenate([sources // room for sources, _ in moves])) + start
        for one in made:
            one.tokens[:] = 0  # the loaded rows have a few tokens of padding
        for first, block in self.texts.states.blocks(start, stop, wanted.tolist()):
            low = (first - start) * room
            flat = block.reshape(-1, block.shape[-1])
            for one, (sources, targets) in zip(made, moves, strict=True):
                here = (sources >= low) & (sources < low + len(flat))
                one.tokens[targets[here]] = flat[sources[here] - low]

    def _moves(
        self, form: Form, one: LoadedRows, begin: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Where each token is in the packed array, and where it goes."""
        places = np.array([row - self.offset - self.chunk.start for _, row in one.samples])
        chosen = begin[places] if one.slots is None else begin[places, one.slots][:, None]
        lengths = np.minimum(lengths_of(one.mask, form.whole), one.lengths)
        return places_of(chosen.ravel(), lengths.ravel()), places_of(one.begins.ravel(), lengths.ravel())


class EncodedTexts:
    """The texts of a store that has captions alone. They are encoded when they are drawn."""

    def __init__(self, store: ZarrStore, encoder: CaptionStates) -> None:
        self._store, self.encoder = store, encoder
        self._empty: State | None = None

    def opened(self, chunk: Chunk, rows: Sequence[int], offset: int) -> ShardTexts:
        """See `Texts.opened`."""
        captions = self._store.read("caption", chunk.start, chunk.stop)
        return _Encoded(self.encoder, captions[[row - offset - chunk.start for row in rows]], rows)

    def tokens_of(self, chunk: Chunk) -> Whole:
        """See `Texts.tokens_of`. They are guessed from the lengths of the captions."""
        captions = self._store.read("caption", chunk.start, chunk.stop)
        return np.vectorize(self.encoder.about_tokens, otypes=[np.int64])(captions)

    def empty(self) -> State:
        """See `Texts.empty`."""
        if self._empty is None:
            mask, states = self.encoder.states([""])[""]
            padded = np.zeros((self.encoder.tokens, self.encoder.features), states.dtype)
            padded[: len(states)] = states
            self._empty = mask, padded
        return self._empty


class _Encoded:
    """Rows of one shard whose captions are encoded when they are chosen."""

    def __init__(self, encoder: CaptionStates, captions: npt.NDArray[Any], rows: Sequence[int]) -> None:
        self._encoder, self._captions, self._rows = encoder, captions, rows
        self.counts: Whole = (captions != "").sum(-1)
        self._known: dict[str, State] = {}

    def masks(self, places: Whole, slots: Whole | None) -> Mask:
        """See `ShardTexts.masks`."""
        chosen = self._captions[places] if slots is None else self._captions[places, slots][:, None]
        texts = [str(text) for text in chosen.ravel() if text]
        self._known |= self._encoder.states(sorted(set(texts) - self._known.keys()))
        made = np.zeros((*chosen.shape, self._encoder.tokens), np.bool_)
        for place, text in np.ndenumerate(chosen):
            if text:
                made[place] = self._known[str(text)][0]
        return made

    def fill(self, made: Sequence[LoadedRows]) -> None:
        """See `ShardTexts.fill`."""
        for one in made:
            places = np.searchsorted(self._rows, [row for _, row in one.samples])
            chosen = self._captions[places]
            texts = chosen if one.slots is None else chosen[np.arange(len(places)), one.slots][:, None]
            one.tokens[:] = 0
            for place, text in np.ndenumerate(texts):
                if text:
                    states = self._known[str(text)][1]
                    begin = int(one.begins[place])
                    length = min(len(states), int(one.lengths[place]))
                    one.tokens[begin : begin + length] = states[:length]


class NoTexts:
    """The texts of a store that has captions alone, where nobody reads their states: each caption is one token without
    features."""

    def __init__(self, store: ZarrStore) -> None:
        self._store = store

    def opened(self, chunk: Chunk, rows: Sequence[int], offset: int) -> ShardTexts:
        """See `Texts.opened`."""
        captions = self._store.read("caption", chunk.start, chunk.stop)
        return _Uncoded(captions[[row - offset - chunk.start for row in rows]] != "")

    def tokens_of(self, chunk: Chunk) -> Whole:
        """See `Texts.tokens_of`."""
        return (self._store.read("caption", chunk.start, chunk.stop) != "").astype(np.int64)

    def empty(self) -> State:
        """See `Texts.empty`."""
        return np.ones(1, np.bool_), np.empty((1, 0), np.float16)


class _Uncoded:
    """Rows of which only the number of captions is known."""

    def __init__(self, used: npt.NDArray[np.bool_]) -> None:
        self._used = used
        self.counts: Whole = used.sum(-1)

    def masks(self, places: Whole, slots: Whole | None) -> Mask:
        """See `ShardTexts.masks`."""
        chosen = self._used[places]
        return (chosen if slots is None else chosen[np.arange(len(places)), slots][:, None])[..., None]

    def fill(self, made: Sequence[LoadedRows]) -> None:
        """Nothing is read."""
