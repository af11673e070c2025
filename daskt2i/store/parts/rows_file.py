"""The object that says which rows a store has: `rows.json` in its run folder.

    {"version": 1, "parts": ["0001"], "removed": {"": [[3, 4]], "0001": [[0, 8]]}}

Covers: reading and writing it; the stores that belong together, in order, with the numbers of their rows.
Does not cover: who may write it now (`publishing.lock`), the arrays (`zarr_store`).

It is replaced whole. So a reader sees the rows of before a change, or the rows after it. Global row number = offset of
a store + row in this store. A store takes as many numbers as its chunks have places, so numbers never change: not by a
new part, and not by a removal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from daskt2i.errors import StoreError, StoreMissing
from daskt2i.store.layout import checked_layout
from daskt2i.store.parts.places import is_part_name, part_folder, store_of_part
from daskt2i.store.run_folder import ROWS, ROWS_BEFORE, RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Receipt, Rejection

VERSION = 1

Ranges = tuple[tuple[int, int], ...]
"""Rows `start <= row < stop` each, ascending, without overlap."""


@dataclass(frozen=True, slots=True)
class RowsFile:
    """Which rows a store has.

    Attributes:
        parts: names of the parts that count, in the order of their rows.
        removed: name of a part ("" is the first store) -> its rows that are removed.
    """

    parts: tuple[str, ...] = ()
    removed: Mapping[str, Ranges] = field(default_factory=lambda: MappingProxyType({}))

    def with_part(self, name: str) -> RowsFile:
        """The same, and one more part at the end."""
        return RowsFile((*self.parts, name), self.removed)

    def without_rows(self, name: str, rows: Iterable[int]) -> RowsFile:
        """The same, with these rows of a store removed too."""
        gone = np.union1d(numbers_of(self.removed.get(name, ())), np.fromiter(rows, np.int64))
        return RowsFile(self.parts, {**self.removed, name: ranges_of(gone)} if len(gone) else self.removed)

    def to_json(self) -> bytes:
        """The content of `rows.json`."""
        removed = {name: [list(one) for one in ranges] for name, ranges in sorted(self.removed.items())}
        about = {"version": VERSION, "parts": list(self.parts), "removed": removed}
        return (json.dumps(about) + "\n").encode()


@dataclass(frozen=True, slots=True)
class Member:
    """One of the stores whose rows belong together.

    Attributes:
        name: of the part; "" for the first store.
        folder: its run folder.
        offset: global number of its row 0.
        removed: its rows that are removed.
    """

    name: str
    folder: RunFolder
    offset: int
    removed: Ranges = ()

    def kept(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether each of these rows of the store is still there."""
        return ~is_in(rows, self.removed)


