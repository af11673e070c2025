"""A source with COCO captions, and images in a folder, in a zip archive or at an fsspec address.

Covers: the rows, and the rows that the caption file alone shows to be bad; fetching the bytes of an image.
Does not cover: parsing the caption file (`coco_index`), files of a folder (`folders`) and of a zip archive (`zipped`),
decoding images (`images`).
"""

from __future__ import annotations

import os
import posixpath
import threading
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec

from daskt2i import addresses
from daskt2i.addresses import expanded
from daskt2i.credentials import for_use
from daskt2i.errors import Reason, RowRejected, SourceError, SourceMissing
from daskt2i.redact import without_secret
from daskt2i.sources.coco_index import Index, parse, unusable
from daskt2i.sources.files.folders import Folder, Remote
from daskt2i.sources.files.zipped import Zip
from daskt2i.types import Row, SourceInfo


class CocoSource:
    """One row per entry of `images`, in file order, with all its captions in the order of `annotations`.

    Args:
        images: a folder, a zip archive (read in place), or an fsspec address of either (`s3://…`, `memory://…`,
            `https://…`; an address is a zip if it ends in `.zip`). The folder may itself be a symbolic link. A file
            name must not lead out of the folder.
        captions: the caption file, at a path or an fsspec address; gzip, bzip2, xz and a zip archive with one JSON file
            are unpacked.
        storage_options: arguments of fsspec. They are used for `images` and `captions` if these are addresses.

    In a zip, the image is the entry with the name `file_name`. If there is none, it is the only entry that ends in
    `/` + `file_name` (COCO's own archives have a folder `train2014/`). A base name is never matched alone: `val/1.jpg`
    is not `train/1.jpg`.

    macOS writes accented letters as two characters (NFD). A name is found in either form, in a folder and in a zip.

    Raises:
        SourceError: `images` or `captions` is empty, or no path can be so.

    The object is small, because pickling drops the parsed data. A copy that only reads images never parses the caption
    file.
    """

    def __init__(self, images: str, captions: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.images = _absolute(os.fspath(images), "images")
        self.captions = _absolute(os.fspath(captions), "captions")
        self._storage_options = dict(storage_options or {})
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._parsed: Index | None = None
        self._pictures: Folder | Remote | Zip | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {key: self.__dict__[key] for key in ("images", "captions", "_storage_options")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        return without_secret(f"CocoSource(images={self.images!r}, captions={self.captions!r})")

    def info(self) -> SourceInfo:
        """Counts and identity. `content` is the SHA-256 of the caption file as stored. The file is read once.

        Raises:
            SourceMissing: there is no caption file, or there are no images.
            SourceError: the caption file does not have COCO's format, or the archive is not a zip archive.
        """
        index = self._index()
        try:
            self._open_images()
        except (SourceMissing, SourceError, MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # libraries of object stores have errors of their own
            raise SourceError(f"The images at {self.images} (images) cannot be opened: {_said(error)}.") from error
        inside = f"{posixpath.basename(index.member)} in " if index.member else ""
        return SourceInfo(
            rows=len(index),
            slots=index.slots,
            captions=index.caption_count,
            caption_characters=index.caption_characters,
            orphan_captions=index.orphan_captions,
            blank_captions=index.blank_captions,
            content={"source": "coco", "captions_sha256": index.sha256},
            label=f"{inside}{posixpath.basename(self.captions)} "
            f"({len(index):,} images, {index.caption_count:,} captions)",
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
        wrong = unusable(row.file_name)
        if wrong is not None:
            raise RowRejected(*wrong)
        try:
            return _in_either_form(self._open_images().read, posixpath.normpath(row.file_name))
        except RowRejected:
            raise
        except (SourceMissing, SourceError):
            raise
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise RowRejected(Reason.MISSING_FILE, row.file_name) from error

    def stamps(self, rows: Sequence[Row]) -> list[str] | None:
        """Size and times of each image file; of an archive, checksum and size; of an object store, what a listing says.

        "" for a row without a file. None if nothing can be told: a web server has no listing.
        """
        try:
            pictures = self._open_images()
            return [_stamp(pictures.stamp, row.file_name) for row in rows]
        except Exception:  # file systems of fsspec have errors of their own; the read itself reports what is wrong
            return None

    def _index(self) -> Index:
        with self._lock:
            if self._parsed is None:
                self._parsed = parse(self.captions, self._options(self.captions))
            return self._parsed

    def _options(self, address: str) -> dict[str, Any]:
        return for_use(self._storage_options, address) if addresses.is_address(address) else {}

    def _open_images(self) -> Folder | Remote | Zip:
        with self._lock:
            if self._pictures is None:
                self._pictures = _open(self.images, self._options(self.images))
            return self._pictures


def _absolute(address: str, setting: str) -> str:
    """An absolute local path, so that a worker in another working directory finds it. Addresses stay unchanged.

    Raises:
        ConfigError: no path can have this text.
        SourceError: the path is relative to a folder that was removed.
    """
    if not addresses.is_address(address):
        expanded(address, setting)
    try:
        return addresses.absolute(address)
    except ValueError as error:
        raise SourceError(
            f"{address!r} is no place of data: {error}. Nothing was read; give a path or an fsspec address ({setting})."
        ) from error


def _in_either_form(read: Callable[[str], bytes], name: str) -> bytes:
    """Read a file under its name, or under the same name with its accents written in the other form (NFC, NFD).

    Raises:
        The error for the name itself, if there is no file in either form.
    """
    try:
        return read(name)
    except (RowRejected, OSError) as error:
        missing = error.reason == Reason.MISSING_FILE if isinstance(error, RowRejected) else _is_missing(error)
        forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")} - {name}
        if not missing or not forms:
            raise
        for form in sorted(forms):
            try:
                return read(form)
            except (RowRejected, OSError) as other:
                if isinstance(other, OSError) and not _is_missing(other):
                    raise
                if isinstance(other, RowRejected) and other.reason != Reason.MISSING_FILE:
                    raise
        raise


def _stamp(stamp: Callable[[str], str], name: str) -> str:
    """The stamp of a file under its name, or with its accents written in the other form."""
    if unusable(name) is not None:
        return ""
    name = posixpath.normpath(name)
    forms = [name] if name.isascii() else [name, *sorted({unicodedata.normalize(f, name) for f in ("NFC", "NFD")})]
    return next((found for form in forms if (found := stamp(form))), "")


def _said(error: Exception) -> str:
    """What an error says, as a clause; its class if it says nothing."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _is_missing(error: OSError) -> bool:
    return isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) and not isinstance(
        error, SourceError
    )


def _open(address: str, options: dict[str, Any]) -> Folder | Remote | Zip:
    """Find out whether the address of the images is a folder, a zip archive or a remote folder.

    Raises:
        SourceMissing, SourceError
    """
    missing = f"There are no images at {address}. Give a folder, a .zip file or an fsspec address (images)."
    if not addresses.is_address(address):  # fsspec never sees a path, which it could take for an address
        local = Path(address)
        if local.is_dir():
            return Folder(local.resolve())
        if not local.exists():
            raise SourceMissing(missing)
        if not local.is_file():  # reading a pipe or a device would wait for ever
            raise SourceError(f"{address} is neither a folder nor a file. Give a folder of images or a .zip (images).")
        return Zip(fsspec.filesystem("file"), address)
    try:
        files, path = fsspec.core.url_to_fs(address, **options)
    except (ValueError, ImportError, TypeError) as error:
        raise SourceError(f"fsspec cannot open {address} (images): {error}.") from error
    if path.lower().endswith(".zip"):
        return Zip(files, path)
    web = "http" in files.protocol or "https" in files.protocol
    if not web and not files.exists(path):  # most web servers cannot list a folder
        raise SourceMissing(missing)
    return Remote(files, path.rstrip("/"), quoted=web)
