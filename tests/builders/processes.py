"""The processes below this one, and whether they have ended. A process may end at any time, also while it is asked.

Covers: children of children too; not the resource tracker that Python's multiprocessing keeps for all of its life.
Does not cover: processes of another parent.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable

import psutil


def running(process: psutil.Process) -> bool:
    """A zombie has ended: it only waits for its parent to read its exit code."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def children() -> set[psutil.Process]:
    """The running processes below this one, without those of the browser that tests of pages share."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # also if it is a zombie
            command = " ".join(process.cmdline())
            if "multiprocessing.resource_tracker" not in command and "chromium" not in command:
                found.add(process)
    return found


def left(processes: Collection[psutil.Process], seconds: float = 20.0) -> list[psutil.Process]:
    """Those that still run after this time. On a busy machine a process that was killed needs some of it."""
    deadline = time.monotonic() + seconds
    while (found := [process for process in processes if running(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def listening(processes: Collection[psutil.Process]) -> set[str]:
    """The addresses on which they wait for connections."""
    found: set[str] = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = process.net_connections("inet")
            found |= {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
    return found


def at(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes with these numbers that are there."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found
