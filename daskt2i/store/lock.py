"""One encode at a time in a run folder; the second one is told who holds it.

Covers: taking and giving back the lock, and the sentence for whoever comes second.
Does not cover: workers, which never take it: chunks are whole and a receipt is renamed into place, so that workers left
over from a killed driver do no harm.

On this machine and on shared file systems with locks it is `flock` on `encode.lock`: the kernel releases it when the
process ends, however it ends. Elsewhere (object stores, file systems without `flock`) it is an object that its holder
renews every 30 s, and that counts no more once it is 120 s old. Such a lock is a courtesy: two drivers that start in
the same moment, or clocks that are minutes apart, can defeat it. That costs double work and no data, because a chunk
that is written twice is the same bytes.
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
"""How often the holder of a lock object renews it."""

STALE_SECONDS = 120.0
"""Age at which a lock object counts no more."""

SETTLE_SECONDS = 1.0
"""How long a lock object is left before looking whether somebody else wrote over it."""

_FORGET: list[Callable[[], None]] = []
_BUSY = frozenset({errno.EAGAIN, errno.EACCES})
_NO_FLOCK = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})


@contextlib.contextmanager
def hold(folder: RunFolder, label: str) -> Iterator[None]:
    """Hold the run folder while the block runs.

    Args:
        label: what this process is doing, for whoever comes second: `"encode"`.

    Raises:
        StoreBusy: somebody else holds it; the sentence names them.
        StoreError, StoreFull: the lock cannot be written here.
    """
    with contextlib.ExitStack() as stack:
        if not (folder.is_local and fcntl and stack.enter_context(_flock(folder, label))):
            stack.enter_context(_beating(folder, label))
        yield


@contextlib.contextmanager
def _flock(folder: RunFolder, label: str) -> Iterator[bool]:
    """Whether the file is locked; False where the file system has no locks."""
    path = folder.local_path(LOCK)
    handle = _locked(folder, path)
    if handle is None:
        yield False
        return

    def forget() -> None:
        """A forked child shares the lock until it closes its copy, and could outlive us."""
        with contextlib.suppress(OSError):
            os.close(handle)

    _FORGET.append(forget)
    owner = os.getpid()
    try:
        os.ftruncate(handle, 0)
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only the name of its holder is missing
            os.pwrite(handle, json.dumps(_holder(label)).encode(), 0)
        yield True
    finally:
        if os.getpid() == owner:  # and not a forked child that leaves the block on its way out
            _FORGET.remove(forget)
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(handle)


def _locked(folder: RunFolder, path: Path) -> int | None:
    """The descriptor of the locked file, or None where the file system has no locks."""
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
        os.close(handle)  # its holder removed it between our open and our lock: try the new one


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
            # A store that cannot be reached for a moment: the next beat may, and the lock lives for four.
            with contextlib.suppress(Exception):
                if not is_ours():
                    return  # we were thought dead; see the module's docstring
                beat()

    thread = threading.Thread(target=keep, name="daskt2i-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=BEAT_SECONDS)
        with contextlib.suppress(Exception):  # it goes stale by itself
            if is_ours():
                folder.delete(LOCK)


def _read(folder: RunFolder) -> dict[str, Any]:
    """What the lock object says; empty where there is none or it makes no sense."""
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
    """Who holds the run folder now, in words; "" when nobody does. Takes nothing."""
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
        return ""  # left behind by a process that was killed
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
        f"{folder} is held by {who}. Nothing was touched; wait until that ends or stop it, then run the same command "
        "again."
    )


def _after_fork() -> None:
    for forget in _FORGET:
        forget()
    _FORGET.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
