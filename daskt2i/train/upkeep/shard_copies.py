"""Copies of shards on the disk of this machine, for a store behind an address: each shard is fetched once.

    copies = ShardCopies.opened(folder, "auto", tell)       # None for a store on this machine
    path = copies.get(shard, fetch)                         # None: read it from the address
    copies.close()

Covers: a limit of bytes for all ranks of a machine, one fetch for all of them, removing the copies at the end, a disk
that is full.
Does not cover: comparing shards with their receipts (`checked_store`), decoding (`loader`).

    TMPDIR/daskt2i-shards-UID/STORE/kept-SHA256  passing-SHA256       STORE.lock: held by each rank that uses them

Each epoch needs each shard once, in another order. So a cache that drops the shard which was not used for the longest
time would drop most shards just before they are needed: with room for half of a store it answers 15 % of the reads.
One that keeps what came first answers 50 %. So seven eighths of the limit are kept until the end. The last eighth is
for shards that pass: other ranks of this machine need them at about the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psutil
from dask.utils import parse_bytes

from daskt2i.encoders.finding.one_at_a_time import one_process_first
from daskt2i.os_errors import meaning_of
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Shard

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

AUTO = "auto"
AUTO_SHARE, AUTO_MOST = 0.25, 256 * 2**30
"""With `auto`, the limit is so much of the free space of the disk, and at most so many bytes."""

PASSING = 8
"""One part of so many is for shards that pass."""

_LEFT_FREE = 2**30
"""Bytes that are left free on the disk, or a twentieth of a small one."""

_IN_MEMORY = ("tmpfs", "ramfs")


@dataclass(slots=True)
class ShardCopies:
    """The copies of one store.

    Args:
        place: the folder of the copies.
        limit: bytes.
        tell: gets a sentence, at most once, if the disk is full.
    """

    place: Path
    limit: int
    tell: Callable[[str], object]
    _users: int | None = None
    _good: set[str] = field(default_factory=set)
    _told: bool = False

    @classmethod
    def opened(cls, folder: RunFolder, limit: str, tell: Callable[[str], object]) -> ShardCopies | None:
        """The copies of the store in a run folder. None for a folder on this machine, and without a limit or locks.

        Args:
            limit: a size, or `auto`.
        """
        if folder.is_local or fcntl is None:
            return None
        base = _base()
        allowed = auto_limit(base) if limit == AUTO else int(parse_bytes(limit))
        if not allowed:
            return None
        place = base / hashlib.sha256(folder.root.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        copies = cls(place, allowed, tell)
        try:
            _remove_abandoned(base, place)
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            copies._users = _held(place, fcntl.LOCK_SH)
        except OSError as error:
            copies._give_up(error)
            return None
        return copies

    def get(self, shard: Shard, fetch: Callable[[], bytes]) -> Path | None:
        """A file of this machine with the bytes of a shard; None if there is no room for one.

        Each process compares the file with the shard's hash before it uses it for the first time.

        Args:
            fetch: gets the bytes from the address. The caller checks them if None is returned.

        Raises:
            what `fetch` raises.
        """
        if (found := self._found(shard)) is not None:
            return found
        if shard.size > self.limit // PASSING and shard.size > self._kept_limit - self._sum("kept"):
            return None
        with one_process_first(shard.sha256, self.place):  # a file for each shard: they go with the copies
            if (found := self._found(shard)) is not None:
                return found
            data = fetch()
            if hashlib.sha256(data).hexdigest() != shard.sha256:
                return None
            try:
                return self._add(shard, data)
            except OSError as error:
                self._give_up(error)
                return None

    def nearest(self, sha256: str) -> Path | None:
        """The file of a shard that `get` gave before; None if it passed."""
        if sha256 not in self._good:
            return None
        return next((path for path in self._paths(sha256) if path.exists()), None)

    def close(self) -> None:
        """The last rank of this machine removes the copies. May be called twice."""
        users, self._users = self._users, None
        if users is None:
            return
        os.close(users)
        _remove_if_unused(self.place)

    @property
    def _kept_limit(self) -> int:
        return self.limit - self.limit // PASSING

    def _paths(self, sha256: str) -> tuple[Path, Path]:
        return self.place / f"kept-{sha256}", self.place / f"passing-{sha256}"

    def _found(self, shard: Shard) -> Path | None:
        """A copy that is right. One that is not, for example after a power cut, is removed."""
        for path in self._paths(shard.sha256):
            with contextlib.suppress(OSError):
                if shard.sha256 in self._good and path.stat().st_size == shard.size:
                    return path
                with path.open("rb") as file:
                    right = hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256
                if right:
                    self._good.add(shard.sha256)
                    return path
                path.unlink()
        return None

    def _add(self, shard: Shard, data: bytes) -> Path | None:
        turn = _held(self.place.with_suffix(".turn"), fcntl.LOCK_EX)
        try:
            kept, passing = self._paths(shard.sha256)
            if self._sum("kept") + shard.size <= self._kept_limit:
                target = kept
            elif shard.size <= self.limit // PASSING:
                target = passing
                self._make_room(self.limit // PASSING - shard.size)
            else:
                return None
            if not self._fits(shard.size):
                self._make_room(0)
                if not self._fits(shard.size):
                    raise OSError(28, os.strerror(28), str(self.place))  # ENOSPC
            partial = self.place / f".{uuid4().hex}"
            try:
                partial.write_bytes(data)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
        finally:
            os.close(turn)
        self._good.add(shard.sha256)
        return target

    def _sum(self, kind: str) -> int:
        return sum(size for _, size, _ in self._listed(kind))

    def _listed(self, kind: str) -> Iterator[tuple[float, int, Path]]:
        with os.scandir(self.place) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.name.startswith(f"{kind}-"):
                        about = entry.stat()
                        yield about.st_mtime, about.st_size, Path(entry.path)

    def _make_room(self, left: int) -> None:
        """Remove the oldest shards that pass, until they have at most so many bytes."""
        passing = sorted(self._listed("passing"))
        held = sum(size for _, size, _ in passing)
        for _, size, path in passing:
            if held <= left:
                return
            with contextlib.suppress(OSError):
                path.unlink()
                held -= size

    def _fits(self, size: int) -> bool:
        usage = shutil.disk_usage(self.place)
        return usage.free - size >= min(_LEFT_FREE, usage.total // 20)

    def _give_up(self, error: OSError) -> None:
        """Tell once that shards are read from the address. Copies that are there stay in use."""
        self.limit = 0
        if not self._told:
            self._told = True
            why = meaning_of(error)
            self.tell(
                f"Shards are not copied to {self.place.parent} any more ({why.says if why else error}), so ranks read "
                "them from the address of the run folder in each epoch. Samples and results stay the same. Free some "
                "space there, set TMPDIR to a folder with more, or set launch.disk_cache."
            )


def _base() -> Path:
    owner = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"daskt2i-shards-{owner}"


def auto_limit(base: Path) -> int:
    """The limit of `auto`: a part of the free space of a disk; 0 for a folder in memory, which a rank needs itself."""
    place = base
    while not place.exists():
        place = place.parent
    mounts = [one for one in psutil.disk_partitions(all=True) if place.is_relative_to(one.mountpoint)]
    kind = max(mounts, key=lambda one: len(one.mountpoint)).fstype if mounts else ""
    return 0 if kind in _IN_MEMORY else min(AUTO_MOST, int(AUTO_SHARE * shutil.disk_usage(place).free))


def _held(path: Path, how: int) -> int:
    """An open file with this lock; closing it frees the lock, and so does the end of the process."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    path = path if path.suffix else path.with_suffix(".lock")
    handle = os.open(path, flags, 0o600)
    try:
        fcntl.flock(handle, how)
    except OSError:
        os.close(handle)
        raise
    return handle


def _remove_abandoned(base: Path, ours: Path) -> None:
    """Remove the copies that killed ranks of other trainings left."""
    if not base.is_dir():
        base.mkdir(mode=0o700, parents=True)
    if base.is_symlink() or (hasattr(os, "getuid") and base.stat().st_uid != os.getuid()):
        raise OSError(13, "it belongs to somebody else", str(base))
    for place in base.iterdir():
        if place.is_dir() and place != ours:
            _remove_if_unused(place)


def _remove_if_unused(place: Path) -> None:
    with contextlib.suppress(OSError):
        handle = _held(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            shutil.rmtree(place, ignore_errors=True)
            place.with_suffix(".turn").unlink(missing_ok=True)
            place.with_suffix(".lock").unlink(missing_ok=True)
        finally:
            os.close(handle)
