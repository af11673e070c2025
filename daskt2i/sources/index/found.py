"""What a source finds in one of its files: rows, one after the other, and counts.

Covers: the two classes that a source hands to `build`.
Does not cover: numbers of rows, which `build` gives.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from daskt2i.errors import Reason


@dataclass(slots=True)
class Found:
    """One row, as its file shows it.

    Attributes:
        name: `Row.file_name`.
        captions: all captions that are not blank.
        image_id: the number that the data give to the image; None: it is made from the name.
        reason, detail, licence: as in `Row`.
        offset, size: where the bytes of the image lie in the file, bytes; offset -1: they are not found so.
    """

    name: str
    captions: tuple[str, ...]
    image_id: int | None = None
    reason: Reason | None = None
    detail: str = ""
    licence: str = ""
    offset: int = -1
    size: int = 0


@dataclass(slots=True)
class Tally:
    """Counts of one file, which grow while its rows are taken.

    Attributes:
        orphan_captions, blank_captions: as in `SourceInfo`.
        notes: what a user should know about the file, as sentences.
        looks: what a look at the file shows of its images, if no row shows it. It is a part of the hash.
    """

    orphan_captions: int = 0
    blank_captions: int = 0
    notes: list[str] = field(default_factory=list)
    looks: list[str] = field(default_factory=list)
