"""One process of a machine first, the others after it, for what is cheaper once somebody has done it.

Covers: reading a large file from a disk or a network: the first one fills the page cache, from which the rest are fed.
Does not cover: who may write a run folder (`store.lock`); being right, for which nobody needs to wait.

Eight workers that read one file of 1.7 GB at once from a network disk ask for it eight times over, each in the others'
way. A model is hashed before it is loaded, and both find the file in memory then; safetensors files are mapped, so the
workers of a machine share those pages.
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
def one_process_first(what: str) -> Iterator[bool]:
    """Alone in this block if nobody on this machine is in one of the same name; else together, once that one has left.

    Where locks are not to be had, everybody goes at once.

    Args:
        what: what is read, e.g. a path.

    Yields:
        Whether this process is the first.
    """
    handle = None if fcntl is None else _opened(what)
    if handle is None:
        yield True
        return
    try:
        yield _taken(handle)
    finally:
        os.close(handle)  # which gives the lock back


def _opened(what: str) -> int | None:
    owner = os.getuid() if hasattr(os, "getuid") else 0  # of a folder that all users share
    name = f"daskt2i-{owner}-{hashlib.sha256(what.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.turn"
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        return os.open(Path(tempfile.gettempdir()) / name, flags, 0o600)
    except OSError:
        return None


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        with contextlib.suppress(OSError):  # no locks here
            fcntl.flock(handle, fcntl.LOCK_SH)
        return False
