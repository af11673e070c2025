"""The rows of a source in memory, and collecting them. 83,000 images with 414,000 captions take about 70 MB.

Covers: what a list of names and captions shows to be bad; several entries for one image; ids; what counts as a caption;
a hash of all rows.
Does not cover: reading the list (the sources), opening an image (`files.opening`).
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from daskt2i import documents
from daskt2i.documents import storable
from daskt2i.errors import Reason
from daskt2i.sources.files.opening import unusable
from daskt2i.sources.identity import id_of
from daskt2i.types import Row

KINDS = {list: "a list", tuple: "an object", dict: "an object", bool: "true or false", int: "a number"}
KINDS |= {float: "a number", type(None): "null"}
"""What a value is that should be text. A COCO file's objects are tuples while it is parsed."""

RAW = ("raw", "caption", "text")
"""Keys that hold the text of a caption that is an object."""


@dataclass(slots=True)
class Index:
    """The rows of a source.

    Attributes:
        sha256: SHA-256 of the list of rows, 64 hex digits: of a COCO file as it is stored, else of what stands in it.
        ids: image ids, int64.
        names: file names.
        captions: for each row, the captions that are not blank.
        rejected: row -> why it cannot be used.
        licences: for each row, the name of its licence; its number if the file does not name it; "" without a licence.
        orphan_captions, blank_captions: as in `SourceInfo`.
        member: name of the caption file in a zip archive; "" if it is not in one.
    """

    sha256: str
    member: str = ""
    ids: array[int] = field(default_factory=lambda: array("q"))
    names: list[str] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    rejected: dict[int, tuple[Reason, str]] = field(default_factory=dict)
    licences: list[str] = field(default_factory=list)
    orphan_captions: int = 0
    blank_captions: int = 0
    slots: int = 0
    caption_count: int = 0
    caption_characters: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def row(self, index: int) -> Row:
        """Row `index`, with the reason if it is rejected."""
        reason, detail = self.rejected.get(index, (None, ""))
        return Row(
            index, self.ids[index], self.names[index], self.captions[index], reason, detail, self.licences[index]
        )


class Rows:
    """Collects entries into an `Index`. Entries of one name become one row, with the captions of all of them.

    Attributes:
        orphan_captions, blank_captions: as in `SourceInfo`. Blank captions of entries are counted here.
    """

    def __init__(self) -> None:
        self.orphan_captions = self.blank_captions = 0
        self._row: dict[str, int] = {}
        self._names: list[str] = []
        self._ids: list[Any] = []
        self._captions: list[list[str]] = []
        self._licences: list[str] = []
        self._rejected: dict[int, tuple[Reason, str]] = {}
        self._blank: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._row

    def add(self, name: object, captions: Any, identity: object = None, licence: object = "", wrong: str = "") -> None:
        """Add an entry.

        Args:
            name: the path of the image. A name that must not be opened becomes a rejected row of its own.
            captions: a text, a list of texts or of objects with a text, or whatever else stands there: it is counted
                as a blank caption.
            identity: what the data say is the id of the image; None if they say nothing.
            licence: the name of the licence.
            wrong: why the row has no caption, if it has none; a clause.
        """
        refused = unusable(name)
        if refused is None:
            assert isinstance(name, str)
            name = posixpath.normpath(name)
            row = self._row.setdefault(name, len(self))
        else:
            name, row = storable(name), len(self)
        if row == len(self):
            self._names.append(name)
            self._ids.append(identity)
            self._captions.append([])
            self._licences.append(storable(licence))
            if refused is not None:
                self._rejected[row] = refused
        for text in captions if isinstance(captions, list | tuple) else (captions,):
            self._add_caption(row, text)
        if wrong:
            self._blank.setdefault(row, wrong)

    def reject(self, name: str, reason: Reason, detail: str) -> None:
        """Add a row that is rejected. Its name may be none of a file."""
        self._rejected[len(self)] = (reason, detail)
        self._row.setdefault(name, len(self))
        self._names.append(storable(name))
        self._ids.append(None)
        self._captions.append([])
        self._licences.append("")

    def require(self, there: Iterable[str]) -> None:
        """Reject each row whose image is not there."""
        there = set(there)
        for row, name in enumerate(self._names):
            if name not in there:
                self._rejected.setdefault(row, (Reason.MISSING_FILE, name))

    def in_order(self) -> Index:
        """The index, with its rows in the order in which they were added."""
        return self._index(range(len(self)))

    def by_name(self) -> Index:
        """The index, with its rows in the order of their names, by code points."""
        return self._index(sorted(range(len(self)), key=self._names.__getitem__))

    def _add_caption(self, row: int, found: Any) -> None:
        if isinstance(found, Mapping):
            found = next((found[key] for key in RAW if key in found), found)
        if isinstance(found, str) and found.strip() and storable(found) == found:
            self._captions[row].append(found)
            return
        self.blank_captions += 1
        if not isinstance(found, str) and found is not None:
            self._blank.setdefault(row, f"its caption is {KINDS.get(type(found), 'no text')}, not text")

    def _index(self, order: Iterable[int]) -> Index:
        index = Index("", orphan_captions=self.orphan_captions, blank_captions=self.blank_captions)
        digest, first = hashlib.sha256(), dict[int, int]()
        given = self._given_ids()
        for position, row in enumerate(order):
            name, captions = self._names[row], tuple(self._captions[row])
            found = given[row]
            identity = id_of(name) if found is None else found
            wrong = self._rejected.get(row)
            if wrong is None and not captions:
                wrong = (Reason.NO_CAPTION, self._blank.get(row, ""))
            if wrong is None and first.setdefault(identity, position) != position:
                wrong = (Reason.DUPLICATE_ID, f"row {first[identity]} already has id {identity}")
            if wrong is not None:
                index.rejected[position] = wrong
            index.ids.append(identity)
            index.names.append(name)
            index.captions.append(captions)
            index.licences.append(self._licences[row])
            index.caption_count += len(captions)
            index.caption_characters += sum(map(len, captions))
            index.slots = max(index.slots, len(captions))
            told = (identity, name, captions, self._licences[row], None if wrong is None else str(wrong[0]))
            digest.update(json.dumps(told, ensure_ascii=True).encode() + b"\n")
        index.sha256 = digest.hexdigest()
        return index

    def _given_ids(self) -> list[int | None]:
        """The ids that the data give, if all that they give are 64-bit integers: a column `id` may also hold names."""
        found = [documents.integer(value) for value in self._ids]
        numbers = all(one is not None or value in (None, "") for one, value in zip(found, self._ids, strict=True))
        return found if numbers else [None] * len(found)
