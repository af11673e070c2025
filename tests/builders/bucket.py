"""An object store in memory, below fsspec, whose requests are steps of the processes of `interleaving`.

Covers: S3 as its manual describes it: no rename, a copy on the side of the store, a deletion of what is missing
succeeds, a listing comes page by page, `If-None-Match: *` where the store has it; requests that get lost, whose answer
is lost, that are sent twice, or that take effect late.
Does not cover: what is tested with it (`store/test_protocol.py`). Listings that miss finished writes: S3, Google Cloud
Storage, Azure and MinIO have none.
"""

from __future__ import annotations

import contextlib
import functools
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import fsspec
from fsspec.spec import AbstractFileSystem

from builders.interleaving import Process, World

PAGE = 2
"""Names in a page of a listing."""

TROUBLES = ("lost", "no answer", "twice", "late", "late too")
"""What happens to a request: it does not arrive; it is done, and the answer does not arrive; the library sends it
again, because the first answer did not arrive; it is done later, after the library has given up; it is done now,
because the library has sent it again, and once more later."""


class Cut(Exception):
    """A request without an answer. As with `botocore`, this is no `OSError`."""


class Refused(OSError):
    """The answer to a request whose condition does not hold, as `s3fs` gives it."""

    response: ClassVar[dict[str, Any]] = {"Error": {"Code": "PreconditionFailed"}}


@dataclass
class Bucket:
    """The objects.

    Attributes:
        conditions: whether the store has conditional writes. One that has not ignores the condition.
        late: requests that were sent, and take effect later: who sent them, and what they do.
    """

    world: World
    conditions: bool
    objects: dict[str, bytes] = field(default_factory=dict)
    late: list[tuple[Process, Callable[[], object]]] = field(default_factory=list)

    def request(self, work: Callable[[], Any], changes: bool = False) -> Any:
        """A step of a process: what the store does, and what becomes of it."""
        self.world.hand_over()
        process = self.world.current
        self.world.changed = self.world.changed or changes
        what = self.world.goes_wrong(TROUBLES if changes else ("lost",))
        if process is None or not what:
            return work()
        if what.startswith("late"):
            self.late.append((process, work))
        elif what != "lost":
            self._quietly(work)
        if what in ("twice", "late too"):
            return work()
        raise Cut(f"no answer ({what})")

    def deliver(self) -> Process:
        """The oldest late request takes effect. Returns who sent it."""
        process, work = self.late.pop(0)
        self._quietly(work)
        return process

    def _quietly(self, work: Callable[[], object]) -> None:
        with contextlib.suppress(OSError):
            work()


class BucketFiles(AbstractFileSystem):  # type: ignore[misc]
    """`turns://NAME/...`: the bucket with this name in `buckets`."""

    protocol = "turns"
    cachable = False
    buckets: ClassVar[dict[str, Bucket]] = {}

    @property
    def store(self) -> Bucket:
        return next(reversed(self.buckets.values()))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        return bytes(self.store.request(lambda: self._get(path)))

    def cat_ranges(self, paths: list[str], starts: Any, ends: Any, max_gap: Any = None, **_: Any) -> list[Any]:
        found: list[Any] = []
        for path in paths:
            try:
                found.append(self.cat_file(path))
            except Exception as error:
                found.append(error)
        return found

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        def put() -> None:
            if mode == "create" and self.store.conditions and path in self.store.objects:
                raise Refused(f"{path} is there")
            self.store.objects[path] = bytes(value)

        self.store.request(put, changes=True)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        self.info(path1)  # as s3fs does it, for the size

        def copy() -> None:
            self.store.objects[path2] = self._get(path1)

        self.store.request(copy, changes=True)

    def rm_file(self, path: str) -> None:
        def delete() -> None:
            if self.store.objects.pop(path, None) is None and not self.store.conditions:
                raise FileNotFoundError(path)  # the other kind of store tells it

        self.store.request(delete, changes=True)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "type": "file", "size": len(self.store.request(lambda: self._get(path)))}

    def exists(self, path: str, **_: Any) -> bool:
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        return io.BytesIO(self.cat_file(path))

    def find(self, path: str, **_: Any) -> list[str]:
        found: list[str] = []
        while True:
            page = self.store.request(functools.partial(self._page, path, found[-1] if found else ""))
            found += page
            if len(page) < PAGE:
                return found

    def _page(self, path: str, after: str) -> list[str]:
        names = (name for name in self.store.objects if name.startswith(f"{path}/") and name > after)
        return sorted(names)[:PAGE]

    def _get(self, path: str) -> bytes:
        try:
            return self.store.objects[path]
        except KeyError:
            raise FileNotFoundError(path) from None


class InTurn:
    """A pool of threads that does everything at once in the thread that asks, so that each request is a step."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> InTurn:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[[Any], Any], items: Any) -> Any:
        return map(function, items)


def make_bucket(world: World, conditions: bool) -> Bucket:
    """A new bucket. `turns://` addresses lead to it."""
    assert threading.current_thread() is threading.main_thread()
    fsspec.register_implementation("turns", BucketFiles, clobber=True)
    BucketFiles.buckets.clear()
    BucketFiles.buckets["run"] = bucket = Bucket(world, conditions)
    return bucket
