"""The first rows of a source before anything is encoded: pictures, captions, sizes, and what would be rejected.

    result = first_rows(source, "folder", rows=8)

Covers: reading a few rows, counting all rows by what their list alone shows; the result for text, notebooks and JSON.
Does not cover: the HTML file (`first_rows_page`), all pictures of a data set (`report`).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from daskt2i.errors import Reason, RowRejected, SourceError
from daskt2i.formatting import counted, many, size
from daskt2i.images import read as images
from daskt2i.protocols import Source
from daskt2i.types import Pixels, Row, SourceInfo
from daskt2i.view import Picture, Section, View, Viewed

SIDE = 132
"""Side of a thumbnail, pixels: the width of a picture in a view."""

_PART = 10_000
"""Rows that are asked for at once."""

_SHOWN = 3
"""Captions of a picture in a notebook."""

_LONGEST = 400
"""Characters of a caption that a person is shown. Some tables have whole pages as captions."""


@dataclass(frozen=True, slots=True)
class SeenRow:
    """One row, and what was found when its image was read.

    Attributes:
        row: as the source lists it.
        file_size: of the image file, bytes; 0 if it was not read.
        width, height: of the upright picture, pixels; 0 if it cannot be decoded.
        reason, detail: why the row would be rejected; "" if it would be encoded.
        pixels: the centre square that an encode would use, `uint8[SIDE, SIDE, 3]`; None if it cannot be decoded.
    """

    row: Row
    file_size: int = 0
    width: int = 0
    height: int = 0
    reason: str = ""
    detail: str = ""
    pixels: Pixels | None = None

    def words(self) -> str:
        """Sizes, or why the row would be rejected."""
        if self.reason:
            return f"rejected: {self.reason}{f' ({self.detail})' if self.detail else ''}"
        return f"{self.width} x {self.height} pixels, {size(self.file_size)}"

    def captions(self) -> list[str]:
        """The captions for a person. A long one is cut, and says how long it is. JSON has all of it."""
        return [
            text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"
            for text in self.row.captions
        ]

    def png(self) -> bytes | None:
        """The thumbnail as a PNG file; None without one."""
        if self.pixels is None:
            return None
        stream = io.BytesIO()
        Image.fromarray(self.pixels).save(stream, "PNG")
        return stream.getvalue()

    def to_json(self) -> dict[str, Any]:
        """The row, as JSON."""
        return {
            "row": self.row.index,
            "image_id": self.row.image_id,
            "file_name": self.row.file_name,
            "captions": list(self.row.captions),
            "bytes": self.file_size,
            "width": self.width,
            "height": self.height,
            "reason": self.reason or None,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True, repr=False)
class LookResult(Viewed):
    """The first rows of a source, and counts of all its rows.

    Attributes:
        source: the name of the source, or its class path.
        info: counts of all rows.
        rejected: reason -> number of all rows whose list alone shows them to be bad. Their images were not read.
        first: the first rows.
        notes: sentences for the user.
        html: the file that was written; "" for none.
    """

    source: str
    info: SourceInfo
    rejected: Mapping[str, int]
    first: tuple[SeenRow, ...]
    notes: tuple[str, ...] = ()
    html: str = ""

    def to_json(self) -> dict[str, Any]:
        """The object that `look --json` prints."""
        return {
            "source": self.source,
            "label": self.info.label,
            "rows": self.info.rows,
            "captions": self.info.captions,
            "slots": self.info.slots,
            "orphan_captions": self.info.orphan_captions,
            "blank_captions": self.info.blank_captions,
            "rejected": dict(self.rejected),
            "first": [seen.to_json() for seen in self.first],
            "html": self.html or None,
        }

    def facts(self) -> tuple[tuple[str, str], ...]:
        """Names and values of the whole source."""
        info = self.info
        each = f", up to {info.slots:,} of an image" if info.slots > 1 else ""
        rows = [
            ("source", info.label),
            ("read as", self.source),
            ("rows", many(info.rows, "image")),
            ("captions", f"{info.captions:,}{each}"),
        ]
        uncounted = {"without an image": info.orphan_captions, "blank": info.blank_captions}
        if any(uncounted.values()):
            rows.append(("not counted", ", ".join(f"{n:,} {what}" for what, n in uncounted.items() if n)))
        total = sum(self.rejected.values())
        also = f": {counted(self.rejected)}" if total else ""
        rows.append(("rejected by the list", f"{total:,} of {info.rows:,}{also}"))
        bad = Counter(seen.reason for seen in self.first if seen.reason)
        words = f"; an encode would reject {sum(bad.values()):,} of them ({counted(bad)})" if bad else ""
        rows.append(("images read", f"those of the first {many(len(self.first), 'row')}{words}"))
        if bad[Reason.MISSING_FILE]:
            rows.append(
                ("hint", "file names are looked up below the place of the images; if all miss, give another one")
            )
        if self.html:
            rows.append(("page", self.html))
        return tuple(rows)

    def view(self) -> View:
        """Counts, thumbnails with captions, and the rows that would be rejected."""
        bad = tuple((_name(seen), seen.words()) for seen in self.first if seen.reason)
        texts = tuple((_name(seen), "\n".join(seen.captions())) for seen in self.first if seen.row.captions)
        sections = [Section("Rejected of these rows", bad, folded=False)] if bad else []
        if texts:
            sections.append(Section("All captions of these rows", texts))
        return View(
            "First rows of a data set",
            self.facts(),
            make_pictures=lambda: tuple(map(_picture, (seen for seen in self.first if seen.pixels is not None))),
            sections=tuple(sections),
        )


def first_rows(source: Source, name: str, rows: int, limits: images.Limits | None = None) -> LookResult:
    """Read the first rows of a source in this process, and count all its rows.

    Args:
        name: the name of the source, for a person.
        rows: how many rows to read.
        limits: limits on the size of an image.

    Raises:
        SourceMissing, SourceError: the source cannot be used, or the disk or the network failed.
    """
    info, rejected = source.info(), Counter[str]()
    for start in range(0, info.rows, _PART):
        rejected.update(str(row.reason) for row in source.rows(start, start + _PART) if row.reason is not None)
    first = tuple(_seen(source, row, limits or images.Limits()) for row in source.rows(0, rows))
    return LookResult(name, info, dict(sorted(rejected.items())), first)


def _seen(source: Source, row: Row, limits: images.Limits) -> SeenRow:
    reason, detail = "" if row.reason is None else str(row.reason), row.detail
    try:
        data = source.read(row)
    except RowRejected as error:
        return SeenRow(row, reason=reason or str(error.reason), detail=detail if reason else error.detail)
    except SourceError:
        raise
    except OSError as error:
        said = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
        raise SourceError(
            f"The image of row {row.index} ({row.file_name}) cannot be read: {said}. Nothing was changed; try again "
            "when the place can be read (images)."
        ) from error
    try:
        found = images.read(data, SIDE, limits)
    except RowRejected as error:
        return SeenRow(row, len(data), reason=reason or str(error.reason), detail=detail if reason else error.detail)
    return SeenRow(row, len(data), *found.source_size, reason, detail, found.pixels)


def _name(seen: SeenRow) -> str:
    return f"{seen.row.index} {' '.join(seen.row.file_name.split())}"


def _picture(seen: SeenRow) -> Picture:
    captions = seen.captions()
    said = [*captions[:_SHOWN], *([f"and {len(captions) - _SHOWN:,} more"] if len(captions) > _SHOWN else [])]
    return Picture(seen.png() or b"", "\n".join([_name(seen), seen.words(), *said]))
