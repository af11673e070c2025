"""The large files of a place: one file, a folder, a pattern, a list in braces, or an fsspec address of these.

    /data/set   /data/00000.tar   /data/*.tar   s3://bucket/{00000..00999}.tar

Covers: which files these are, in a fixed order; their names below the place; stamps that change with a file.
Does not cover: what is in the files (the sources), folders of images (`files.folders`).
"""

from __future__ import annotations

import glob
import os
import posixpath
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import fsspec

from daskt2i import addresses
from daskt2i.credentials import for_use
from daskt2i.errors import SourceError, SourceMissing
from daskt2i.sources.files.opening import absolute
from daskt2i.sources.files.presence import told

_MAGIC = re.compile(r"[*?\[{]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")

_ASKED = 16
"""Files that an object store is asked about at once."""

MOST_NAMES = 1_000_000
"""Names that a list in braces may stand for."""


@dataclass(frozen=True, slots=True)
class Container:
    """A file that holds many images.

    Attributes:
        name: its path below the place; the first part of the file name of its rows.
        path: its path in the file system.
        stamp: a text that differs if the file is another one; "" if the file system cannot tell.
        size: bytes.
    """

    name: str
    path: str
    stamp: str
    size: int


class Place:
    """Where the files of a source lie. Making it reads nothing.

    Args:
        address: a file, a folder (with all folders below it), a pattern, a list in braces, or an fsspec address.
        options: arguments of fsspec, for an address.
        suffixes: endings of the files in a folder, in lower case: `(".tar",)`.
        kind: the files in words, for messages: `"tar"`.
        setting: the argument that gives the address, for messages.

    Raises:
        SourceError: the address is empty, or no path can be so.
    """

    def __init__(
        self, address: str, options: Mapping[str, Any], suffixes: Sequence[str], kind: str, setting: str = "images"
    ) -> None:
        self.address = absolute(address, setting)
        self.suffixes, self._options, self._kind, self._setting = tuple(suffixes), dict(options), kind, setting
        self.is_local = not addresses.is_address(self.address)
        self._lock = threading.Lock()
        self._opened: tuple[Any, str] | None = None
        self._root: str | None = None

    def files(self) -> tuple[Any, str]:
        """The file system of fsspec, and the path of the place in it.

        Raises:
            SourceError: fsspec does not know the address.
        """
        with self._lock:
            if self._opened is None:
                if self.is_local:
                    self._opened = fsspec.filesystem("file"), self.address
                else:
                    try:
                        self._opened = fsspec.core.url_to_fs(self.address, **for_use(self._options, self.address))
                    except (ValueError, ImportError, TypeError) as error:
                        raise SourceError(f"fsspec cannot open {self.address} ({self._setting}): {error}.") from error
            return self._opened

    def path_of(self, name: str) -> str:
        """The path of a file in the file system, by its name below the place. It lists nothing."""
        if self._root is None:
            self._root = self._folder()
        return f"{self._root}/{name}"

    def containers(self) -> list[Container]:
        """All files of the place, in the order of their names (code points).

        Raises:
            SourceMissing: there are none, or one that the list names is missing.
            SourceError: the place cannot be listed.
        """
        try:
            paths, root = self._paths(), f"{self._folder()}/"
            with ThreadPoolExecutor(_ASKED) as pool:
                return sorted(pool.map(lambda path: self._container(path, root), paths), key=lambda one: one.name)
        except (SourceError, KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:  # file systems of fsspec have errors of their own
            said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise SourceError(
                f"{self.address} ({self._setting}) cannot be listed: {said}. Nothing was read; check the address and "
                "its credentials (storage_options)."
            ) from error

    def stamp(self, name: str) -> str:
        """The stamp of a file now; "" if the file system cannot tell.

        Raises:
            FileNotFoundError: it is gone.
        """
        path = self.path_of(name)
        if self.is_local:
            return stamp_of(Path(path).stat())
        files, _ = self.files()
        files.invalidate_cache(posixpath.dirname(path))
        return _told(files.info(path))

    def _paths(self) -> list[str]:
        files, path = self.files()
        if (found := self._kind_of(path)) == "file":
            return [path]
        if found == "folder":
            listed = _below(path) if self.is_local else map(str, files.find(path))
            chosen = [one for one in listed if one.lower().endswith(self.suffixes) and not _hidden(one, path)]
            if not chosen:
                raise SourceMissing(
                    f"There is no {self._kind} in {self.address}. Nothing was read; give a folder or a pattern of "
                    f"files that end in {self.suffixes[0]} ({self._setting})."
                )
            return chosen
        names = self._in_braces(path)
        if len(names) == 1 and not glob.has_magic(path):
            raise self._nothing(self.address)
        with ThreadPoolExecutor(_ASKED) as pool:
            return list(dict.fromkeys(path for some in pool.map(self._named, names) for path in some))

    def _named(self, name: str) -> list[str]:
        """The files of one name of a list, which may be a pattern."""
        some = map(str, self.files()[0].glob(name)) if glob.has_magic(name) else [name]
        found = [one for one in some if self._kind_of(one) == "file"]
        if not found:
            raise self._nothing(name)
        return found

    def _nothing(self, what: str) -> SourceMissing:
        return SourceMissing(
            f"There is nothing at {what}. Nothing was read; give a file, a folder, a pattern such as *, a list "
            f"such as {{00000..00009}}, or an fsspec address ({self._setting})."
        )

    def _in_braces(self, path: str) -> list[str]:
        """The names that a list in braces stands for."""
        texts = _BRACES.split(path)
        lists = [[text] if number % 2 == 0 else _of_braces(text) for number, text in enumerate(texts)]
        count = 1
        for one in lists:
            count *= len(one)
        if count > MOST_NAMES:
            raise SourceError(
                f"{self.address} stands for {count:,} files, more than {MOST_NAMES:,}. Nothing was read; give a folder "
                f"or a pattern ({self._setting})."
            )
        return ["".join(parts) for parts in product(*lists)]

    def _kind_of(self, path: str) -> str:
        """`"file"`, `"folder"`, or "" if there is nothing."""
        if self.is_local:
            return "folder" if Path(path).is_dir() else "file" if Path(path).is_file() else ""
        files, _ = self.files()
        try:
            return "folder" if files.info(path).get("type") == "directory" else "file"
        except FileNotFoundError:
            return ""

    def _folder(self) -> str:
        """The folder that names are below."""
        _, path = self.files()
        found = self._kind_of(path)
        if found == "folder":
            return path.rstrip("/")
        if not found and (magic := _MAGIC.search(path)) is not None:
            path = path[: magic.start()]
        return path.rpartition("/")[0]

    def _container(self, path: str, root: str) -> Container:
        name = path.removeprefix(root)
        if self.is_local:
            about = Path(path).stat()
            return Container(name, path, stamp_of(about), about.st_size)
        # Not from the listing: some file systems write times in another way there.
        entry = self.files()[0].info(path)
        return Container(name, path, _told(entry), int(entry.get("size") or 0))


def stamp_of(about: os.stat_result) -> str:
    """Size and times of a local file. The time of its entry too: `cp -p` and `rsync` set the other time back."""
    return f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"


def _told(entry: Mapping[str, Any]) -> str:
    try:
        return told(entry)
    except LookupError:
        return ""


def _below(folder: str) -> Iterator[str]:
    def cannot(error: OSError) -> None:
        raise error

    for where, _, names in os.walk(folder, onerror=cannot):
        yield from (f"{where.rstrip('/')}/{name}" for name in names)


def _hidden(path: str, root: str) -> bool:
    """Whether it is a file that systems put there, such as `._00000.tar` of macOS."""
    return any(part.startswith(".") for part in path.removeprefix(root).split("/"))


def _of_braces(text: str) -> list[str]:
    """`00000..00009` or `a,b`."""
    if (found := _RANGE.fullmatch(text)) is None:
        return text.split(",")
    first, last = found.groups()
    step = 1 if int(first) <= int(last) else -1
    if abs(int(last) - int(first)) > MOST_NAMES:
        return [text] * (MOST_NAMES + 1)  # the caller refuses it
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + step, step)]
