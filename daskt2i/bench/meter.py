"""Processor time and memory of this process and its children, measured while other code runs.

Covers: a thread that measures once a second; children that have ended stay counted.
Does not cover: processes on other machines.
"""

from __future__ import annotations

import threading
from time import monotonic

import psutil

from daskt2i.machine.machine import this_machine

PERIOD = 1.0
"""Seconds between two measurements. When a child ends, at most this much of its time is not counted."""

SAMPLES = 600
"""Maximum number of points of the memory curve. If there are more, every second point is dropped."""


class Meter:
    """Counts from `start` to `mark`. `mark` may be called again; it always counts from the start."""

    def __init__(self, period: float = PERIOD) -> None:
        self._period, self._every = period, 1
        self._me = psutil.Process()
        self._times: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="daskt2i-meter", daemon=True)
        self._lock = threading.Lock()
        self._begun = self._cpu = self._system = 0.0
        self.memory: list[tuple[float, int, int]] = []
        """(seconds since `start`, bytes of the largest child, bytes of this process). Without children: both equal."""

        self.cpu = 0.0
        """Processor seconds of this process and its children from `start` to the last `mark`."""

        self.elsewhere: float | None = None
        """Processor seconds of all other processes; None if this process may not use all cores that it sees."""

    def start(self) -> None:
        """Begin to count."""
        self._look()
        with self._lock:
            self._begun, self._cpu, self._system = monotonic(), sum(self._times.values()), _system()
        self._thread.start()

    def mark(self) -> None:
        """Count up to now. Call it while the children still run."""
        self._look()
        with self._lock:
            self.cpu = sum(self._times.values()) - self._cpu
        if psutil.cpu_count() == this_machine().cores:
            self.elsewhere = max(0.0, _system() - self._system - self.cpu)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        looks = 0
        while not self._stop.wait(self._period):
            worker, driver = self._look()
            looks += 1
            if looks % self._every == 0:
                self.memory.append((round(monotonic() - self._begun, 2), worker, driver))
                if len(self.memory) > SAMPLES:
                    self.memory, self._every = self.memory[::2], self._every * 2

    def _look(self) -> tuple[int, int]:
        """Record the times of all processes. Returns the resident size of the largest child, and of this process."""
        largest = driver = 0
        with self._lock:
            for process in [self._me, *self._me.children(recursive=True)]:
                try:
                    with process.oneshot():
                        times, size = process.cpu_times(), process.memory_info().rss
                except psutil.Error:  # it has ended since it was listed
                    continue
                self._times[process.pid] = times.user + times.system
                if process.pid == self._me.pid:
                    driver = size
                else:
                    largest = max(largest, size)
        return largest or driver, driver


def _system() -> float:
    """Busy seconds of all cores since the machine started."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))
