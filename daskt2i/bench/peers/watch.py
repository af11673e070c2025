"""A command in a new process, with the processor time and the memory of it and all its children.

Covers: seconds of all processes over time, the largest sum of their proportional set sizes, a time limit.
Does not cover: `encode` in this process (`bench.meter`).

Memory that processes share counts once: a page that n processes map counts 1/n for each (proportional set size, Linux).
Elsewhere the resident sizes are added, which counts shared pages several times.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PERIOD = 0.2
"""Seconds between two looks. A process that ends loses at most this much of its time."""

MEMORY_PERIOD = 1.0
"""Seconds between two sums of memory: adding up the pages of a large process takes milliseconds."""


@dataclass(slots=True)
class Watched:
    """What a command took.

    Attributes:
        code: its exit code; None if it was stopped because it took too long.
        cpu: (time.time(), processor seconds of all its processes so far), over time.
        machine: (time.time(), busy seconds of all cores of the machine), over time.
        memory: (time.time(), sum of the memory of all its processes in bytes), over time.
        shared_once: whether shared pages count once.
    """

    code: int | None = None
    cpu: list[tuple[float, float]] = field(default_factory=list)
    machine: list[tuple[float, float]] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    shared_once: bool = True

    def cpu_between(self, begun: float, ended: float) -> float:
        """Processor seconds between two times."""
        return _at(self.cpu, ended) - _at(self.cpu, begun)

    def elsewhere_between(self, begun: float, ended: float) -> float:
        """Processor seconds of all other processes between two times."""
        busy = _at(self.machine, ended) - _at(self.machine, begun)
        return max(0.0, busy - self.cpu_between(begun, ended))

    def peak_until(self, ended: float) -> int:
        """The largest sum of memory, bytes."""
        return max((size for at, size in self.memory if at <= ended), default=0)


def _at(series: Sequence[tuple[float, float]], when: float) -> float:
    """The value of a growing series at a time, between its points by a straight line."""
    before: tuple[float, float] | None = None
    for at, value in series:
        if at >= when:
            return value if before is None else before[1] + (when - before[0]) / (at - before[0]) * (value - before[1])
        before = (at, value)
    return 0.0 if before is None else before[1]


def watch(command: Sequence[str], environment: Mapping[str, str], log: Path, most_seconds: float) -> Watched:
    """Run a command to its end. It gets a session of its own, which is ended with it.

    Args:
        command: program and arguments.
        environment: its variables.
        log: file for what it prints.
        most_seconds: when it takes longer, it is killed.
    """
    found, times = Watched(), dict[tuple[int, float], float]()
    with log.open("wb") as said:
        child = subprocess.Popen(
            command, env=dict(environment), stdout=said, stderr=said, stdin=subprocess.DEVNULL, start_new_session=True
        )
        known = dict[int, psutil.Process]()
        deadline, memory = time.monotonic() + most_seconds, 0.0
        try:
            top = psutil.Process(child.pid)
            while child.poll() is None and time.monotonic() < deadline:
                look = time.monotonic() >= memory
                _look(top, known, times, found, look)
                memory = time.monotonic() + MEMORY_PERIOD if look else memory
                with suppress(subprocess.TimeoutExpired):
                    child.wait(PERIOD)
            found.code = child.poll()
        finally:
            _end(child, known)
    return found


def _look(
    top: psutil.Process,
    known: dict[int, psutil.Process],
    times: dict[tuple[int, float], float],
    found: Watched,
    memory: bool,
) -> None:
    """Add the times of all processes, and their memory if it is wanted."""
    total = 0
    with suppress(psutil.Error):
        known.update({process.pid: process for process in [top, *top.children(recursive=True)]})
    for process in list(known.values()):
        try:
            used = process.cpu_times()
            times[process.pid, process.create_time()] = used.user + used.system
            if memory:
                total += _size(process, found)
        except psutil.Error:
            known.pop(process.pid)  # it has ended, and its time stays counted
    now, busy = time.time(), psutil.cpu_times()
    found.cpu.append((now, sum(times.values())))
    idle = busy.idle + getattr(busy, "iowait", 0.0) + getattr(busy, "guest", 0.0)
    found.machine.append((now, sum(busy) - idle))
    if memory:
        found.memory.append((now, total))


def _size(process: psutil.Process, found: Watched) -> int:
    """Proportional set size of a process, bytes; resident size where there is none."""
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        found.shared_once = found.shared_once and Path("/proc/self/smaps_rollup").exists()
    return int(process.memory_info().rss)


def _end(child: subprocess.Popen[bytes], known: Mapping[int, psutil.Process]) -> None:
    """Kill what is left: the session of the command, and children that made another."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    for process in known.values():
        with suppress(psutil.Error):
            if process.is_running():
                process.kill()
    child.kill()
    child.wait()
