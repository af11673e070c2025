"""The lock of a run folder: it allows one encode at a time, and tells a second one who holds it.

Covers: taking and releasing the lock, waiting for a holder that may be dead, the message for a second process.
Does not cover: workers. They never take the lock, and write where nobody reads. What a holder that lost the lock could
still do: `publishing` prevents it.

On this machine and on shared file systems with locks, the lock is `flock` on `encode.lock`. The kernel releases it when
the process ends for any reason. Elsewhere (object stores, file systems without `flock`) it is a chain of objects
(`publishing.lease`). Its holder gives a sign of life every 5 s. Who finds the folder held watches for them by its own
clock: a sign means that the folder is in use; no sign for 60 s means that the holder is dead, and the lock is taken.
Clocks of two machines are never compared. A holder that sleeps longer than that, and wakes, has lost the lock.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daskt2i.errors import StoreBusy
from daskt2i.store.publishing import lease
from daskt2i.store.publishing.attempts import taken_over
from daskt2i.store.run_folder import LOCK, RunFolder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BEAT_SECONDS = 5.0
"""Time between two signs of life of the holder of a lock object."""

DEAD_SECONDS = 60.0
"""A holder that gives no sign of life for so long is dead."""

SETTLE_SECONDS = 1.0
"""Time to wait, on object stores, before a check whether the lock object is still ours: not every store can refuse to
overwrite an object."""

_FORGET: list[Callable[[], None]] = []
_BUSY = frozenset({errno.EAGAIN, errno.EACCES})
_NO_FLOCK = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})
_SEEN: dict[str, lease.Observer] = {}
"""What this process has seen of lock objects, for `holder`."""


@contextlib.contextmanager
def hold(
    folder: RunFolder, label: str, tell: Callable[[str], None] = lambda text: None, steps: int | None = None
) -> Iterator[Callable[[], None]]:
    """Hold the run folder while the block runs.

    Args:
        label: what this process does, for the message to a second process: `"encode"`.
        tell: gets one line if the lock may belong to a dead process, and it takes time to find out.
        steps: the last step of a training, for `status`.

    Yields:
        a function that raises `TakenOver` if another process has taken the lock, because this one gave no sign of life.
        The first call looks at the lock. Later ones do so only if this process was silent for long.

    Raises:
        StoreBusy: another process holds the run folder. The message names it.
        StoreError, StoreFull: the lock cannot be written here.
    """
    about = _about(label, steps)
    with contextlib.ExitStack() as stack:
        if folder.is_local and fcntl and stack.enter_context(_flock(folder, about)):
            yield lambda: None
        else:
            yield stack.enter_context(_leased(folder, about, tell))


@contextlib.contextmanager
def _flock(folder: RunFolder, about: Mapping[str, Any]) -> Iterator[bool]:
    """Lock the file. It yields False if the file system has no locks."""
    path = folder.local_path(LOCK)
    if not _has_locks(folder, path):
        yield False
        return
    handle = _locked(folder, path)

    def forget() -> None:
        """Close the child's copy of the file: a forked child shares the lock, and may live longer than its parent."""
        with contextlib.suppress(OSError):
            os.close(handle)

    _FORGET.append(forget)
    owner = os.getpid()
    try:
        os.ftruncate(handle, 0)
        with contextlib.suppress(OSError):  # on a full disk the lock works, but the name of its holder is missing
            os.pwrite(handle, json.dumps(about).encode(), 0)
        yield True
    finally:
        if os.getpid() == owner:  # not in a forked child that leaves the block when it exits
            _FORGET.remove(forget)
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(handle)


