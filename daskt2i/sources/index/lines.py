"""The upper level of an index: one line for each file of a source, and for each part of it.

Covers: these lines, and their JSON.
Does not cover: the rows of a part (`part_rows`), where both are kept (`shelf`).

A source with 1,000 files and 100 million rows has some thousand lines. Nothing else of it stays in memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

VERSION = 1
"""Version of the index. An index of another version is made anew."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of one file.

    Attributes:
        rows: number of rows.
        captions, characters: number of captions that are not blank, and their length together.
        slots: largest number of captions that a row has.
        table: name of the object that holds the rows.
        low, high: smallest and largest image id, if another file may have one of them; else None.
    """

    rows: int
    captions: int
    characters: int
    slots: int
    table: str
    low: int | None = None
    high: int | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One file of a source.

    Attributes:
        name: its path below the place.
        stamp: of the file when it was read; see `places.Container`.
        sha256: over names, captions, ids, licences and sizes of its rows, 64 hex digits.
        parts: its rows, in order.
        orphan_captions, blank_captions: as in `SourceInfo`.
        notes: what a user should know about it.
        repeats: whether rows are rejected because another file has their ids.
    """

    name: str
    stamp: str
    sha256: str
    parts: tuple[Part, ...]
    orphan_captions: int = 0
    blank_captions: int = 0
    notes: tuple[str, ...] = ()
    repeats: bool = False

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(part.rows for part in self.parts)


def to_json(key: str, lines: Sequence[Line]) -> bytes:
    """The lines as JSON. `key` says of what they are an index."""
    return json.dumps({"version": VERSION, "key": key, "files": [asdict(line) for line in lines]}, indent=1).encode()


def from_json(raw: bytes, key: str) -> list[Line]:
    """The lines that `to_json` wrote; none if they are of another version, of something else, or no such lines."""
    try:
        found = json.loads(raw)
        if found["version"] != VERSION or found["key"] != key:
            return []
        return [
            Line(**{**line, "parts": tuple(Part(**part) for part in line["parts"]), "notes": tuple(line["notes"])})
            for line in found["files"]
        ]
    except (ValueError, KeyError, TypeError):
        return []


def tables_in(raw: bytes) -> frozenset[str] | None:
    """Names of the tables that an index uses, whatever its source is; None if these are no such lines."""
    try:
        found = json.loads(raw)
        if found["version"] != VERSION:
            return None
        return frozenset(part["table"] for line in found["files"] for part in line["parts"])
    except (ValueError, KeyError, TypeError):
        return None
