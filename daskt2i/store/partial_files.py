"""Partial files: an object is written under a hidden name, flushed, and renamed when it is complete.

Covers: the name of a partial file, recognising exactly this name, removing partial files of killed processes, flushing
folders.
Does not cover: writing an object (`run_folder`), whose folder it is (`ownership`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

_PARTIAL = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}\.partial", re.DOTALL)


def partial_of(target: Path) -> Path:
    """A new name beside `target` for its partial file: `.NAME.<32 hex digits>.partial`."""
    return target.parent / f".{target.name}.{uuid.uuid4().hex}.partial"


def is_partial(name: str) -> bool:
    """Whether the last part of a name has the form that `partial_of` gives. Hidden files of others do not have it."""
    return target_name(name) is not None


def target_name(name: str) -> str | None:
    """The name of the object that a partial file would have become, or None if it is not a partial file."""
    found = _PARTIAL.fullmatch(PurePosixPath(name).name)
    return found["name"] if found else None


def sweep(root: Path, files: Collection[str], folders: Collection[str], older_than: float) -> int:
    """Remove partial files. It follows no links, and looks only where daskt2i writes.

    Args:
        files: names of objects directly in the folder.
        folders: names of folders in it; their folders are swept too.
        older_than: seconds since the last change, by the clock of the file system.

    Returns:
        the number of removed files.
    """
    swept = 0
    with contextlib.suppress(OSError):
        partials = list(_found(root, files, folders))
        now = _clock(root / min(files)) if partials else 0.0
        for partial in partials:
            with contextlib.suppress(OSError):
                if now - partial.lstat().st_mtime >= older_than:
                    partial.unlink()
                    swept += 1
    return swept


def _clock(target: Path) -> float:
    """The time of the file system of `target`. On a shared one a server sets it, and our own clock may differ."""
    probe = partial_of(target)
    try:
        probe.touch(exist_ok=False)
        return probe.lstat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _found(root: Path, files: Collection[str], folders: Collection[str]) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (path for path in root.iterdir() if target_name(path.name) in files and not path.is_symlink())
    for folder in (root / name for name in folders):
        if folder.is_symlink():
            continue
        for place, _, names in os.walk(folder):
            yield from (Path(place, name) for name in names if is_partial(name))


def make_folders(folder: Path) -> None:
    """Make a folder and its parents, and flush each new name to disk."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        flush_folder(new.parent)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to disk. Some file systems cannot do this; that is ignored."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # Windows cannot open a folder
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
    finally:
        os.close(handle)
