"""The lock of a run folder: it allows one encode at a time, and tells a second one who holds it.

Covers: taking and releasing the lock, and the message for a second process.
Does not cover: workers. They never take the lock. Chunks are whole and a receipt is renamed into place, so workers of a
killed driver do no harm.

On this machine and on shared file systems with locks, the lock is `flock` on `encode.lock`. The kernel releases it when
the process ends for any reason. Elsewhere (object stores, file systems without `flock`) it is an object. Its holder
renews it every 30 s, and it is stale after 120 s. This kind of lock is not safe: it can fail if two drivers start at
the same moment, or if clocks differ by minutes. That costs double work but no data, because a chunk that is written
twice has the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daskt2i.errors import StoreBusy
from daskt2i.store.run_folder import LOCK, RunFolder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BEAT_SECONDS = 30.0
"""Time between two renewals of a lock object by its holder."""

STALE_SECONDS = 120.0
"""An older lock object does not count."""

SETTLE_SECONDS = 1.0
"""Time to wait before a check whether another process overwrote the lock object."""

_FORGET: list[Callable[[], None]] = []
_BUSY = frozenset({errno.EAGAIN, errno.EACCES})
_NO_FLOCK = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})


@contextlib.contextmanager
def hold(folder: RunFolder, label: str) -> Iterator[None]:
    """Hold the run folder while the block runs.

    Args:
        label: what this process does, for the message to a second process: `"encode"`.

    Raises:
        StoreBusy: another process holds the run folder. The message names it.
        StoreError, StoreFull: the lock cannot be written here.
    """
    with contextlib.ExitStack() as stack:
        if not (folder.is_local and fcntl and stack.enter_context(_flock(folder, label))):
            stack.enter_context(_beating(folder, label))
        yield


@contextlib.contextmanager
def _flock(folder: RunFolder, label: str) -> Iterator[bool]:
    """Lock the file. It yields False if the file system has no locks."""
    path = folder.local_path(LOCK)
    handle = _locked(folder, path)
    if handle is None:
        yield False
        return

    def forget() -> None:
        """Close the child's copy of the file: a forked child shares the lock, and may live longer than its parent."""
        with contextlib.suppress(OSError):
            os.close(handle)

    _FORGET.append(forget)
    owner = os.getpid()
    try:
        os.ftruncate(handle, 0)
        with contextlib.suppress(OSError):  # on a full disk the lock works, but the name of its holder is missing
            os.pwrite(handle, json.dumps(_holder(label)).encode(), 0)
        yield True
    finally:
        if os.getpid() == owner:  # not in a forked child that leaves the block when it exits
            _FORGET.remove(forget)
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(handle)


def _locked(folder: RunFolder, path: Path) -> int | None:
    """The descriptor of the locked file; None if the file system has no locks."""
    while True:
        with folder.explaining(f"write {LOCK}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(handle, path):
                return handle
        except OSError as error:
            holder = os.pread(handle, 65536, 0) if error.errno in _BUSY else b""
            os.close(handle)
            if error.errno in _BUSY:
                raise _busy(folder, _parsed(holder)) from None
            if error.errno in _NO_FLOCK:
                return None
            raise
        os.close(handle)  # the former holder removed the file between open and lock, so try the new file


def _is_still(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _beating(folder: RunFolder, label: str) -> Iterator[None]:
    found = _read(folder)
    if found and time.time() - _beat(found) < STALE_SECONDS:
        raise _busy(folder, found)
    holder = {**_holder(label), "token": uuid.uuid4().hex}

    def beat() -> None:
        folder.write(LOCK, json.dumps({**holder, "beat": time.time()}).encode())

    def is_ours() -> bool:
        return _read(folder).get("token") == holder["token"]

    beat()
    time.sleep(SETTLE_SECONDS)
    if not is_ours():
        raise _busy(folder, _read(folder))
    stop = threading.Event()

    def keep() -> None:
        while not stop.wait(BEAT_SECONDS):
            # If the store cannot be reached now, the next renewal may succeed. The lock is valid for four of them.
            with contextlib.suppress(Exception):
                if not is_ours():
                    return  # another process found the lock stale and took it; see the module's docstring
                beat()

    thread = threading.Thread(target=keep, name="daskt2i-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=BEAT_SECONDS)
        with contextlib.suppress(Exception):  # without this, the lock becomes stale by itself
            if is_ours():
                folder.delete(LOCK)


def _read(folder: RunFolder) -> dict[str, Any]:
    """The content of the lock object; empty if there is none or it is damaged."""
    try:
        return _parsed(folder.read(LOCK))
    except FileNotFoundError:
        return {}


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _beat(found: Mapping[str, Any]) -> float:
    beat = found.get("beat")
    return float(beat) if isinstance(beat, int | float) else 0.0


def _holder(label: str) -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = str(os.getuid()) if hasattr(os, "getuid") else ""
    return {
        "label": label,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "user": user,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
    }


def holder(folder: RunFolder) -> str:
    """The process that holds the run folder now, in words; "" if none does. It takes no lock."""
    found = _read(folder)
    if not found:
        return ""
    if "beat" in found:
        return _who(found) if time.time() - _beat(found) < STALE_SECONDS else ""
    if fcntl is None or not folder.is_local:
        return _who(found)
    try:
        handle = os.open(folder.local_path(LOCK), os.O_RDONLY)
    except OSError:
        return ""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return ""  # a killed process left the file behind
    except OSError:
        return _who(found)
    finally:
        os.close(handle)


def _who(found: Mapping[str, Any]) -> str:
    return (
        f"{found.get('label')} (pid {found.get('pid')} on {found.get('host')}, user {found.get('user')}, since "
        f"{found.get('since')}: {found.get('command')})"
    )


def _busy(folder: RunFolder, found: Mapping[str, Any]) -> StoreBusy:
    who = _who(found) if found else "another process"
    return StoreBusy(
        f"{folder} is in use by {who}. Nothing was changed; wait until that process ends or stop it, then run it again."
    )


def _after_fork() -> None:
    for forget in _FORGET:
        forget()
    _FORGET.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
