"""Sources of tables that name an image and its captions: JSON Lines and CSV.

Covers: the arguments; several lines for one image; where the images lie.
Does not cover: reading a table and guessing its columns (`listed.records`, `listed.columns`), Parquet files.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from daskt2i.sources.listed.columns import Named
from daskt2i.sources.listed.index import Index, Rows
from daskt2i.sources.listed.records import read_records
from daskt2i.sources.listed.source import ListedSource, bytes_of


class _TableSource(ListedSource):
    """Rows of a table, in the order of their first lines. All lines of one image are one row."""

    def __init__(
        self,
        images: str,
        captions: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
        id_column: str | None = None,
    ) -> None:
        super().__init__(images, captions, storage_options)
        self._named = Named(image_column, caption_column, id_column)

    def _place(self) -> str:
        return self.images if self.captions is not None else posixpath.dirname(self.images)

    def _label(self, index: Index) -> str:
        return posixpath.basename(self._table())

    def _table(self) -> str:
        return self.images if self.captions is None else self.captions

    def _read_index(self) -> Index:
        table, place, rows = self._table(), self._place().rstrip("/"), Rows()
        setting = "images" if self.captions is None else "captions"
        raw = bytes_of(table, self._options(table), f"{self.kind.upper()} file", setting)
        columns, records = read_records(raw, table, self.kind, self._named)
        del raw
        for record in records:
            name, captions, identity, licence = columns.of(record)
            if isinstance(name, str) and name.startswith(f"{place}/"):  # tables often hold absolute paths
                name = name.removeprefix(f"{place}/")
            rows.add(name, captions, identity, licence)
        return rows.in_order()


class JsonlSource(_TableSource):
    """The lines of a JSON Lines file. Each is an object with the path of an image and its captions.

        {"file_name": "a/1.jpg", "caption": "a dog"}
        {"file_name": "a/2.jpg", "captions": ["a cat", "a cat on a mat"]}

    Args:
        images: the file, if the paths in it are relative to its folder. With `captions`, the place of the images: a
            folder, a zip archive, or an fsspec address of either.
        captions: the file. gzip, bzip2 and xz are unpacked.
        storage_options: arguments of fsspec, for addresses.
        image_column: the key of the path. None: `file_name`, `image`, `path` or another usual name.
        caption_column: the key of the caption, or of a list of captions. None: `caption`, `captions`, `text` or
            `sentences`.
        id_column: the key of the id of the image. None: `image_id` or `id`.

    The id of a row is what the file says, if it says 64-bit integers alone; else a hash of the path.

    Raises:
        SourceError: `images` or `captions` is empty, or no path can be so.
    """

    kind = "jsonl"


class CsvSource(_TableSource):
    """The lines of a CSV file with a header. Each has the path of an image and a caption; an image may have many lines.

        file_name,caption
        a/1.jpg,a dog
        a/1.jpg,"a dog, running"

    The delimiter may be a comma, a tab, a semicolon or a bar. The arguments are those of `JsonlSource`.

    Raises:
        SourceError: `images` or `captions` is empty, or no path can be so.
    """

    kind = "csv"
