"""Opens the place of the images: a folder, a zip archive, or an fsspec address of either.

Covers: what kind of place it is, and opening it once; a name in either form of its accents; which names may be opened.
Does not cover: files of a folder (`folders`) and of an archive (`zipped`), which rows there are (the sources).
"""

from __future__ import annotations

import os
import posixpath
import re
import threading
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec

from daskt2i import addresses
from daskt2i.addresses import expanded
from daskt2i.credentials import for_use
from daskt2i.documents import storable
from daskt2i.errors import Reason, RowRejected, SourceError, SourceMissing
from daskt2i.sources.files.folders import Folder, Remote, is_hidden
from daskt2i.sources.files.zipped import Zip
from daskt2i.types import Row


class Pictures:
    """The image files at a place. It is opened at the first use, and several threads may use it.

    Args:
        address: a folder, a zip archive, or an fsspec address of either; absolute.
        options: arguments of fsspec, for an address.
    """

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        self._address, self._options = address, options
        self._lock = threading.Lock()
        self._opened: Folder | Remote | Zip | None = None

    def open(self) -> Folder | Remote | Zip:
        """The place itself.

        Raises:
            SourceMissing: there are no images.
            SourceError: it is neither a folder nor a zip archive.
            Exception: libraries of object stores have errors of their own.
        """
        with self._lock:
            if self._opened is None:
                self._opened = _open(self._address, options_for(self._options, self._address))
            return self._opened

    def require(self) -> None:
        """Open the place, and say of any error that it is about the images.

        Raises:
            SourceMissing, SourceError
        """
        try:
            self.open()
        except (SourceMissing, SourceError, MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # libraries of object stores have errors of their own
            raise SourceError(f"The images at {self._address} (images) cannot be opened: {_said(error)}.") from error

    def read(self, name: str) -> bytes:
        """The bytes of a file, by its path below the place.

        Raises:
            RowRejected: `missing-file`; `unsafe-path` (nothing is opened); `unreadable-image` if the archive is damaged
                there; `image-too-large` for files over 256 MiB.
            OSError: the disk or the network failed, or access was refused. That is no property of the image.
        """
        wrong = unusable(name)
        if wrong is not None:
            raise RowRejected(*wrong)
        try:
            return _in_either_form(self.open().read, posixpath.normpath(name))
        except RowRejected:
            raise
        except (SourceMissing, SourceError):
            raise
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise RowRejected(Reason.MISSING_FILE, name) from error

    def names(self) -> list[str]:
        """Paths of all files below the place, sorted by code points, without hidden ones.

        A link to a folder ends in `/`: what is behind it is not listed.

        Raises:
            SourceMissing, SourceError: the place cannot be opened or listed.
        """
        self.require()
        try:
            found = [name for name in self.open().names() if not any(map(is_hidden, name.split("/")))]
        except (MemoryError, KeyboardInterrupt):
            raise
        except LookupError as error:
            raise SourceError(
                f"The images at {self._address} cannot be listed: {error}. Nothing was read; give a file that lists "
                "them too, for example in JSON Lines (captions)."
            ) from error
        except Exception as error:  # libraries of object stores have errors of their own
            raise SourceError(f"The images at {self._address} (images) cannot be listed: {_said(error)}.") from error
        return sorted(found)

    def stamps(self, rows: Sequence[Row]) -> list[str] | None:
        """Size and times of each image file; of an archive, checksum and size; of an object store, what a listing says.

        "" for a row without a file. None if nothing can be told: a web server has no listing.
        """
        try:
            pictures = self.open()
            return [_stamp(pictures.stamp, row.file_name) for row in rows]
        except Exception:  # file systems of fsspec have errors of their own; the read itself reports what is wrong
            return None


def absolute(address: str | os.PathLike[str], setting: str) -> str:
    """An absolute local path, so that a worker in another working directory finds it. Addresses stay unchanged.

    Raises:
        ConfigError: no path can have this text.
        SourceError: the path is relative to a folder that was removed.
    """
    address = os.fspath(address)
    if not addresses.is_address(address):
        expanded(address, setting)
    try:
        return addresses.absolute(address)
    except ValueError as error:
        raise SourceError(
            f"{address!r} is no place of data: {error}. Nothing was read; give a path or an fsspec address ({setting})."
        ) from error


def options_for(options: Mapping[str, Any], address: str) -> dict[str, Any]:
    """The arguments of fsspec for an address; none for a path."""
    return for_use(options, address) if addresses.is_address(address) else {}


def unusable(name: object) -> tuple[Reason, str] | None:
    """Why an image with this name must not be opened; None if it may be opened."""
    if not isinstance(name, str) or not name:
        return Reason.MISSING_FILE, "the entry has no file_name"
    if storable(name) != name:
        return Reason.MISSING_FILE, "the file name is not valid text"
    if name.startswith("/") or "\\" in name or re.match(r"[A-Za-z]:", name):
        return Reason.UNSAFE_PATH, f"not a relative path with forward slashes: {name[:200]}"
    if ".." in name.split("/"):
        return Reason.UNSAFE_PATH, f"leads out of the image folder: {name[:200]}"
    if "\0" in name or "://" in name:
        return Reason.UNSAFE_PATH, f"an address or a NUL character, not a file name: {name[:200]!r}"
    if name.endswith("/") or posixpath.normpath(name) == ".":
        return Reason.MISSING_FILE, f"names a folder: {name[:200]}"
    return None


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