def _has_locks(folder: RunFolder, path: Path) -> bool:
    """Whether the file system has locks. It tries another file: an empty lock file would look like a claim."""
    probe = path.with_name(f".{LOCK}.{uuid.uuid4().hex}.partial")
    with folder.explaining(f"write {LOCK}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_FLOCK:
                return False
            raise
        finally:
            os.close(handle)
            probe.unlink(missing_ok=True)
    return True


def _locked(folder: RunFolder, path: Path) -> int:
    """The descriptor of the locked file."""
    while True:
        with folder.explaining(f"write {LOCK}"):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(handle, path):
                return handle
        except OSError as error:
            holder = os.pread(handle, 65536, 0) if error.errno in _BUSY else b""
            os.close(handle)
            if error.errno in _BUSY:
                raise _busy(folder, lease.parsed(holder)) from None
            raise
        os.close(handle)  # the former holder removed the file between open and lock, so try the new file


def _is_still(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _leased(folder: RunFolder, about: Mapping[str, Any], tell: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    claim = _claimed(folder, {**about, "token": uuid.uuid4().hex}, tell)
    stop, lost = threading.Event(), threading.Event()
    seen, looked = _awake(), False

    def still_holds() -> bool:
        nonlocal seen
        if lost.is_set() or not lease.holds(folder, claim):
            lost.set()
            return False
        seen = _awake()
        return True

    def keep() -> None:
        count = 0
        while not stop.wait(BEAT_SECONDS):
            count += 1
            # If the store cannot be reached now, the next sign may succeed. The lock is valid for twelve of them.
            with contextlib.suppress(Exception):
                if not still_holds():
                    return
                lease.beat(folder, claim, count)

    def check() -> None:
        # After a long silence of this process the lock may have been taken, and `keep` has not noticed it yet. The
        # first look comes before other runs are removed. It believes no clock: some stand still while a machine sleeps.
        nonlocal looked
        first, looked = not looked, True
        if lost.is_set() or ((first or _awake() - seen > DEAD_SECONDS / 2) and not still_holds()):
            raise taken_over(folder)

    thread = threading.Thread(target=keep, name="daskt2i-lock", daemon=True)
    thread.start()
    owner = os.getpid()
    try:
        yield check
    finally:
        if os.getpid() == owner:  # not in a forked child that leaves the block when it exits
            stop.set()
            thread.join(timeout=DEAD_SECONDS / 2)
            with contextlib.suppress(Exception):  # without this, the next process waits until the lock is dead
                lease.release(folder, claim)


def _claimed(folder: RunFolder, about: Mapping[str, Any], tell: Callable[[str], None]) -> lease.Claim:
    """Take the lock, if need be after its holder has been silent for long."""
    observer, told = lease.Observer(), False
    while True:
        last = observer.look(folder, time.monotonic())
        if last is not None and observer.changed:
            raise _busy(folder, last.about)
        if last is None or observer.quiet >= DEAD_SECONDS:
            claim = lease.take(folder, last, about)
            if claim is not None:
                if not folder.is_local:
                    time.sleep(SETTLE_SECONDS)
                if lease.holds(folder, claim):
                    return claim
                lease.withdraw(folder, claim)
            continue
        if not told:
            told = True
            tell(
                f"{folder} was last held by {_who(last.about)}. Whether it still runs is seen in {BEAT_SECONDS:.0f} s; "
                f"if there is no sign of life for {DEAD_SECONDS:.0f} s, this run takes over."
            )
        time.sleep(min(BEAT_SECONDS, max(0.01, DEAD_SECONDS - observer.quiet)) / 2)


def _awake() -> float:
    """Seconds of a clock of this machine that goes on while the machine sleeps, if it has one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _about(label: str, steps: int | None) -> dict[str, Any]:
    """What the lock says of its holder."""
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
        **({} if steps is None else {"steps": steps}),
    }


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a run folder.

    Attributes:
        words: the process, for a person; "" if nobody holds the folder.
        label: what it does: `"encode"`.
        steps: the last step of its training; None if it does not train, or if its version does not say so.
        known: whether it is known to live.
    """

    words: str = ""
    label: str = ""
    steps: int | None = None
    known: bool = True


def holder(folder: RunFolder) -> Holder:
    """The process that holds the run folder now. It takes no lock and does not wait.

    One look at a lock object cannot tell whether its holder lives. The words say so. Later looks of this process tell
    how long it has been silent.
    """
    if folder.is_local and fcntl is not None and not _is_lease(folder):
        return _flock_holder(folder)
    observer = _SEEN.setdefault(folder.root, lease.Observer())
    last = observer.look(folder, time.monotonic())
    if last is None or observer.quiet >= DEAD_SECONDS:
        _SEEN.pop(folder.root, None)
        return Holder()
    if observer.quiet >= 2 * BEAT_SECONDS:
        return replace(_named(last.about, f", no sign of life for {observer.quiet:.0f} s"), known=False)
    if observer.changed:
        return _named(last.about)
    return replace(_named(last.about, ", not known whether it still runs"), known=False)


def _is_lease(folder: RunFolder) -> bool:
    claims = lease.chain(folder)
    return bool(claims) and "token" in claims[-1].about


def _flock_holder(folder: RunFolder) -> Holder:
    try:
        handle = os.open(folder.local_path(LOCK), os.O_RDONLY)
    except OSError:
        return Holder()
    try:
        found = os.pread(handle, 65536, 0)
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return Holder()  # a killed process left the file behind
    except OSError:
        return _named(lease.parsed(found))
    finally:
        os.close(handle)


def _named(about: Mapping[str, Any], known: str = "") -> Holder:
    steps = about.get("steps")
    return Holder(_who(about) + known, str(about.get("label", "")), steps if type(steps) is int else None)


def _who(found: Mapping[str, Any]) -> str:
    if not found:
        return "another process"
    return (
        f"{found.get('label')} (pid {found.get('pid')} on {found.get('host')}, user {found.get('user')}, since "
        f"{found.get('since')})"
    )


def _busy(folder: RunFolder, found: Mapping[str, Any]) -> StoreBusy:
    return StoreBusy(
        f"{folder} is in use by {_who(found)}. Nothing was changed; wait until that process ends or stop it, then run "
        "it again."
    )


def _after_fork() -> None:
    for forget in _FORGET:
        forget()
    _FORGET.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
