"""Images that are spans of bytes in a larger file: a member of a tar, a value of an Arrow file.

Covers: a row that knows its span; reading it with one ranged read and without shared state; a file that is removed or
exchanged while it is read.
Does not cover: finding the spans (the sources), which files there are (`index.places`), zip archives (`zipped`).

A worker needs no index: the row has the name of the file, the offset and the size. Rows of other sources are sent as
before.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from daskt2i.errors import Reason, RowRejected
from daskt2i.sources.files.presence import exchanged, gone
from daskt2i.sources.files.zipped import MAX_FILE_BYTES
from daskt2i.sources.index.places import Place, stamp_of
from daskt2i.types import FileBytes, Row


@dataclass(frozen=True, slots=True)
class SpannedRow(Row):
    """A row whose image is a span of a file.

    Attributes:
        container: name of the file below the place.
        offset, size: where the bytes of the image begin, and how many they are, bytes.
    """

    container: str = ""
    offset: int = 0
    size: int = 0


class Spans:
    """Reads spans of the files of a place. Several threads may read. No file stays open."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def read(self, row: SpannedRow, before: int = 0) -> FileBytes | bytes:
        """The bytes of an image; of a local file with its stamp.

        Args:
            before: so many bytes before the image are read too, and come first.

        Raises:
            RowRejected: `image-too-large`.
            OSError: the disk or the network failed; `ESTALE` if the file is gone or shorter than the index says.
        """
        if row.size > MAX_FILE_BYTES:
            raise RowRejected(Reason.IMAGE_TOO_LARGE, f"an image of {row.size} bytes > {MAX_FILE_BYTES}")
        start, stop = row.offset - before, row.offset + row.size
        path = self._place.path_of(row.container)
        try:
            if self._place.is_local:
                with Path(path).open("rb") as stream:
                    stamp = stamp_of(os.fstat(stream.fileno()))
                    stream.seek(start)
                    data: bytes = FileBytes(stream.read(stop - start), _of(stamp, row))
            else:
                files, _ = self._place.files()
                data = bytes(files.cat_file(path, start=start, end=stop))
        except FileNotFoundError as error:
            raise gone(path) from error
        if len(data) == stop - start:
            return data
        if self._place.is_local:
            raise exchanged(path)
        raise OSError(errno.EIO, f"{len(data)} of {stop - start} bytes came", path)

    @staticmethod
    def without(data: bytes, before: int) -> bytes:
        """The image alone, with its stamp if it has one."""
        return FileBytes(data[before:], data.stamp) if isinstance(data, FileBytes) else data[before:]

    def stamps(self, rows: Sequence[Row]) -> list[str] | None:
        """For each row the stamp of its file with the span; "" for a row without a span. None if it cannot be told."""
        known: dict[str, str] = {}
        found = []
        for row in rows:
            if not isinstance(row, SpannedRow):
                found.append("")
                continue
            if row.container not in known:
                try:
                    known[row.container] = self._place.stamp(row.container)
                except Exception:  # file systems of fsspec have errors of their own; the read reports what is wrong
                    return None
                if not known[row.container]:
                    return None
            found.append(_of(known[row.container], row))
        return found


def _of(stamp: str, row: SpannedRow) -> str:
    return f"{stamp} {row.offset} {row.size}"
