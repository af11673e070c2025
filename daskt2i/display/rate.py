"""How fast something goes now, and how long the rest will take.

Covers: results that arrive one by one or in lumps, start-up that is no part of the pace, a stall.
Does not cover: where times come from (a caller passes them in), how a rate is written.
"""

from __future__ import annotations

from collections import deque

WINDOW = 60.0
"""Seconds that a rate looks back."""

_MOST_ARRIVALS = 4096
"""Arrivals that are remembered; beyond them the window is shorter than a minute."""


class RecentRate:
    """The rate of the last minute.

    N workers that began together deliver N results at nearly the same time, and then nothing for a while. So an arrival
    is compared with one that came a multiple of N arrivals before: both have the same place in their lump. What was
    there before the first arrival (loading a model) is in no such interval.

    Args:
        workers: how many work side by side.
        window: seconds to look back. Longer where fewer than `workers` results came in that time.
    """

    def __init__(self, workers: int = 1, window: float = WINDOW) -> None:
        self._workers, self._window = max(1, workers), window
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=max(_MOST_ARRIVALS, self._workers + 1))
        self._total = 0.0
        self._worked = self._worked_for = 0.0

    def add(self, now: float, amount: float, work_seconds: float = 0.0) -> None:
        """A result arrived.

        Args:
            now: seconds of a monotonic clock.
            amount: rows or samples in it; 0 for a failure, which took its time all the same.
            work_seconds: how long one worker worked on it, without its start-up, where that is known. With it there is
                an estimate after the first arrival, else after `workers` more.
        """
        self._total += amount
        self._arrivals.append((now, self._total))
        if work_seconds > 0.0:
            self._worked, self._worked_for = self._worked + amount, self._worked_for + work_seconds
        while len(self._arrivals) > self._workers + 1 and self._arrivals[0][0] < now - self._window:
            self._arrivals.popleft()

    def per_second(self, now: float) -> float | None:
        """Amount per second; None while nothing is known. It sinks while results are overdue."""
        if not self._arrivals:
            return None
        amount, seconds, lump = self._measured()
        if seconds <= 0.0:
            return None
        overdue = max(0.0, now - self._arrivals[-1][0] - lump)
        return amount / (seconds + overdue) or None

    def seconds_left(self, now: float, remaining: float) -> float | None:
        """Seconds until `remaining` more has arrived; None while nothing is known, never below 0."""
        rate = self.per_second(now)
        if rate is None:
            return None
        lump = self._measured()[2]
        return max(0.0, remaining / rate - min(now - self._arrivals[-1][0], lump))

    def _measured(self) -> tuple[float, float, float]:
        """Amount, the seconds that it took, and the seconds in which each worker should deliver once."""
        lumps, first = divmod(len(self._arrivals) - 1, self._workers)
        if lumps:
            begun, before = self._arrivals[first]
            ended, after = self._arrivals[-1]
            return after - before, ended - begun, (ended - begun) / lumps
        return self._worked, self._worked_for / self._workers, self._worked_for / len(self._arrivals)
