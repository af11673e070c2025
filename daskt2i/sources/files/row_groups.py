"""Values of one column of Parquet files, by row number: only the row group of the row is read.

Covers: row groups of any size, read as a stream; the last values that were read; a file that is exchanged.
Does not cover: which rows there are (`parquet`), columns and their types (`index.columns`).

A row group is compressed as a whole, so a value cannot be read alone. Rows in order, as an encode asks for them, are
read once. Random access reads the beginning of the row group again and again: write row groups of some MB for that.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from daskt2i.errors import Reason, RowRejected
from daskt2i.sources.files.presence import exchanged, gone
from daskt2i.sources.index.places import Place

_BATCH_BYTES = 8 * 1024 * 1024
_BUFFER = 1024 * 1024
"""Bytes of one read of a row group. Without it the whole column of the group is read at once."""

MOST_BYTES = 128 * 1024 * 1024
"""Values stay in memory up to this size together."""

_OPEN = 4
"""Files that are open at once."""


_Key = tuple[str, str, int, int]
"""Name and stamp of a file, row group, place in it of the first value of a batch."""


@dataclass(slots=True)
class _Open:
    """A file that is being read. `at` is the place in `group` of the value that comes next."""

    stamp: str
    file: Any
    starts: list[int]
    group: int = -1
    at: int = 0
    batches: Iterator[Any] = field(default_factory=lambda: iter(()))

    def close(self) -> None:
        with suppress(Exception):
            self.file.close(force=True)


class RowGroups:
    """The values of a column. Several threads may ask; one of them reads.

    Args:
        place: the files.
    """

    def __init__(self, place: Place) -> None:
        self._place, self._lock = place, threading.Lock()
        self._files: OrderedDict[str, _Open] = OrderedDict()
        self._batches: OrderedDict[_Key, Any] = OrderedDict()

    def value(self, name: str, row: int, column: str) -> Any:
        """A value as Python has it: bytes, a dict or None.

        Args:
            name: the file, by its name below the place; row: number of the row in it.

        Raises:
            RowRejected: `missing-file`: the file has fewer rows; `unreadable-image`: it is damaged there.
            OSError: the disk or the network failed; `ESTALE` if the file is gone.
        """
        with self._lock:
            try:
                return self._value(name, row, column)
            except FileNotFoundError as error:
                self._drop(name)
                raise gone(self._place.path_of(name)) from error
            except (OSError, RowRejected):
                self._drop(name)
                raise
            except Exception as error:
                self._drop(name)
                import pyarrow as pa

                if not isinstance(error, pa.ArrowException):
                    raise
                said = " ".join(str(error).split())[:200]
                raise RowRejected(Reason.UNREADABLE_IMAGE, f"the Parquet file is damaged here: {said}") from error

    def schema(self, name: str) -> Any:
        """The Arrow schema of a file.

        Raises:
            OSError: as in `value`.
        """
        with self._lock:
            try:
                return self._opened(name).file.schema_arrow
            except FileNotFoundError as error:
                raise gone(self._place.path_of(name)) from error

    def _value(self, name: str, row: int, column: str) -> Any:
        opened = self._opened(name)
        group = bisect_right(opened.starts, row) - 1
        if not 0 <= row < opened.starts[-1]:
            raise exchanged(self._place.path_of(name))  # it has fewer rows than when it was indexed
        about = opened.file.metadata.row_group(group)
        place = row - opened.starts[group]
        size = max(1, _BATCH_BYTES // max(1, _bytes_of(about, column) // max(1, about.num_rows)))
        key = self._held(name, opened.stamp, group, place)
        if key is None:
            key = self._read_to(opened, (name, opened.stamp, group), place, size, column)
        self._batches.move_to_end(key)
        return self._batches[key][place - key[3]].as_py()

    def _held(self, name: str, stamp: str, group: int, place: int) -> _Key | None:
        """The batch in memory that has a value. There are some tens of them at most."""
        for key, batch in self._batches.items():
            if key[:3] == (name, stamp, group) and key[3] <= place < key[3] + len(batch):
                return key
        return None

    def _read_to(self, opened: _Open, where: tuple[str, str, int], place: int, size: int, column: str) -> _Key:
        """Read on, or from the beginning, until the batch with this place."""
        if opened.group != where[2] or opened.at > place:
            opened.group, opened.at = where[2], 0
            opened.batches = opened.file.iter_batches(batch_size=size, row_groups=[where[2]], columns=[column])
        while True:
            batch = next(opened.batches).column(0)  # it may have fewer values than asked
            key = (*where, opened.at)
            self._batches[key] = batch
            opened.at += len(batch)
            while len(self._batches) > 1 and sum(one.nbytes for one in self._batches.values()) > MOST_BYTES:
                self._batches.popitem(last=False)
            if place < opened.at:
                return key

    def _opened(self, name: str) -> _Open:
        import pyarrow.parquet as pq

        known = self._files.get(name)
        # A file at an address is not asked each time. It is read under one stamp as long as it is open.
        stamp = self._place.stamp(name) if self._place.is_local or known is None else known.stamp
        if known is None or known.stamp != stamp:
            self._drop(name)
            path = self._place.path_of(name)
            files, _ = self._place.files()
            source = path if self._place.is_local else files.open(path, "rb", block_size=_BUFFER)
            file = pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER)
            about = file.metadata
            starts = list(accumulate((about.row_group(n).num_rows for n in range(about.num_row_groups)), initial=0))
            known = self._files[name] = _Open(stamp, file, starts)
            while len(self._files) > _OPEN:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(name)
        return known

    def _drop(self, name: str) -> None:
        if (known := self._files.pop(name, None)) is not None:
            known.close()


def _bytes_of(group: Any, column: str) -> int:
    """Uncompressed bytes of a column in a row group, with the fields below it."""
    parts = (group.column(n) for n in range(group.num_columns))
    found = (part for part in parts if part.path_in_schema.split(".")[0] == column)
    return sum(int(part.total_uncompressed_size) for part in found)
