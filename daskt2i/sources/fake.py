"""A source for tests: images of one colour with captions. It makes a row in a few microseconds.

Covers: any number of rows, always the same; rows that are missing, unreadable or without caption, if a test asks.
Does not cover: pictures with content (`scenes`).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence

from daskt2i.errors import Reason, RowRejected
from daskt2i.types import Row, SourceInfo


class FakeSource:
    """BMP images of one colour each. The index of the row gives the colour.

    Args:
        rows: number of rows.
        captions: number of captions of each row.
        width, height: size of every image, pixels.
        missing: rows without a file; `read` rejects them.
        unreadable: rows with a truncated file; decoding rejects them.
        uncaptioned: rows without a caption; `rows` marks them as rejected.
    """

    def __init__(
        self,
        rows: int = 8,
        captions: int = 2,
        width: int = 48,
        height: int = 40,
        missing: Collection[int] = (),
        unreadable: Collection[int] = (),
        uncaptioned: Collection[int] = (),
    ) -> None:
        self._rows, self._captions, self._width, self._height = rows, captions, width, height
        self._missing, self._unreadable = frozenset(missing), frozenset(unreadable)
        self._uncaptioned = frozenset(uncaptioned)

    def info(self) -> SourceInfo:
        """Counts and identity. `content` holds the arguments."""
        captioned = self._rows - sum(0 <= index < self._rows for index in self._uncaptioned)
        characters = sum(len(c) for index in range(self._rows) for c in self._row(index).captions)
        return SourceInfo(
            rows=self._rows,
            slots=self._captions if captioned else 0,
            captions=captioned * self._captions,
            caption_characters=characters,
            orphan_captions=0,
            blank_captions=0,
            content={
                "source": "fake",
                "rows": self._rows,
                "captions": self._captions,
                "size": [self._width, self._height],
                "missing": sorted(self._missing),
                "unreadable": sorted(self._unreadable),
                "uncaptioned": sorted(self._uncaptioned),
            },
            label=f"{self._rows:,} plain colours",
        )

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """Rows `start <= index < stop`. Row numbers after the last row are left out."""
        if start < 0:
            raise IndexError(f"rows start at 0, not at {start}")
        return [self._row(index) for index in range(start, min(stop, self._rows))]

    def read(self, row: Row) -> bytes:
        """The BMP file of a row, `width` x `height` pixels of its colour.

        Raises:
            RowRejected: `missing-file`, or the reason that the row already has.
        """
        if row.reason is not None:
            raise RowRejected(row.reason, row.detail)
        if row.index in self._missing:
            raise RowRejected(Reason.MISSING_FILE, row.file_name)
        data = bitmap(self._width, self._height, colour(row.index))
        return data[: len(data) // 2] if row.index in self._unreadable else data

    def _row(self, index: int) -> Row:
        red, green, blue = colour(index)
        empty = index in self._uncaptioned or not self._captions
        captions = () if empty else tuple(f"colour {red} {green} {blue}, {n}" for n in range(self._captions))
        return Row(index, index + 1, f"{index:08d}.bmp", captions, Reason.NO_CAPTION if empty else None)


def colour(index: int) -> tuple[int, int, int]:
    """Red, green, blue of a row. Neighbours differ much, and the first 16,777,216 rows are all different."""
    code = (index * 0x9E3779B1) & 0xFFFFFF  # an odd factor (2**32 / golden ratio) permutes the 24-bit numbers
    return code >> 16, code >> 8 & 255, code & 255


def bitmap(width: int, height: int, rgb: tuple[int, int, int]) -> bytes:
    """An uncompressed 24-bit BMP file of one colour."""
    line = bytes(reversed(rgb)) * width
    line += bytes(-len(line) % 4)
    header = struct.pack("<2sIII", b"BM", 54 + len(line) * height, 0, 54)
    return header + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 2835, 2835, 0, 0) + line * height
