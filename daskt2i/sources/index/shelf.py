"""Where an index is kept: in the run folder, or in a temporary folder of this process.

Covers: reading and writing its objects; removing the temporary folder at the end, and tables that no index uses.
Does not cover: what is in the objects (`lines`, `part_rows`).
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from daskt2i.errors import SourceError
from daskt2i.protocols import IndexFolder
from daskt2i.sources.index.lines import tables_in

FOLDER = "index"
"""Name of the folder in a run folder."""

_LINES = f"{FOLDER}/files.json"


class Shelf:
    """The objects of an index.

    Args:
        folder: the run folder; None for none.
        write: whether new objects go into it. Else they go into a temporary folder, and it is only read.
    """

    def __init__(self, folder: IndexFolder | None = None, write: bool = False) -> None:
        self._folder, self._write = folder, write and folder is not None
        self._temporary: Path | None = None
        self._lock = threading.Lock()

    def tables(self) -> set[str]:
        """Names of all tables that are there."""
        kept = [] if self._folder is None else self._folder.list(FOLDER)
        return {name.rpartition("/")[2] for name in kept}

    def lines(self) -> bytes:
        """The lines; empty if there are none."""
        try:
            return b"" if self._folder is None else self._folder.read(_LINES)
        except (FileNotFoundError, NotADirectoryError):
            return b""

    def keep_lines(self, raw: bytes) -> None:
        """Keep the lines in the run folder. Without one nobody could find them again."""
        if self._folder is not None and self._write:
            self._folder.write(_LINES, raw)

    def table(self, name: str) -> bytes:
        """A table.

        Raises:
            SourceError: it is gone, or damaged.
        """
        try:
            if self._temporary is not None and (path := self._temporary / name).exists():
                return path.read_bytes()
            if self._folder is not None:
                return self._whole(name, self._folder.read(f"{FOLDER}/{name}"))
        except FileNotFoundError:
            pass
        raise SourceError(
            f"A part of the index ({FOLDER}/{name}) was removed while it was in use. Nothing else was changed; run the "
            "command again, and the part is made anew."
        )

    def _whole(self, name: str, data: bytes) -> bytes:
        """The data, if they are those that were written. Damaged ones could give rows that never were."""
        if _name(data) != name:
            raise SourceError(
                f"A part of the index ({FOLDER}/{name}) of the run folder is damaged. Nothing was changed; remove "
                "this file when nothing runs, and run the command again: the part is made anew."
            )
        return data

    def keep_table(self, data: bytes) -> str:
        """Keep a table, and return its name. Equal tables have one name, so a run that still reads is not disturbed.

        Raises:
            StoreError: the run folder cannot be written.
        """
        name = _name(data)
        if self._folder is not None and self._write:
            self._folder.write(f"{FOLDER}/{name}", data)
            return name
        with self._lock:
            if self._temporary is None:
                self._temporary = Path(tempfile.mkdtemp(prefix="daskt2i-index-"))
                weakref.finalize(self, shutil.rmtree, self._temporary, ignore_errors=True)
        (self._temporary / name).write_bytes(data)
        return name


def remove_unused(folder: IndexFolder, delete: Callable[[str], None]) -> int:
    """Remove the tables that the index in a run folder does not use: those of files that changed or are gone.

    Call it while you hold the lock of the run folder. A command that only plans may still read such a table; it says
    that the command must be run again.

    Args:
        delete: removes an object of the folder.

    Returns:
        the number of removed tables.
    """
    used = tables_in(Shelf(folder).lines())
    unused = [] if used is None else sorted(Shelf(folder).tables() - used - {_LINES.rpartition("/")[2]})
    for name in unused:
        delete(f"{FOLDER}/{name}")
    return len(unused)


def _name(data: bytes) -> str:
    return f"rows-{hashlib.sha256(data).hexdigest()[:24]}.arrow"
