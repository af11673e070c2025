"""Processor time and memory of this process and its children, while something else runs.

Covers: a thread that looks once a second; children that end are not forgotten.
Does not cover: processes on other machines.
"""

from __future__ import annotations

import threading
from time import monotonic

import psutil

from daskt2i.machine.machine import this_machine

PERIOD = 1.0
"""Seconds between two looks: at most that much of a child that ends unseen is lost."""

SAMPLES = 600
"""Points of the memory curve that are kept; every second one is dropped when there are more."""


class Meter:
    """Counts from `start` to `mark`; `mark` may be called again, and counts from the same start."""

    def __init__(self, period: float = PERIOD) -> None:
        self._period, self._every = period, 1
        self._me = psutil.Process()
        self._times: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="daskt2i-meter", daemon=True)
        self._lock = threading.Lock()
        self._begun = self._cpu = self._system = 0.0
        self.memory: list[tuple[float, int, int]] = []
        """(seconds since `start`, bytes of the largest child or of this process without any, bytes of this process)."""

        self.cpu = 0.0
        """Processor seconds of all our processes from `start` to the last `mark`."""

        self.elsewhere: float | None = None
        """Of all other processes; None where this process sees another number of cores than it may use."""

    def start(self) -> None:
        """Begin to count."""
        self._look()
        with self._lock:
            self._begun, self._cpu, self._system = monotonic(), sum(self._times.values()), _system()
        self._thread.start()

    def mark(self) -> None:
        """Count up to here; while the children are still there."""
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
        """Note the times of all processes. Returns the resident size of the largest child, and of this process."""
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
