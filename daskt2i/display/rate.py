"""The current rate of a stage, and the time that the rest will take.

Covers: results that arrive one by one or in groups, leaving out the start-up, stalls.
Does not cover: reading the clock (the caller does), formatting a rate.
"""

from __future__ import annotations

from collections import deque

WINDOW = 60.0
"""Seconds over which the rate is measured."""

OVERDUE = 10.0
"""A result may be late by the time of one result and so many seconds more, until the time left is called unknown."""

_MOST_ARRIVALS = 4096
"""Arrivals that are kept. If more arrive in a minute, the window is shorter."""


class RecentRate:
    """The rate of the last minute.

    N workers that start together deliver N results at nearly the same time, and then nothing for a while. So each
    arrival is compared with an arrival that came a multiple of N before it: both have the same position in their group.
    Such an interval does not contain the time before the first arrival, in which models load.

    Args:
        workers: number of workers that work at the same time.
        window: seconds to measure over. The window is longer if fewer than `workers` results came in this time.
    """

    def __init__(self, workers: int = 1, window: float = WINDOW) -> None:
        self._workers, self._window = max(1, workers), window
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=max(_MOST_ARRIVALS, self._workers + 1))
        self._total = 0.0
        self._worked = self._worked_for = 0.0

    def add(self, now: float, amount: float, work_seconds: float = 0.0) -> None:
        """Add a result that arrived.

        Args:
            now: seconds of a monotonic clock.
            amount: rows or samples in the result; 0 for a failure, which also takes time.
            work_seconds: seconds that one worker needed for it, without its start-up; 0 if unknown. If known, there is
                an estimate after the first arrival. Otherwise it needs `workers` more arrivals.
        """
        self._total += amount
        self._arrivals.append((now, self._total))
        if work_seconds > 0.0:
            self._worked, self._worked_for = self._worked + amount, self._worked_for + work_seconds
        while len(self._arrivals) > self._workers + 1 and self._arrivals[0][0] < now - self._window:
            self._arrivals.popleft()

    @property
    def newest(self) -> float | None:
        """When the newest result arrived, or None."""
        return self._arrivals[-1][0] if self._arrivals else None

    def per_second(self, now: float) -> float | None:
        """Amount per second; None while it is unknown. It falls while results are overdue."""
        if not self._arrivals:
            return None
        amount, seconds, lump = self._measured()
        if seconds <= 0.0:
            return None
        overdue = max(0.0, now - self._arrivals[-1][0] - lump)
        return amount / (seconds + overdue) or None

    def seconds_left(self, now: float, remaining: float) -> float | None:
        """Seconds until the `remaining` amount has arrived; None while it is unknown, never below 0.

        It never grows between two arrivals. While a result is overdue it stays, and then it is unknown: nobody knows
        why the result does not come.
        """
        if self.per_second(now) is None:
            return None
        amount, seconds, lump = self._measured()
        since = now - self._arrivals[-1][0]
        if since > 2 * lump + OVERDUE:
            return None
        return max(0.0, remaining * seconds / amount - min(since, lump))

    def _measured(self) -> tuple[float, float, float]:
        """The amount, the seconds that it took, and the seconds in which each worker should deliver one result."""
        lumps, first = divmod(len(self._arrivals) - 1, self._workers)
        if lumps:
            begun, before = self._arrivals[first]
            ended, after = self._arrivals[-1]
            return after - before, ended - begun, (ended - begun) / lumps
        return self._worked, self._worked_for / self._workers, self._worked_for / len(self._arrivals)
