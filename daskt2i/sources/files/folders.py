"""Image files of a folder: on this machine, or at an fsspec address.

Covers: reading a file, its stamp; the names of all files; telling a file that is missing from a folder that went away.
Does not cover: which names are allowed, accents in one or two characters (`opening`), archives (`zipped`).

A missing file says something about this file only while its folder is there. A folder may be renamed, and a mount may
go away, in the middle of a run. So each class remembers a file that it has read: the witness. If a file is missing, the
witness must still be there. If it is not, the error is `ESTALE`, which may pass, and no row is rejected. Inode numbers
would say less: some file systems in user space give new ones while they run.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daskt2i.errors import Reason, RowRejected
from daskt2i.sources.files.presence import gone, is_empty, is_page, told
from daskt2i.sources.files.zipped import MAX_FILE_BYTES
from daskt2i.types import FileBytes

_FOLDERS = 1024
"""Folders with a witness of their own. A data set may have a folder for each image."""


class Folder:
    """Files below a local folder. Several threads may read.

    Args:
        root: the folder, without symbolic links.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._witnesses: dict[Path, Path] = {}  # folder -> the file that was read from it last
        self._witness: Path | None = None

    def read(self, name: str) -> FileBytes:
        """The bytes of a file, with its stamp.

        Raises:
            RowRejected: `missing-file` if it is no file that can be read, `unsafe-path`, `image-too-large`.
            FileNotFoundError, NotADirectoryError: there is no such file.
            OSError: `ESTALE` if the whole folder is gone; other errors of the disk.
        """
        path = self._root / name
        try:
            real = path.resolve()
        except RuntimeError as error:  # Python < 3.13 raises it for a circle of symbolic links
            raise RowRejected(Reason.MISSING_FILE, f"{name} is a circle of symbolic links") from error
        if not real.is_relative_to(self._root):
            raise RowRejected(Reason.UNSAFE_PATH, f"{name} is a symbolic link that leads out of the image folder")
        try:
            about = real.stat()
            if not stat.S_ISREG(about.st_mode):  # opening a pipe would wait for ever
                raise RowRejected(Reason.MISSING_FILE, f"{name} is not a file")
            if about.st_size > MAX_FILE_BYTES:
                raise RowRejected(Reason.IMAGE_TOO_LARGE, f"a file of {about.st_size} bytes > {MAX_FILE_BYTES}")
            with real.open("rb") as stream:
                opened = os.fstat(stream.fileno())
                data = FileBytes(stream.read(), _stamp(opened))
        except (FileNotFoundError, NotADirectoryError):
            self._require_place(real.parent)
            raise
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
                raise RowRejected(Reason.MISSING_FILE, f"no file can have this name: {name[:200]}") from error
            raise
        self._witness = real
        if real.parent in self._witnesses or len(self._witnesses) < _FOLDERS:
            self._witnesses[real.parent] = real
        return data

    def stamp(self, name: str) -> str:
        """Size and times of a file; "" if there is none."""
        try:
            about = (self._root / name).stat()
        except (OSError, ValueError):
            return ""
        return _stamp(about) if stat.S_ISREG(about.st_mode) else ""

    def names(self) -> Iterator[str]:
        """Paths of all files below the folder, in any order; a link to a folder ends in `/` and is not entered.

        Raises:
            OSError: a folder cannot be listed.
        """
        still = [""]
        while still:
            below = still.pop()
            with os.scandir(self._root / below) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        still.append(f"{below}{entry.name}/")
                    else:
                        yield f"{below}{entry.name}{'/' if entry.is_dir() else ''}"

    def _require_place(self, folder: Path) -> None:
        """Raise an error unless the folder of a missing file, or at least the folder of all images, is in place."""
        witness = self._witnesses.get(folder, self._witness)
        # An empty folder is a mount point without its mount.
        there = witness.exists() if witness else self._root.is_dir() and not is_empty(self._root)
        if not there:
            raise gone(str(folder if folder in self._witnesses else self._root))


def is_hidden(name: str) -> bool:
    """Whether a file or a folder is none of the user: `.git`, `.DS_Store`, `__MACOSX`."""
    return name.startswith(".") or name == "__MACOSX"


def _stamp(about: os.stat_result) -> str:
    # The time of the last change of the entry, too: `cp -p`, `tar` and `rsync` set the other time back.
    return f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"


class Remote:
    """Files below an fsspec address. Several threads may read.

    Args:
        files: the file system.
        root: the folder in it.
        quoted: whether names are quoted as in a web address. A web server has no listing.
    """

    def __init__(self, files: Any, root: str, quoted: bool) -> None:
        self._files, self._root, self._quoted = files, root, quoted
        self._witness = ""
        self._listed: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()  # one listing at a time: four threads would list a bucket four times

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: there is no such file.
            PermissionError: the server answers with a web page, also in place of an image that it gave before.
            OSError: `ESTALE` if the whole folder is gone.
            Exception: other errors of the file system.
        """
        path = f"{self._root}/{urllib.parse.quote(name) if self._quoted else name}"
        try:
            data = bytes(self._files.cat_file(path))
        except FileNotFoundError:
            self._require_place()
            raise
        if not is_page(data):
            self._witness = path
        elif self._witness and is_page(bytes(self._files.cat_file(self._witness))):
            raise PermissionError(errno.EACCES, "the server answers with a web page now; it may ask for a log-in", path)
        return data

    def stamp(self, name: str) -> str:
        """From one listing of each folder; "" for a file that it does not have.

        Raises:
            LookupError: it cannot be told.
        """
        if self._quoted:
            raise LookupError("a web server has no listing")
        folder, _, base = f"{self._root}/{name}".rpartition("/")
        with self._lock:
            if folder not in self._listed:
                self._files.invalidate_cache(folder)
                try:
                    found = self._files.ls(folder, detail=True)
                except FileNotFoundError:
                    found = []
                self._listed[folder] = {str(one["name"]).rpartition("/")[2]: told(one) for one in found}
            return self._listed[folder].get(base, "")

    def names(self) -> Iterator[str]:
        """Paths of all files below the folder, in any order.

        Raises:
            LookupError: a web server has no listing.
            Exception: other errors of the file system.
        """
        if self._quoted:
            raise LookupError("a web server has no listing")
        self._files.invalidate_cache()
        for path in self._files.find(self._root):
            yield str(path).removeprefix(f"{self._root}/")

    def _require_place(self) -> None:
        """Raise an error unless the folder of a missing file is in place. A web server shows files alone."""
        place = self._witness or ("" if self._quoted else self._root)
        if place:
            self._files.invalidate_cache()
            if not self._files.exists(place):
                raise gone(self._root)
