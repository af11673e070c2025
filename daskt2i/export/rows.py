"""The rows of a store on their way to another format: chunk by chunk, with all captions.

Covers: rows in memory, facts of the store that a format or its card needs.
Does not cover: files of a format (its module), which rows (`loader.own_trainer.selection`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from daskt2i.errors import StoreError
from daskt2i.export.columns import ExportedColumns, require_same_columns
from daskt2i.loader.joined.joined_reader import open_reader
from daskt2i.loader.memory.loaded_rows import LoadedRows
from daskt2i.loader.sample_order import Whole
from daskt2i.loader.shards import Wanted
from daskt2i.store.forms.made_rows import made_layout
from daskt2i.store.parts.rows_file import members
from daskt2i.store.zarr_store import ZarrStore

Array = npt.NDArray[Any]

_LABELS = ("image_id", "file_name", "caption")
EXPORTED = ("row", "captions", "text_tokens", "caption_ends", "row_ends")
"""Names that formats give to other things, so no array of a column gets one."""
_NOT_EXPORTED = ("latent_mean", "latent_std", "text_states", "text_mask", "valid")


@dataclass(frozen=True, slots=True)
class ExportedRows:
    """The rows of a chunk.

    Attributes:
        numbers: rows of the store, `int64[n]`.
        image_ids: the source's numbers, `int64[n]`.
        file_names: the images below the source's image root.
        captions: all captions of each row.
        mean, std: `[n, channel, y, x]`, raw; std is None if the encoder has no posterior.
        states: for each row `[caption, token, feature]`, without the padding that all of its captions share.
        masks: for each row `bool[caption, token]`.
        extra: other arrays, and those of columns: for each row one array. Arrays of captions have as many entries as
            the row has captions.
        of_captions: names of those in `extra` that have an entry for each caption.
    """

    numbers: Whole
    image_ids: Whole
    file_names: Sequence[str]
    captions: Sequence[Sequence[str]]
    mean: Array
    std: Array | None
    states: Sequence[Array]
    masks: Sequence[npt.NDArray[np.bool_]]
    extra: dict[str, Sequence[Array]]
    of_captions: frozenset[str]

    def __len__(self) -> int:
        return len(self.numbers)


class Writer(Protocol):
    """Writes the files of a format into an empty folder."""

    def write(self, part: ExportedRows) -> None:
        """Write the rows of a chunk."""

    def close(self) -> None:
        """Write what is left, and close the files."""

    def discard(self) -> None:
        """Close the files after an error. They will be removed."""


@dataclass(frozen=True)
class Exported:
    """The store that is exported.

    Attributes:
        store: the store.
        numbers: rows to export, `int64[n]`, ascending.
        about: what `encode` wrote about the store.
        latent_shape: (channels, height, width).
        features: number of features of a text state.
        extra: names of other arrays.
    """

    store: ZarrStore
    numbers: Whole = field(repr=False)
    about: dict[str, Any] = field(repr=False)
    latent_shape: tuple[int, int, int]
    features: int
    extra: tuple[str, ...]

    @classmethod
    def of(cls, store: ZarrStore, numbers: Whole) -> Exported:
        """The store with these rows.

        Raises:
            StoreError: its metadata are damaged.
        """
        reader = open_reader(store.folder, 0, True)
        layout = made_layout(store)["arrays"]
        if "text_states" not in layout:
            raise StoreError(
                f"{store.address} has captions without text states (dataset.store.text is training), but an export "
                "has states. Nothing was written; encode with dataset.store.text=exact into another run folder (out), "
                "and export that."
            )
        extra = tuple(name for name in layout if name not in (*_NOT_EXPORTED, *_LABELS))
        return cls(store, numbers, reader.attributes, reader.latent_shape, reader.features, extra)

    def image_ids(self) -> Whole:
        """The source's number of each exported row, `int64[n]`."""
        stores, found = members(self.store.folder), []
        edges = np.searchsorted(self.numbers, [one.offset for one in stores[1:]])
        for one, numbers in zip(stores, np.split(self.numbers, edges), strict=True):
            store = ZarrStore(one.folder)
            found.append(store.read("image_id", 0, store.layout()["rows"])[numbers - one.offset])
        return np.concatenate(found)

    def parts(self) -> Iterator[ExportedRows]:
        """The rows, one chunk in memory at a time.

        Raises:
            StoreError: a chunk is damaged.
        """
        layout = made_layout(self.store)["arrays"]
        labels = tuple(name for name in _LABELS if name in layout)
        folder = self.store.folder
        reader = open_reader(folder, 0, True, Wanted(captions="all", extra=(*labels, *self.extra)))
        of_captions = frozenset(name for name in self.extra if layout[name]["dims"][:1] == ["slot"])
        stores = members(folder)
        columns_of = [ExportedColumns(one.folder, {*layout, *EXPORTED}) for one in stores]
        require_same_columns(stores, columns_of)
        size = reader.grid.rows_per_chunk
        try:
            for numbers in np.split(self.numbers, np.flatnonzero(np.diff(self.numbers // size)) + 1):
                rows = reader.read([[(-1, row) for row in numbers.tolist()]])[0]
                part = _exported(numbers, rows, reader.masked, of_captions)
                at = max(place for place, one in enumerate(stores) if one.offset <= numbers[0])
                columns = columns_of[at]
                more = columns.read(numbers - stores[at].offset, rows.captions)
                yield replace(part, extra=part.extra | more, of_captions=of_captions | columns.of_captions)
        finally:
            reader.close()


def _exported(numbers: Whole, rows: LoadedRows, masked: bool, of_captions: frozenset[str]) -> ExportedRows:
    states, masks, captions = [], [], []
    for place, count in enumerate(rows.captions.tolist()):
        mask = rows.mask[place, :count]
        width = int(np.flatnonzero(mask.any(0))[-1]) + 1 if masked else mask.shape[1]
        made = np.zeros((count, width, rows.tokens.shape[1]), rows.tokens.dtype)
        for slot in range(count):
            begin, length = int(rows.begins[place, slot]), min(width, int(rows.lengths[place, slot]))
            made[slot, :length] = rows.tokens[begin : begin + length]
        states.append(made)
        masks.append(np.ascontiguousarray(mask[:, :width]))
        texts = rows.extra["caption"][place][:count] if "caption" in rows.extra else ()
        captions.append([str(text) for text in texts])
    extra: dict[str, Sequence[Array]] = {
        name: [values[place, :count] if name in of_captions else values[place] for place, count in _counted(rows)]
        for name, values in rows.extra.items()
        if name not in _LABELS
    }
    ids = rows.extra.get("image_id", numbers)
    names = rows.extra.get("file_name", numbers)
    return ExportedRows(
        numbers,
        np.asarray(ids),
        [str(name) for name in names],
        captions,
        rows.mean,
        rows.std,
        states,
        masks,
        extra,
        of_captions,
    )


def _counted(rows: LoadedRows) -> Iterator[tuple[int, int]]:
    return enumerate(rows.captions.tolist())
