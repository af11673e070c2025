"""A source that is a folder of pictures, with captions in files beside them.

Covers: which files are pictures and which are captions; text and JSON files beside a picture; `metadata.jsonl` and
`metadata.csv` as the imagefolder of Hugging Face has them.
Does not cover: listing and opening a folder, an archive or an address (`files`), reading tables (`listed.records`).
"""

from __future__ import annotations

import itertools
import posixpath
import re
import unicodedata
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from daskt2i import documents
from daskt2i.documents import BadDocument
from daskt2i.errors import Reason, RowRejected, SourceError
from daskt2i.sources.files.opening import Pictures
from daskt2i.sources.listed.columns import CAPTIONS, IDS, Named, find
from daskt2i.sources.listed.index import Index, Rows
from daskt2i.sources.listed.records import read_records
from daskt2i.sources.listed.source import ListedSource

PICTURES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".jp2", ".jxl"),
    }
)
"""Endings of pictures. Those that daskt2i cannot decode are here too: their rows are rejected, and so counted."""

TEXTS = (".txt", ".caption", ".json")
"""Endings of captions beside a picture. The first file with a caption counts."""

METADATA = ("metadata.jsonl", "metadata.csv")

_THREADS = 8
_PART = 2000
"""Captions are read by a few threads, so many pictures at a time."""

_EXPECTED = (
    "write the caption of a.jpg into a.txt beside it, or name the pictures and their captions in a file metadata.jsonl "
    "in the same folder"
)


