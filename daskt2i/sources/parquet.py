"""A source with Parquet files: images in a column, or names of image files, and captions in other columns.

Covers: the rows of a file; an image by its row group.
Does not cover: which files there are (`index.places`), the index (`index`), which columns count (`index.columns`),
reading row groups (`files.row_groups`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from daskt2i.errors import Reason, RowRejected, SourceError
from daskt2i.protocols import IndexFolder
from daskt2i.redact import without_secret
from daskt2i.sources.files.opening import Pictures, absolute, unusable
from daskt2i.sources.files.row_groups import RowGroups
from daskt2i.sources.files.zipped import MAX_FILE_BYTES
from daskt2i.sources.index.columns import Columns, Named, columns_of, refuse_web_addresses
from daskt2i.sources.index.found import Found, Tally
from daskt2i.sources.index.indexed import Indexed
from daskt2i.sources.index.places import Container, Place
from daskt2i.types import Row, SourceInfo

SUFFIXES = (".parquet", ".pq")

_BATCH = 8_192
"""Rows that are read at once for the index, without their images."""


class ParquetSource:
    """One row per row of each table, in the order of the files' names and of the rows in a file.

    Args:
        images: a Parquet file, a folder of them (also in its sub-folders), a pattern, a list in braces, or an fsspec
            address of these. With `captions` it is the folder or the zip archive of the images.
        captions: the Parquet file, folder or pattern, if the images are not in it, but named in it. Without it, named
            images lie below the folder of the Parquet file.
        storage_options: arguments of fsspec. They are used for addresses.
        image_column: images as bytes, as HF's struct of `bytes` and `path`, or names of image files; None: a usual
            name.
        caption_column: one or more columns of text or of lists of text; None: a usual name.
        id_column: whole numbers; None: `image_id` or `id`, if there is one.

    `Row.file_name` is the name of the file and the number of the row in it (`a.parquet/12`), or the name of the image.

    Raises:
        SourceError: `images` is empty, or no path can be so.

    The object is small, because pickling drops the index. A copy that only reads images needs none.
    """

    def __init__(
        self,
        images: str,
        captions: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        image_column: str | None = None,
        caption_column: str | Sequence[str] | None = None,
        id_column: str | None = None,
    ) -> None:
        some = (caption_column,) if isinstance(caption_column, str) else caption_column
        named = Named(image_column, None if some is None else tuple(some), id_column)
        self._arguments = images, captions, dict(storage_options or {}), named
        self._begin()

    def _begin(self) -> None:
        images, captions, self._options, self._named = self._arguments
        setting = "images" if captions is None else "captions"
        self._place = Place(captions or images, self._options, SUFFIXES, "Parquet file", setting)
        self._groups = RowGroups(self._place)
        self._columns: dict[str, Columns] = {}
        self._pictures: Pictures | None = None
        arguments = [self._named.image, self._named.captions, self._named.identity]
        self._rows = Indexed(self._place, self._scan, "parquet", arguments)

    def __getstate__(self) -> tuple[Any, ...]:
        images, captions, *rest = self._arguments
        return (self._place.address, None, *rest) if captions is None else (images, self._place.address, *rest)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._arguments = state
        self._begin()

    def __repr__(self) -> str:
        return without_secret(f"ParquetSource(images={self._arguments[0]!r}, captions={self._arguments[1]!r})")

    def keep_index(self, folder: IndexFolder, write: bool) -> None:
        """Keep the index in a run folder. See `protocols.IndexedSource`."""
        self._rows.keep(folder, write)

    def info(self) -> SourceInfo:
        """Counts and identity. `content` is a SHA-256 over names, captions and ids, and over the sizes of the image
        columns as the files tell them.

        Raises:
            SourceMissing: there are no Parquet files.
            SourceError: a file cannot be read, or its columns do not fit; it changed while it was read.
        """
        return self._rows.info()

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """Rows `start <= index < stop`. Row numbers after the last row are left out.

        Raises:
            SourceMissing, SourceError: as in `info`; a file changed after its index was made.
        """
        return self._rows.rows(start, stop)

    def read(self, row: Row) -> bytes:
        """The encoded image file of a row. Several threads may call it.

        Raises:
            RowRejected: `missing-file`; `unsafe-path`; `unreadable-image` if the file is damaged there;
                `image-too-large`.
            OSError: the disk or the network failed; `ESTALE` if the file is gone, or has fewer rows than before.
        """
        if row.reason is not None:
            raise RowRejected(row.reason, row.detail)
        name, number = _split(row.file_name)
        if number is None:
            return self._files().read(name)
        columns = self._columns_of(name)
        value = self._groups.value(name, number, columns.image)
        data = value if isinstance(value, bytes) else (value or {}).get("bytes")
        if not data:
            raise RowRejected(Reason.MISSING_FILE, "the table has no image in this row")
        if len(data) > MAX_FILE_BYTES:
            raise RowRejected(Reason.IMAGE_TOO_LARGE, f"an image of {len(data)} bytes > {MAX_FILE_BYTES}")
        return bytes(data)

    def stamps(self, rows: Sequence[Row]) -> list[str] | None:
        """Size and times of the Parquet file of each row, or of its image file; None if nothing can be told."""
        named = [row for row in rows if _split(row.file_name)[1] is None]
        files = dict(
            zip((row.index for row in named), (self._files().stamps(named) or []) if named else [], strict=False)
        )
        known: dict[str, str] = {}
        found = []
        for row in rows:
            name, number = _split(row.file_name)
            if number is None:
                if row.index not in files:
                    return None
                found.append(files[row.index])
                continue
            if name not in known:
                try:
                    known[name] = self._place.stamp(name)
                except Exception:  # file systems of fsspec have errors of their own; the read reports what is wrong
                    return None
                if not known[name]:
                    return None
            found.append(f"{known[name]} {number}")
        return found

    def _files(self) -> Pictures:
        """Reads image files by their names."""
        if self._pictures is None:
            images, captions, *_ = self._arguments
            root = absolute(images, "images") if captions is not None else posixpath.dirname(self._place.path_of("x"))
            if captions is None and not self._place.is_local:
                files, _ = self._place.files()
                root = files.unstrip_protocol(root)
            self._pictures = Pictures(root, self._options)
        return self._pictures

    def _columns_of(self, name: str) -> Columns:
        """The columns of a file. A worker reads them once for each file."""
        if (found := self._columns.get(name)) is None:
            schema = self._groups.schema(name)
            found = self._columns[name] = columns_of(schema, self._named, self._place.path_of(name))
        return found

    def _scan(self, container: Container, tally: Tally) -> Iterator[Found]:
        """The rows of a file. Its images are not read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        files, _ = self._place.files()
        with files.open(container.path, "rb") as stream:
            try:
                file = pq.ParquetFile(stream, pre_buffer=False)
            except pa.ArrowException as error:
                said = " ".join(str(error).split())[:200].rstrip(".")
                raise SourceError(
                    f"{container.path} is not a Parquet file: {said}. Nothing was encoded; remove it, or write it "
                    "again (images)."
                ) from error
            columns = self._columns[container.name] = columns_of(file.schema_arrow, self._named, container.path)
            number = 0
            for group in range(file.num_row_groups if columns.form != "path" else 0):
                tally.looks.append(_look(file.metadata.row_group(group), columns))
            for batch in file.iter_batches(batch_size=_BATCH, columns=columns.told):
                for record in batch.to_pylist():
                    if number == 0:
                        refuse_web_addresses(columns, record, container.path)
                    yield _row(record, columns, f"{container.name}/{number}", tally)
                    number += 1


def _row(record: Mapping[str, Any], columns: Columns, name: str, tally: Tally) -> Found:
    captions, blank = columns.captions_of(record)
    tally.blank_captions += blank
    reason, detail = (None, "") if captions else (Reason.NO_CAPTION, "")
    if columns.form == "path":
        name = record[columns.image] or ""
        reason, detail = unusable(name) or (reason, detail)
    licence = "" if columns.licence is None else record[columns.licence] or ""
    return Found(name, captions, columns.id_of(record), reason, detail, licence)


def _look(group: Any, columns: Columns) -> str:
    """What the end of a file tells of the images of a row group."""
    parts = (group.column(n) for n in range(group.num_columns))
    sizes = [part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] == columns.image]
    return f"{group.num_rows} {sizes}"


def _split(name: str) -> tuple[str, int | None]:
    """Name of the Parquet file and number of the row; no number for the name of an image file."""
    container, _, number = name.rpartition("/")
    if container.lower().endswith(SUFFIXES) and number.isdigit():
        return container, int(number)
    return name, None