def members(folder: RunFolder) -> tuple[Member, ...]:
    """The stores of a run folder: the first one, then its parts in order. Without `rows.json` it is the first alone.

    Raises:
        StoreError: `rows.json` is damaged, or a store that it names is, or it removes rows that a store does not have.
        StoreMissing: a store that it names is missing.
    """
    rows = read_rows(folder)
    found, offset = [], 0
    for name in ("", *rows.parts):
        place, removed = part_folder(folder, name), rows.removed.get(name, ())
        found.append(Member(name, place, offset, removed))
        if not rows.parts and not removed:
            continue
        try:
            layout = checked_layout(ZarrStore(place))
        except StoreMissing as error:
            if not name:
                raise
            raise StoreMissing(
                f"{folder.address(ROWS)} names the part {name}, and there is no store in {place}. The other stores are "
                f"unchanged; put this folder back. If it is lost, copy {ROWS_BEFORE} over {ROWS}, if that does not "
                "name it, or take its name out of both lists there, and append its rows again."
            ) from error
        numbers, size = int(layout["rows"]), int(layout["rows_per_chunk"])
        if removed and removed[-1][1] > numbers:
            raise StoreError(
                f"{folder.address(ROWS)} is damaged: it removes rows up to {removed[-1][1]:,} of the store in {place}, "
                f"which has {numbers:,}. The stores are unchanged; restore this file, or copy {ROWS_BEFORE} over it, "
                "which undoes the last change."
            )
        offset += -(-numbers // size) * size  # the places of whole chunks, also if the last one is short
    return tuple(found)


def still_there(receipt: Receipt, removed: Ranges) -> tuple[int, tuple[Rejection, ...], int]:
    """Of the rows of a chunk: how many accepted ones are not removed, the rejected ones that are not, all that are."""
    there = tuple(row for row in receipt.rejected if not is_in(np.array([row.row]), removed)[0])
    gone = sum(max(0, min(stop, receipt.stop) - max(start, receipt.start)) for start, stop in removed)
    return receipt.accepted - gone + len(receipt.rejected) - len(there), there, gone


def read_rows(folder: RunFolder) -> RowsFile:
    """What `rows.json` says; no parts and no removed rows if there is none.

    Raises:
        StoreError: it is damaged, or of a newer version.
    """
    try:
        text = folder.read(ROWS)
    except (FileNotFoundError, NotADirectoryError):
        return RowsFile()
    try:
        return _parsed(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{folder.address(ROWS)} is damaged, or a newer version of daskt2i wrote it: {error}. The stores are "
            f"unchanged; restore this file. Without it the run folder has all rows of its first store and no others."
        ) from error


def removed_rows(folder: RunFolder) -> Ranges:
    """The removed rows of the store in a run folder, which may be that of a part.

    Raises:
        StoreError: as in `read_rows`.
    """
    store = store_of_part(folder)
    name = "" if store is folder else folder.root.replace("\\", "/").rpartition("/")[2]
    return read_rows(store).removed.get(name, ())


def write_rows(folder: RunFolder, rows: RowsFile) -> None:
    """Replace `rows.json`, completely or not at all. Call it while you hold the lock of the run folder.

    What it said before is kept in `rows.before.json`: copied over `rows.json`, it undoes the change.

    Raises:
        StoreFull, StoreError: it cannot be written. The rows of before are still the valid ones.
    """
    try:
        before = folder.read(ROWS)
    except FileNotFoundError:
        before = RowsFile().to_json()
    folder.write(ROWS_BEFORE, before)
    folder.write(ROWS, rows.to_json())


def ranges_of(rows: npt.NDArray[np.int64]) -> Ranges:
    """Ascending row numbers as ranges."""
    if not len(rows):
        return ()
    pieces = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return tuple((int(piece[0]), int(piece[-1]) + 1) for piece in pieces)


def numbers_of(ranges: Ranges) -> npt.NDArray[np.int64]:
    """All row numbers of ranges, ascending."""
    return np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in ranges] or [np.empty(0, np.int64)])


def is_in(rows: npt.NDArray[np.int64], ranges: Ranges) -> npt.NDArray[np.bool_]:
    """Whether each row is in one of the ranges."""
    starts, stops = (np.array([one[end] for one in ranges], np.int64) for end in (0, 1))
    place = np.searchsorted(starts, rows, side="right") - 1
    if not len(ranges):
        return np.zeros(len(rows), np.bool_)
    return np.asarray((place >= 0) & (rows < stops[np.maximum(place, 0)]))


def in_ranges(row: int, ranges: Ranges) -> bool:
    """Whether one row is in one of the ranges."""
    return any(start <= row < stop for start, stop in ranges)


def count(ranges: Ranges) -> int:
    """How many rows are in the ranges."""
    return sum(stop - start for start, stop in ranges)


def _parsed(found: object) -> RowsFile:
    """
    Raises:
        ValueError, TypeError, AttributeError: it does not have the form of `rows.json`.
    """
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ValueError(f"it does not have version {VERSION}")
    parts, removed = found.get("parts"), found.get("removed")
    if not isinstance(parts, list) or not all(map(is_part_name, parts)) or len({*parts}) != len(parts):
        raise ValueError("its parts are not a list of different names")
    if not isinstance(removed, dict) or not removed.keys() <= {"", *parts}:
        raise ValueError("rows are removed from a part that it does not name")
    return RowsFile(tuple(parts), {name: _ranges(given) for name, given in removed.items()})


def _ranges(given: object) -> Ranges:
    found = tuple((start, stop) for start, stop in given) if isinstance(given, list) else ()
    edges = [0, *(edge for one in found for edge in one)]
    ascending = edges == sorted(edges) and all(start < stop for start, stop in found)
    if not isinstance(given, list) or not ascending or not all(type(edge) is int for edge in edges):
        raise ValueError("removed rows are not ascending ranges")
    return found
