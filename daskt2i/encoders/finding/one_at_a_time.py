"""Lets one process of a machine read a large file first, while the other processes wait.

Covers: reading a large file from a disk or a network. The first process fills the page cache, and the others read from
it.
Does not cover: who may write a run folder (`store.publishing.lock`). Results do not depend on this order, only
the speed does.

Without it, eight workers would fetch a file of 1.7 GB eight times from a network disk, at the same time. A worker
hashes a model before it loads it, and both then find the file in memory. safetensors files are memory-mapped, so the
workers of a machine share the pages.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def one_process_first(what: str, folder: Path | None = None) -> Iterator[bool]:
    """The first process on this machine runs the block alone. The others wait for it, and then run it together.

    If the machine has no file locks, no process waits.

    Args:
        what: name of the resource, such as a path. Only processes with the same name wait.
        folder: holds the empty file of the lock, which stays. The folder for temporary files if it is None.

    Yields:
        Whether this process is the first.
    """
    handle = None if fcntl is None else _opened(what, folder or Path(tempfile.gettempdir()))
    if handle is None:
        yield True
        return
    try:
        yield _taken(handle)
    finally:
        os.close(handle)  # closing the file releases the lock


def _opened(what: str, folder: Path) -> int | None:
    owner = os.getuid() if hasattr(os, "getuid") else 0  # all users share the temporary folder
    name = f"daskt2i-{owner}-{hashlib.sha256(what.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.turn"
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        return os.open(folder / name, flags, 0o600)
    except OSError:
        return None


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        with contextlib.suppress(OSError):  # this file system has no locks
            fcntl.flock(handle, fcntl.LOCK_SH)
        return False
