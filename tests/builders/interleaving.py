"""Processes that share a folder and take turns: each operation on the folder is a step, and a test chooses whose.

Covers: real code of several processes on a real folder, interleaved step by step; killed and sleeping processes; a
clock that a test advances.
Does not cover: what is tested with it (`store/test_protocol.py`).

A process is a greenlet. Before each operation on the file system it hands over to the test, which lets it go on, or
another one, or kills it. What a killed process was about to do is lost, and none of its `finally` blocks has an effect.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import greenlet

_READS = ("stat", "iterdir")
_CHANGES = ("rename", "replace", "mkdir", "open", "unlink", "rmdir")


TROUBLES = ("lost", "twice")
"""What happens to an operation: the disk does not answer; NFS sends it again, because the first answer was lost."""


class Killed(BaseException):
    """Raised in a process that is killed, at each operation that it still tries."""


class Process:
    """A process that runs `work` step by step.

    Attributes:
        ended: it has come to its end, by itself or by an error of its own, which is `error`.
        awake_at: time of the clock until which it sleeps.
    """

    def __init__(self, world: World, work: Callable[[], object], late: float) -> None:
        self.world, self._work = world, work
        self.late = late
        self.dead = self.ended = False
        self.error: BaseException | None = None
        self.awake_at = 0.0
        self._greenlet = greenlet.greenlet(self._run, parent=world.main)  # one process may start another one

    @property
    def can_go_on(self) -> bool:
        """Whether a step of it would do something."""
        return not (self.dead or self.ended) and self.awake_at <= self.world.now

    def step(self) -> None:
        """Let it do one operation."""
        self.world.current, self.world.changed = self, False
        try:
            self._greenlet.switch()
        finally:
            self.world.current = None

    def kill(self) -> None:
        """End it: it does nothing any more."""
        begun = bool(self._greenlet)
        self.dead = True
        if begun and not self.ended:
            self.world.current = self
            self._greenlet.throw(Killed)
            self.world.current = None
        self.ended = True

    def _run(self) -> None:
        try:
            self._work()
        except Killed:
            pass
        except Exception as error:
            self.error = error
        finally:
            self.ended = True


class World:
    """The folder, its processes, and the time.

    Attributes:
        now: seconds, the same for all; each process has its own clock, which is `late` seconds off.
        changed: whether the last step may have changed anything.
        trouble: process -> its steps until one goes wrong, and what goes wrong; then the same for the next one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.main = greenlet.getcurrent()
        self._thread = threading.get_ident()
        self.processes: list[Process] = []
        self.current: Process | None = None
        self.now = 0.0
        self.changed = True
        self.trouble: dict[Process, list[tuple[int, str]]] = {}

    def start(self, work: Callable[[], object], late: float = 0.0) -> Process:
        """A new process. It has not done a step yet."""
        process = Process(self, work, late)
        self.processes.append(process)
        return process

    def hand_over(self) -> None:
        """In a process: wait for the next step."""
        process = self.current
        if process is None or threading.get_ident() != self._thread:
            return  # the test itself, or a thread that the process waits for
        if process.dead:
            raise Killed
        self.main.switch()
        if process.dead:
            raise Killed

    def goes_wrong(self, may: Collection[str]) -> str:
        """What goes wrong in the present step, of what may go wrong in it; "" for nothing."""
        waiting = self.trouble.get(self.current) if self.current is not None else None
        if not waiting:
            return ""
        left, what = waiting[0]
        waiting[0] = left - 1, what
        if left > 0 or what not in may:
            return ""
        del waiting[0]
        return what

    # What a module may use as `time`.

    def monotonic(self) -> float:
        """The clock of the process."""
        return self.now + (self.current.late if self.current else 0.0)

    def sleep(self, seconds: float) -> None:
        """Do nothing before the time has come."""
        process = self.current
        assert process is not None
        process.awake_at = self.now + seconds
        self.hand_over()

    @contextlib.contextmanager
    def taking_turns(self) -> Iterator[None]:
        """Operations of the block, on the folder, are steps of processes."""
        with contextlib.ExitStack() as stack:
            for name in (*_READS, *_CHANGES):
                step = self._as_step(getattr(Path, name), name in _CHANGES)
                stack.enter_context(mock.patch.object(Path, name, step))
            stack.enter_context(mock.patch.object(os, "link", self._as_step(os.link, changes=True)))
            stack.enter_context(mock.patch.object(os, "fsync"))
            stack.enter_context(mock.patch.object(shutil, "rmtree", self._remove_tree))
            yield

    def _as_step(self, operation: Callable[..., Any], changes: bool) -> Callable[..., Any]:
        def step(path: Any, *arguments: Any, **more: Any) -> Any:
            if self.current is None or not str(path).startswith(self.folder):
                return operation(path, *arguments, **more)
            self.hand_over()
            self.changed = self.changed or (changes and "rb" not in (*arguments, *more.values()))
            what = self.goes_wrong(TROUBLES if operation.__name__ in ("rename", "replace", "link") else TROUBLES[:1])
            if what == "lost":
                raise OSError(errno.EIO, "the disk does not answer", str(path))
            done = operation(path, *arguments, **more)
            return operation(path, *arguments, **more) if what == "twice" else done

        return step

    def _remove_tree(self, path: Path, ignore_errors: bool = False) -> None:
        """Remove a tree file by file."""
        for folder, _, files in os.walk(path, topdown=False):
            for name in files:
                with contextlib.suppress(OSError):
                    Path(folder, name).unlink()
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
