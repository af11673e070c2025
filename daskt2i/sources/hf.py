"""A source with a data set of HF's `datasets`, in its Arrow files.

Covers: a folder of `save_to_disk`, a folder of the cache, and a data set of the hub by name; rows of an Arrow file;
reading an image in place.
Does not cover: which files there are (`index.places`), the index (`index`), which columns count (`index.columns`),
Parquet files of the hub (`parquet`).

Values of an Arrow file that `datasets` writes are not compressed. So the index holds where the bytes of each image lie,
and a worker reads them with one ranged read: it needs neither `datasets` nor Arrow.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from daskt2i.errors import ConfigError, Reason, RowRejected, SourceError
from daskt2i.protocols import IndexFolder
from daskt2i.redact import without_secret
from daskt2i.sources.files.spans import SpannedRow, Spans
from daskt2i.sources.index.columns import Columns, Named, columns_of
from daskt2i.sources.index.found import Found, Tally
from daskt2i.sources.index.indexed import Indexed
from daskt2i.sources.index.places import Container, Place
from daskt2i.types import Row, SourceInfo

_OF_DATASETS = ("cache-", "indices-", "tmp")
"""Beginnings of Arrow files that `datasets` keeps beside the data: results of `map`, choices of rows."""


class HfSource:
    """One row per row of each Arrow file, in the order of the files' names and of the rows in a file.

    Args:
        images: a folder of `save_to_disk`, a folder of the cache of `datasets` (the one with the `.arrow` files), an
            Arrow file, or an fsspec address of one of these.
        name: a data set of the hub, in place of `images`. It is downloaded and prepared by `datasets` if it is not in
            the cache. Every machine needs it in its cache.
        config: the configuration of this data set.
        split: rows of one split; None: of all splits, in the order of their names.
        storage_options: arguments of fsspec. They are used if `images` is an address.
        image_column: HF's struct of `bytes` and `path`, or bytes; None: a usual name.
        caption_column: one or more columns of text or of lists of text; None: a usual name.
        id_column: whole numbers; None: `image_id` or `id`, if there is one.

    `Row.file_name` is the name of the Arrow file and the number of the row in it.

    Raises:
        ConfigError: both `images` and `name` are given, or none of them.
        SourceError: no path can be so.

    The object is small, because pickling drops the index. A copy that only reads images needs none.
    """

    locations = frozenset({"images", "name", "config", "storage_options"})

    def __init__(
        self,
        images: str | None = None,
        name: str | None = None,
        config: str | None = None,
        split: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        image_column: str | None = None,
        caption_column: str | Sequence[str] | None = None,
        id_column: str | None = None,
    ) -> None:
        if (images is None) == (name is None):
            raise ConfigError(
                "A data set of HF lies in a folder, or has a name on the hub. Nothing was read; give one of the two "
                "(images, name)."
            )
        some = (caption_column,) if isinstance(caption_column, str) else caption_column
        named = Named(image_column, None if some is None else tuple(some), id_column)
        place = None if images is None else Place(images, {}, (".arrow",), "Arrow file").address
        self._arguments = place, name, config, split, dict(storage_options or {}), named
        self._begin()

    def _begin(self) -> None:
        self._opened: tuple[Place, Spans, Indexed] | None = None
        self._kept: tuple[IndexFolder, bool] | None = None

    def __getstate__(self) -> tuple[Any, ...]:
        return self._arguments

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._arguments = state
        self._begin()

    def __repr__(self) -> str:
        images, name, _, split, *_ = self._arguments
        return without_secret(f"HfSource(images={images!r}, name={name!r}, split={split!r})")

    def keep_index(self, folder: IndexFolder, write: bool) -> None:
        """Keep the index in a run folder. See `protocols.IndexedSource`."""
        self._kept = folder, write

    def info(self) -> SourceInfo:
        """Counts and identity. `content` is a SHA-256 over names, captions, ids and sizes of the images.

        Raises:
            SourceMissing: there are no Arrow files, or none of this split.
            SourceError: a file cannot be read, or its columns do not fit; it changed while it was read; the data set
                is not in the cache, and the hub cannot be reached.
            ConfigError: `name` needs the package `datasets`.
        """
        return self._open()[2].info()

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """Rows `start <= index < stop`. Row numbers after the last row are left out.

        Raises:
            SourceMissing, SourceError, ConfigError: as in `info`; a file changed after its index was made.
        """
        return self._open()[2].rows(start, stop)

    def read(self, row: Row) -> bytes:
        """The encoded image file of a row. Several threads may call it. It keeps no file open.

        Raises:
            RowRejected: `missing-file`, `image-too-large`.
            OSError: the disk or the network failed; `ESTALE` if the file is gone, or another one is in its place.
        """
        if row.reason is not None:
            raise RowRejected(row.reason, row.detail)
        if not isinstance(row, SpannedRow):
            raise RowRejected(Reason.MISSING_FILE, f"{row.file_name} has no place in an Arrow file")
        return self._open()[1].read(row)

    def stamps(self, rows: Sequence[Row]) -> list[str] | None:
        """Size and times of the Arrow file of each row, with the place in it; None if nothing can be told."""
        return self._open()[1].stamps(rows)

    def _open(self) -> tuple[Place, Spans, Indexed]:
        # Two threads may both make one at the same time: it is cheap, and the last one stays.
        if (opened := self._opened) is None:
            images, name, config, split, options, named = self._arguments
            address = images or _in_the_cache(str(name), config)
            place = _Split(address, options, split)
            indexed = Indexed(place, self._scan, "hf", [named.image, named.captions, named.identity, split])
            if self._kept is not None:
                indexed.keep(*self._kept)
            opened = self._opened = place, Spans(place), indexed
        return opened

    def _scan(self, container: Container, tally: Tally) -> Iterator[Found]:
        """The rows of a file. It is mapped into memory, so images are not read; one at an address is copied first."""
        place, named = self._open()[0], self._arguments[-1]
        files, _ = place.files()
        with contextlib.ExitStack() as stack:
            path = container.path
            if not place.is_local:
                path = f"{stack.enter_context(tempfile.TemporaryDirectory(prefix='daskt2i-arrow-'))}/copy"
                files.get_file(container.path, path)
            yield from _rows(path, container, named, tally)


class _Split(Place):
    """The Arrow files of a data set, or of one split of it."""

    def __init__(self, address: str, options: Mapping[str, Any], split: str | None) -> None:
        super().__init__(address, options, (".arrow",), "Arrow file")
        self._of = split

    def containers(self) -> list[Container]:
        """All Arrow files that hold rows. See `Place.containers`.

        Raises:
            SourceMissing, SourceError: also if there is no such split, or rows were chosen and not written.
        """
        found = [one for one in super().containers() if not posixpath.basename(one.name).startswith(_OF_DATASETS)]
        for folder in sorted({posixpath.dirname(one.path) for one in found}):
            self._require_no_choice(folder)
        if self._of is None:
            return found
        chosen = [one for one in found if _split_of(one.name) == self._of]
        if not chosen:
            there = ", ".join(sorted({_split_of(one.name) for one in found} - {""})) or "no splits"
            raise SourceError(
                f"{self.address} has no split {self._of!r}; it has {there}. Nothing was read; give one of these, or "
                "none (split)."
            )
        return chosen

    def _require_no_choice(self, folder: str) -> None:
        """Raise an error if `select` or `shuffle` is kept as a list of row numbers beside the data."""
        files, _ = self.files()
        try:
            state = json.loads(files.cat_file(f"{folder}/state.json"))
        except (OSError, ValueError):
            return
        if isinstance(state, dict) and state.get("_indices_data_files"):
            raise SourceError(
                f"The data set in {folder} keeps a choice of rows beside the data (`select`, `shuffle`). Nothing was "
                "read; call `flatten_indices()` on it, and save it again with `save_to_disk` (images)."
            )


def _split_of(name: str) -> str:
    """The split of an Arrow file: its folder in a saved `DatasetDict`, a part of its name in the cache; "" for none."""
    folder, base = posixpath.split(name)
    if base.startswith("data-"):
        return posixpath.basename(folder)
    stem = re.sub(r"-\d+-of-\d+$", "", base.removesuffix(".arrow"))
    return stem.rpartition("-")[2] if "-" in stem else ""


def _in_the_cache(name: str, config: str | None) -> str:
    """The folder of the cache that holds a data set of the hub. `datasets` prepares it if needed.

    Raises:
        ConfigError: the package is missing.
        SourceError: the data set cannot be prepared.
    """
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"The data set {name} (name) needs the package datasets, which is not installed. Nothing was read; run pip "
            "install 'daskt2i[hf]', or give the folder of its Arrow files (images)."
        ) from error
    try:
        builder = datasets.load_dataset_builder(name, config)
        builder.download_and_prepare()
    except Exception as error:  # the hub has errors of its own
        said = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise SourceError(
            f"The data set {name} (name) is not in the cache of this machine, and cannot be fetched: {said}. Nothing "
            "was read; check its name and the network, or give the folder of its Arrow files (images)."
        ) from error
    return str(builder.cache_dir)


def _rows(path: str, container: Container, named: Named, tally: Tally) -> Iterator[Found]:
    """The rows of an Arrow file on this machine."""
    import pyarrow as pa

    try:
        with pa.memory_map(path) as mapped:
            whole = mapped.read_buffer()
        kind = pa.ipc.open_file if bytes(whole[:6]) == b"ARROW1" else pa.ipc.open_stream
        reader = kind(whole)
        batches = (
            (reader.get_batch(n) for n in range(reader.num_record_batches)) if kind is pa.ipc.open_file else reader
        )
        columns = columns_of(reader.schema, named, container.path)
        if columns.form == "path":
            raise _paths(container.path)
        number = 0
        for batch in batches:
            spans = _spans(batch.column(columns.image), columns, whole, container.path)
            for record, (offset, size) in zip(batch.select(columns.told).to_pylist(), spans, strict=True):
                yield _row(record, columns, f"{container.name}/{number}", offset, size, tally)
                number += 1
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # the disk, and not the file; Arrow's own errors have no number
            raise
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise SourceError(
            f"{container.path} cannot be read as an Arrow file of `datasets`: {said} (was it cut?). Nothing was "
            "encoded; write it again, or take it away (images)."
        ) from error


def _spans(image: Any, columns: Columns, whole: Any, path: str) -> list[tuple[int, int]]:
    """Offset and size in the file of each image of a batch, bytes; (-1, 0) for one that is missing.

    Raises:
        SourceError: the file is compressed, or has paths of images and no images.
    """
    import pyarrow as pa

    valid = image.is_valid()
    if columns.form == "struct":
        names = image.field(image.type.get_field_index("path")) if image.type.get_field_index("path") >= 0 else None
        image = image.field(image.type.get_field_index("bytes"))
        if len(image) and image.null_count == len(image) and names is not None and names.null_count < len(names):
            raise _paths(path)
    there = [one and two for one, two in zip(valid.to_pylist(), image.is_valid().to_pylist(), strict=True)]
    _, offsets, data = image.buffers()
    if data is None:
        return [(-1, 0)] * len(image)
    kind = np.int64 if pa.types.is_large_binary(image.type) else np.int32
    ends = np.frombuffer(offsets, kind)[image.offset : image.offset + len(image) + 1].astype(np.int64)
    begin = data.address - whole.address
    if len(ends) and not 0 <= begin + int(ends[-1]) <= whole.size:
        raise SourceError(
            f"{path} is a compressed Arrow file, so no image in it can be read alone. Nothing was encoded; save the "
            "data set again with `save_to_disk`, which does not compress (images)."
        )
    starts, sizes = (ends[:-1] + begin).tolist(), np.diff(ends).tolist()
    return [(start, size) if one and size else (-1, 0) for one, start, size in zip(there, starts, sizes, strict=True)]


def _row(record: Mapping[str, Any], columns: Columns, name: str, offset: int, size: int, tally: Tally) -> Found:
    captions, blank = columns.captions_of(record)
    tally.blank_captions += blank
    reason, detail = (None, "") if captions else (Reason.NO_CAPTION, "")
    if offset < 0:
        reason, detail = Reason.MISSING_FILE, "the data set has no image in this row"
    licence = "" if columns.licence is None else record[columns.licence] or ""
    return Found(name, captions, columns.id_of(record), reason, detail, licence, offset, size)


def _paths(path: str) -> SourceError:
    return SourceError(
        f"{path} has names of image files, and no images. Nothing was read; save the data set with `save_to_disk`, "
        "which puts the images in, and give that folder (images)."
    )