class FolderSource(ListedSource):
    """One row per picture of a folder and all folders below it, in the order of their paths (by code points).

    A picture that a `metadata.jsonl` or `metadata.csv` lists has its captions from there; the paths in such a file are
    relative to its folder. Any other picture has the captions of the file with its name and another ending:

    - `.txt` and `.caption`: each line that is not blank is a caption;
    - `.json`: the value of `caption`, `captions`, `text` or `sentences`, a text or a list of texts.

    Args:
        images: a folder, a zip archive (read in place), or an fsspec address of either.
        storage_options: arguments of fsspec, for an address.
        image_column: the column of the path in metadata files. None: `file_name`, or another usual name.
        caption_column: the column or key of the caption. None: the names above.
        id_column: the column or key of the id of the image. None: `image_id` or `id`.

    Hidden files and folders do not count. A folder behind a symbolic link is not entered: it is a rejected row.

    Raises:
        SourceError: `images` is empty, or no path can be so.
    """

    kind = "folder"

    def __init__(
        self,
        images: str,
        storage_options: Mapping[str, Any] | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
        id_column: str | None = None,
    ) -> None:
        super().__init__(images, None, storage_options)
        self._named = Named(image_column, caption_column, id_column)

    def _read_index(self) -> Index:
        pictures, rows = self._pictures(), Rows()
        found = _Files.of(pictures.names())
        if not found.pictures and not found.metadata:
            raise SourceError(
                f"There are no pictures in {self.images}: no file below it ends in .jpg, .png or the like. Nothing was "
                "read; give a folder of pictures (images)."
            )
        self._add_listed(rows, pictures, found)
        alone = [name for name in found.pictures if name not in rows]
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(alone), _PART):
                part = alone[start : start + _PART]
                for name, said in zip(
                    part, pool.map(lambda one: self._beside(pictures, found, one), part), strict=True
                ):
                    rows.add(name, said.captions, said.identity, wrong=said.wrong)
                    rows.blank_captions += said.blank
        for name in found.links:
            rows.reject(name, Reason.UNSAFE_PATH, "a link to a folder, which is not entered")
        rows.orphan_captions = found.orphans()
        index = rows.by_name()
        if not index.caption_count:
            first = next((detail for _, detail in index.rejected.values() if detail), "")
            raise SourceError(
                f"No picture in {self.images} has a caption ({len(index):,} rows{f'; {first}' * bool(first)}). "
                f"Nothing was read; {_EXPECTED}."
            )
        return index

    def _add_listed(self, rows: Rows, pictures: Pictures, found: _Files) -> None:
        """Add what metadata files list. What is not there is rejected."""
        there = {unicodedata.normalize("NFC", name): name for name in found.pictures}
        for table, other in itertools.pairwise(found.metadata):
            if posixpath.dirname(table) == posixpath.dirname(other):
                raise SourceError(
                    f"{self.images} has {table} and {other}, and each picture would have its captions twice. Nothing "
                    "was read; keep one of the two."
                )
        for table in found.metadata:
            folder = posixpath.dirname(table)
            raw = _read(pictures, table, self.images)
            if isinstance(raw, str):
                raise SourceError(f"{table} in {self.images} cannot be read: {raw}.")
            kind = "csv" if table.endswith(".csv") else "jsonl"
            columns, records = read_records(raw, posixpath.join(self.images, table), kind, self._named)
            for record in records:
                name, captions, identity, licence = columns.of(record)
                if isinstance(name, str) and name and not name.startswith("/"):
                    name = posixpath.join(folder, name)
                    name = there.get(unicodedata.normalize("NFC", posixpath.normpath(name)), name)
                rows.add(name, captions, identity, licence)
        rows.require(found.pictures)

    def _beside(self, pictures: Pictures, found: _Files, name: str) -> _Said:
        """What the files beside a picture say. Several threads call it."""
        said = _Said()
        texts = found.texts.get(posixpath.splitext(name)[0], {})
        for ending in TEXTS:
            if ending in texts and not said.captions:
                raw = _read(pictures, texts[ending], self.images)
                said = _Said(wrong=raw) if isinstance(raw, str) else self._parsed_text(raw, texts[ending])
        return said

    def _parsed_text(self, raw: bytes, name: str) -> _Said:
        base = posixpath.basename(name)
        try:
            text = documents.text_of(raw)
            if not name.lower().endswith(".json"):
                lines = [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
                return _Said(lines, blank=int(not lines))
            record = documents.read_json(text)
        except BadDocument as error:
            return _Said(wrong=f"{base}: {error}")
        if not isinstance(record, dict):
            return _Said(wrong=f"{base} is no JSON object")
        key = find(list(record), self._named.caption, CAPTIONS)
        identity = find(list(record), self._named.identity, IDS)
        captions = [] if key is None else record[key]
        wrong = f"{base} has no key {self._named.caption or CAPTIONS[0]}" if key is None else ""
        return _Said(captions, wrong, None if identity is None else record[identity])


@dataclass(slots=True)
class _Said:
    """What the file beside a picture says: captions as they stand there, and why there are none."""

    captions: Any = field(default_factory=list)
    wrong: str = ""
    identity: Any = None
    blank: int = 0


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of a folder by what they are: paths, sorted. `texts` has path without ending -> ending -> path."""

    pictures: list[str]
    metadata: list[str]
    links: list[str]
    texts: dict[str, dict[str, str]]

    @classmethod
    def of(cls, names: Sequence[str]) -> _Files:
        """Sort the files of a folder."""
        found = cls([], [], [], {})
        for name in names:
            stem, ending = posixpath.splitext(name)
            ending = ending.lower()
            if name.endswith("/"):
                found.links.append(name.rstrip("/"))
            elif ending in PICTURES:
                found.pictures.append(name)
            elif posixpath.basename(name) in METADATA:
                found.metadata.append(name)
            elif ending in TEXTS:
                found.texts.setdefault(stem, {})[ending] = name
        return found

    def orphans(self) -> int:
        """How many files of captions have no picture."""
        stems = {posixpath.splitext(name)[0] for name in self.pictures}
        return sum(len(texts) for stem, texts in self.texts.items() if stem not in stems)


def _read(pictures: Pictures, name: str, place: str) -> bytes | str:
    """The bytes of a file of captions; a clause if it cannot be used.

    Raises:
        SourceError: the disk or the network failed, so nothing can be said of the file.
    """
    try:
        return pictures.read(name)
    except SourceError:
        raise
    except RowRejected as error:
        return f"{posixpath.basename(name)}: {error.detail or error.reason}"
    except OSError as error:
        said = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
        raise SourceError(
            f"The captions in {name} at {place} cannot be read: {said}. Nothing was rejected for it; try again when "
            "the place can be read (images)."
        ) from error
