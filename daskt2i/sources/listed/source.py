"""A source whose rows are listed in memory on the driver, and whose images are files at one place.

    class MySource(ListedSource):
        kind = "mine"

        def _read_index(self) -> Index: ...

Covers: the methods of `protocols.Source` and `protocols.StampedSource`; what is pickled and what is not.
Does not cover: reading the list (the subclasses), opening images (`files.opening`).
"""

from __future__ import annotations

import posixpath
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from daskt2i import addresses
from daskt2i.errors import SourceError, SourceMissing
from daskt2i.formatting import many
from daskt2i.redact import without_secret
from daskt2i.sources.files.opening import Pictures, absolute, options_for
from daskt2i.sources.listed.index import Index
from daskt2i.types import Row, SourceInfo

_OF_THE_PROCESS = ("_lock", "_parsed", "_opened")
"""Attributes that are not pickled: a task holds the source, and a copy that only reads images never parses the list."""


class ListedSource(ABC):
    """The rows of a list, and their images at one place.

    Args:
        images: the place, as the user gave it.
        captions: the file of the captions, if the format has one.
        storage_options: arguments of fsspec. They are used for `images` and `captions` if these are addresses.

    Raises:
        SourceError: `images` or `captions` is empty, or no path can be so.
    """

    kind: ClassVar[str]
    """The name of the format."""

    def __init__(self, images: str, captions: str | None, storage_options: Mapping[str, Any] | None) -> None:
        self.images = absolute(images, "images")
        self.captions = None if captions is None else absolute(captions, "captions")
        self._storage_options = dict(storage_options or {})
        self._forget()

    @abstractmethod
    def _read_index(self) -> Index:
        """Read the list of the rows. It is called once.

        Raises:
            SourceMissing, SourceError: the list is not there, or it is damaged.
        """

    def _place(self) -> str:
        """The place below which the names of the rows are."""
        return self.images

    def _content(self, index: Index) -> dict[str, Any]:
        """What `info().content` says."""
        return {"source": self.kind, "rows_sha256": index.sha256}

    def _label(self, index: Index) -> str:
        return posixpath.basename(self.images.rstrip("/")) or self.images

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._parsed: Index | None = None
        self._opened: Pictures | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in _OF_THE_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        captions = "" if self.captions is None else f", captions={self.captions!r}"
        return without_secret(f"{type(self).__name__}(images={self.images!r}{captions})")

    def info(self) -> SourceInfo:
        """Counts and identity. The list is read once.

        Raises:
            SourceMissing: there is no list, or there are no images.
            SourceError: the list does not have the format, or the archive is not a zip archive.
        """
        index = self._index()
        self._pictures().require()
        images, captions = len(index), index.caption_count
        return SourceInfo(
            rows=images,
            slots=index.slots,
            captions=captions,
            caption_characters=index.caption_characters,
            orphan_captions=index.orphan_captions,
            blank_captions=index.blank_captions,
            content=self._content(index),
            label=f"{' '.join(self._label(index).split())} ({many(images, 'image')}, {many(captions, 'caption')})",
        )

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """Rows `start <= index < stop`. Row numbers after the last row are left out.

        Raises:
            SourceMissing, SourceError: as in `info`.
        """
        if start < 0:
            raise IndexError(f"rows start at 0, not at {start}")
        index = self._index()
        return [index.row(position) for position in range(start, min(stop, len(index)))]

    def read(self, row: Row) -> bytes:
        """The encoded image file of a row. Several threads may call it. It keeps no file open.

        Raises:
            RowRejected: `missing-file`; `unsafe-path` (nothing is opened); `unreadable-image` if the archive is damaged
                there; `image-too-large` for files over 256 MiB.
            OSError: the disk or the network failed, or access was refused. That is no property of the image.
        """
        return self._pictures().read(row.file_name)

    def stamps(self, rows: Sequence[Row]) -> list[str] | None:
        """Size and times of each image file; of an archive, checksum and size; of an object store, what a listing says.

        "" for a row without a file. None if nothing can be told: a web server has no listing.
        """
        return self._pictures().stamps(rows)

    def _index(self) -> Index:
        with self._lock:
            if self._parsed is None:
                self._parsed = self._read_index()
            return self._parsed

    def _pictures(self) -> Pictures:
        if self._opened is None:
            # Two threads may both make one here: opening is cheap, and the last one stays.
            self._opened = Pictures(self._place(), self._storage_options)
        return self._opened

    def _options(self, address: str) -> dict[str, Any]:
        return options_for(self._storage_options, address)


def bytes_of(address: str, options: Mapping[str, Any], what: str, setting: str) -> bytes:
    """The bytes of the list of a source.

    Args:
        what: what the file should be: "JSON Lines file".
        setting: the argument that names it, for messages.

    Raises:
        SourceMissing: there is no such file.
        SourceError: it cannot be read.
    """
    try:
        return addresses.read_bytes(address, options)
    except FileNotFoundError as error:
        raise SourceMissing(f"There is no {what} at {address}. Nothing was read; give its path ({setting}).") from error
    except OSError as error:
        said = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
        raise SourceError(f"The {what} {address} cannot be read: {said}.") from error
    except MemoryError as error:
        raise SourceError(f"The {what} {address} does not fit into the memory of this machine.") from error
