"""Reads rows of all stores of a run folder, and of all buckets of a store, as if they were one store.

    reader = open_reader(folder, key, sample=True)
    reader.accepted()                        # numbers of rows over the first store and its parts
    reader.buckets(rows)                     # rows of one latent shape each

Covers: which stores and views are read, which of them has a chunk, what all of them share.
Does not cover: reading one store (`loader.shards`), the order over buckets (`bucket_mix`), which parts count
(`store.parts`).

A store takes the numbers of whole chunks, so a chunk lies in one store. With buckets a chunk belongs to one of them. So
each chunk has one reader, and a batch of one bucket may come from several stores.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import ConfigError, StoreError
from daskt2i.loader.memory.loaded_rows import LoadedRows
from daskt2i.loader.sample_order import Sample, Whole
from daskt2i.loader.shards import ALL, Floats, Piece, Reader, Wanted, accepted_rows
from daskt2i.plan import ChunkGrid
from daskt2i.store.parts.rows_file import Member, members
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.views import FLIPPED, View, views_of
from daskt2i.store.zarr_store import ZarrStore

Shape = tuple[int, int, int]
"""(channels, height, width) of a latent."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which latents of a row are read.

    Attributes:
        view: name of a view, such as `512x448`. None: of several resolutions the first, and of buckets all.
        mirror: whether half of the samples take the mirrored latent, if the store has one.
    """

    view: str | None = None
    mirror: bool = True


DEFAULT = Choice()


class JoinedReader:
    """Reads the rows of several readers. It has the methods of a `Reader`, with the numbers of rows over all stores.

    Args:
        stores: the stores, in the order of their rows, each with the readers of its chunks.
    """

    def __init__(self, stores: Sequence[tuple[Member, Sequence[Reader]]]) -> None:
        self._stores = stores
        every = [reader for _, readers in stores for reader in readers]
        self._readers = sorted(every, key=_first_chunk)
        self._firsts = [_first_chunk(reader) for reader in self._readers]
        first = self.first = self._readers[0]
        self.attributes = first.attributes
        self.grid = _joined_grid([(member, readers[0].grid) for member, readers in stores])
        self.slots, self.weights = max(reader.slots for reader in every), first.weights
        self.tokens, self.features, self.draws = first.tokens, first.features, first.draws
        self.latent_kind, self.text_kind, self.masked = first.latent_kind, first.text_kind, first.masked
        self.empty_pooled, self.pooled = first.empty_pooled, first.pooled
        self.latent_shape = first.latent_shape
        self.mirrors = any(reader.mirrors for reader in every)

    @property
    def empty_mask(self) -> npt.NDArray[np.bool_]:
        """See `Reader.empty_mask`."""
        return self.first.empty_mask

    @property
    def empty_states(self) -> npt.NDArray[Any]:
        """See `Reader.empty_states`."""
        return self.first.empty_states

    def accepted(self, unfinished: bool = False) -> Whole:
        """The accepted rows that are not removed, ascending.

        Raises:
            StoreError: a chunk has no receipt.
        """
        found = []
        for member, readers in self._stores:
            given = readers[0].attributes["fingerprint"], readers[0].grid, unfinished
            rows = accepted_rows(ZarrStore(member.folder), *given)
            found += [reader.numbered(rows) for reader in readers]
        return np.sort(np.concatenate(found))

    def read(self, parts: Sequence[Sequence[Sample]], mirror: bool = True) -> list[LoadedRows]:
        """See `Reader.read`."""
        reader = self._of(parts[0][0][1] // self.grid.rows_per_chunk)
        return [_widened(one, self.slots, reader.slot_arrays) for one in reader.read(parts, mirror)]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """(channels, height, width) of the latents of each bucket, in the order of their first rows."""
        return tuple(dict.fromkeys(reader.latent_shape for reader in self._readers))

    def buckets(self, rows: Whole) -> list[tuple[Shape, Whole]]:
        """The rows of each latent shape, ascending; shapes in the order of their first rows. No shape is empty."""
        size, found = self.grid.rows_per_chunk, dict[Shape, list[Whole]]()
        edges = np.searchsorted(rows, [first * size for first in self._firsts[1:]])
        for reader, part in zip(self._readers, np.split(rows, edges), strict=True):
            if len(part):
                found.setdefault(reader.latent_shape, []).append(part)
        return [(shape, np.concatenate(parts)) for shape, parts in found.items()]

    @property
    def fingerprint(self) -> str:
        """That of the store, or a hash of those of all stores."""
        found = [readers[0].fingerprint for _, readers in self._stores]
        return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()

    def pixels_of(self, row: int) -> tuple[int, int]:
        """See `Reader.pixels_of`."""
        return self._of(row // self.grid.rows_per_chunk).pixels_of(row)

    def final(self, raw: Floats) -> Floats:
        """See `Reader.final`."""
        return self.first.final(raw)

    def widths(self, mask: npt.NDArray[np.bool_]) -> Whole:
        """See `Reader.widths`."""
        return self.first.widths(mask)

    def row_bytes(self, every_caption: bool) -> float:
        """See `Reader.row_bytes`. Latents count as those of the largest shape."""
        latents = max(reader.latent_bytes for reader in self._readers)
        return self.first.row_bytes(every_caption) - self.first.latent_bytes + latents

    def close(self) -> None:
        """Free the memory of rows that nobody holds."""
        for reader in self._readers:
            reader.close()

    def _of(self, chunk: int) -> Reader:
        return self._readers[bisect_right(self._firsts, chunk) - 1]


AnyReader = Reader | JoinedReader


def open_reader(
    folder: RunFolder,
    key: int,
    sample: bool,
    wanted: Wanted = ALL,
    choice: Choice = DEFAULT,
    open_as: Callable[[RunFolder], ZarrStore] = ZarrStore,
) -> AnyReader:
    """The reader of all rows of a run folder.

    Args:
        key, sample, wanted: as in `Reader`.
        choice: which latents of a row.
        open_as: how the store of a run folder is read.

    Raises:
        ConfigError: there is no such view.
        StoreMissing: there is no store here.
        StoreError: metadata are damaged, or a part does not fit to the first store.
    """
    stores, opened = [], [(member, open_as(member.folder)) for member in members(folder)]
    lacking = _without_view([(member, _views(store)) for member, store in opened], choice.view)
    for member, store in opened:
        if member.name not in lacking:
            pieces = _pieces(member, store, choice)
            stores.append((member, [Reader(store, key, sample, wanted, piece) for piece in pieces]))
    if len(opened) == 1 and len(stores[0][1]) == 1:
        return stores[0][1][0]
    first = stores[0][1][0]
    for member, readers in stores[1:]:
        if any(_kind(reader) != _kind(first) for reader in readers):
            raise StoreError(
                f"The part {member.name} of {folder} has other arrays than the first store, so their rows cannot be "
                "read together. Both are unchanged; remove the part's rows, and append them with the encoders and "
                "settings of the store."
            )
    return JoinedReader(stores)


def place_of(folder: RunFolder, row: int) -> tuple[ZarrStore, int]:
    """The store that has a row, and the number of the row there."""
    member = next(one for one in reversed(members(folder)) if one.offset <= row)
    return ZarrStore(member.folder), row - member.offset


def chosen_views(views: Sequence[View], name: str | None, folder: RunFolder) -> list[View]:
    """The views to read of a store: one of several resolutions, or those of all buckets.

    Args:
        views: all views of the store.
        name: of the view that is asked for; None: the first, and others whose chunks it does not have.

    Raises:
        ConfigError: there is no such view.
    """
    plain = [view for view in views if not view.flipped]
    if name is None:
        taken: list[View] = []
        for view in plain:
            if not any(one.covers(view.first_chunk) or view.covers(one.first_chunk) for one in taken):
                taken.append(view)
        return taken
    if found := [view for view in plain if view.name == name]:
        return found
    there = ", ".join(view.name for view in plain) or "none, because all rows have one size"
    raise ConfigError(
        f"There is no view {name} in {folder}. Nothing was read; its views are {there}. Choose one of them, or null "
        "for the default (view)."
    )


def _views(store: ZarrStore) -> tuple[View, ...]:
    about = (store.attributes() or {}).get("daskt2i")
    return views_of(about) if isinstance(about, dict) else ()


def _without_view(stores: Sequence[tuple[Member, Sequence[View]]], name: str | None) -> frozenset[str]:
    """Stores in buckets that have no row of this view, where another store has one: a part may have few buckets."""
    lacking = {member.name for member, views in stores if views and name not in {view.name for view in views}}
    return frozenset() if name is None or len(lacking) == len(stores) else frozenset(lacking)


def _pieces(member: Member, store: ZarrStore, choice: Choice) -> list[Piece]:
    whole = Piece(member.offset, member.removed)
    views = _views(store)
    if not views and choice.view is None:
        return [whole]
    twins = {view.name: view for view in views if view.flipped}
    return [
        replace(whole, view=view, mirrored=twins.get(f"{view.name}{FLIPPED}") if choice.mirror else None)
        for view in chosen_views(views, choice.view, member.folder)
    ]


def _first_chunk(reader: Reader) -> int:
    piece = reader.piece
    view = 0 if piece.view is None else piece.view.first_chunk
    return piece.offset // reader.grid.rows_per_chunk + view


def _joined_grid(grids: Sequence[tuple[Member, ChunkGrid]]) -> ChunkGrid:
    size = grids[0][1].rows_per_chunk
    short: dict[int, int] = {}
    for member, grid in grids:
        first = member.offset // size
        short |= {first + chunk: rows for chunk, rows in grid.short.items()}
        if (left := grid.rows % size) and member is not grids[-1][0]:
            short[first + len(grid) - 1] = left
    last, grid = grids[-1]
    return ChunkGrid(last.offset + grid.rows, size, short)


def _kind(reader: Reader) -> tuple[Any, ...]:
    """What readers of one run folder share."""
    return (
        *(reader.grid.rows_per_chunk, reader.latent_shape[0], reader.tokens, reader.features, reader.draws),
        *(reader.latent_kind, reader.text_kind, reader.masked, reader.pooled),
    )


def _widened(rows: LoadedRows, slots: int, of_slots: Set[str]) -> LoadedRows:
    """The same rows with as many slots as the store has that has most.

    Args:
        of_slots: arrays in `extra` that have slots.
    """
    missing = slots - rows.mask.shape[1]
    if rows.slots is not None or missing <= 0:
        return rows

    def wider(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        fill = "" if values.dtype == object else 0
        return np.pad(values, [(0, 0), (0, missing), *[(0, 0)] * (values.ndim - 2)], constant_values=fill)

    extra = {name: wider(values) if name in of_slots else values for name, values in rows.extra.items()}
    return replace(rows, mask=wider(rows.mask), begins=wider(rows.begins), lengths=wider(rows.lengths), extra=extra)
