"""The state of a running stage: the work done, the rate, the time left, the lines to show.

    progress.hear(event, now) -> lines to show

Covers: what encoding, training and counting share, for a terminal, a log and a notebook.
Does not cover: the events of encoding (`encode_progress`) and training (`train_progress`), how it looks (`progress`,
`notebook`).

All times are seconds of one monotonic clock. The caller reads the clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from daskt2i.display.rate import RecentRate
from daskt2i.events import Event, Note, Progress
from daskt2i.formatting import duration


class Tone(enum.Enum):
    """The kind of a line."""

    PLAIN = enum.auto()
    NOTE = enum.auto()
    FAILURE = enum.auto()


@dataclass(frozen=True, slots=True)
class Line:
    """A line to show once.

    Attributes:
        chunk: the chunk whose failure the line reports; None for other lines.
    """

    text: str
    tone: Tone = Tone.PLAIN
    chunk: int | None = None


class StageProgress:
    """The progress of a stage of `total` units.

    Attributes:
        what: the name of the stage while it runs: `encoding`.
        unit: the name of its units: `rows`.
        total, done: numbers of units.
        running: whether the work has started. Before that, workers start and models load.
    """

    what, unit = "", ""

    def __init__(self, total: int, now: float) -> None:
        self.total, self.done, self.running = total, 0, False
        self._begun = now
        self._rate = RecentRate()
        self._waits_since: float | None = None

    def hear(self, event: Event, now: float) -> list[Line]:
        """Update the state with an event. Returns the lines to show."""
        return [Line(event.text, Tone.NOTE)] if isinstance(event, Note) else []

    def per_second(self, now: float) -> float | None:
        """The current rate. After the last unit it stays as it was: what follows is other work."""
        newest = self._rate.newest if self.done >= self.total else None
        return self._rate.per_second(now if newest is None else newest)

    def figures(self, now: float) -> str:
        """Rate and other measured figures: `"58.0 images/s"`; "" before the first figure."""
        return ""

    def seconds_left(self, now: float) -> float | None:
        """Seconds to the end; None if unknown, and while the stage waits: the rate then says nothing about the rest."""
        return None if self._waits_since is not None else self._left(now)

    def _left(self, now: float) -> float | None:
        return self._rate.seconds_left(now, self.total - self.done)

    def seconds_waited(self, now: float) -> float | None:
        """For how long the stage has waited for something; None if it moves."""
        return None if self._waits_since is None else max(0.0, now - self._waits_since)

    def _waits(self, now: float, seconds: float) -> None:
        """Something has not moved for so many seconds."""
        since = now - seconds
        self._waits_since = since if self._waits_since is None else min(since, self._waits_since)

    def time(self, now: float) -> str:
        """`"2 min 05 s left"`, `"waiting for 30.0 s"`, or "" if neither is known."""
        if (waited := self.seconds_waited(now)) is not None:
            return f"waiting for {duration(waited)}"
        left = self.seconds_left(now)
        return "" if left is None else f"{duration(left)} left"

    def count(self) -> str:
        """`"512/1,500 rows"`."""
        return f"{self.done:,}/{self.total:,} {self.unit}"

    def line(self, now: float) -> str:
        """Count, figures and time left as one plain line."""
        parts = (self.count(), self.figures(now), self.time(now) if self.done < self.total else "")
        return ", ".join(part for part in parts if part)

    def ended(self, now: float, error: BaseException | None) -> str:
        """How the stage ended, as a sentence without a full stop."""
        took = duration(now - self._begun)
        so_far = f"{self.done:,} of {self.total:,} {self.unit} are done"
        if isinstance(error, KeyboardInterrupt):
            return f"{self.what} was stopped after {took}: {so_far}"
        if error is not None and not self.running:
            return f"{self.what} did not begin"
        if error is not None:
            return f"{self.what} failed after {took}: {so_far}"
        return self._finished(took)

    def _finished(self, took: str) -> str:
        return f"{self.count()} in {took}"


class CountProgress(StageProgress):
    """A count outside of stages: the `Progress` events of one name.

    Args:
        what: the name: `"chunks checked"`.
    """

    def __init__(self, what: str, total: int, now: float) -> None:
        super().__init__(total, now)
        self.what, self.running = what, True

    def hear(self, event: Event, now: float) -> list[Line]:
        """Update the count with a `Progress` event of this name."""
        assert isinstance(event, Progress)
        self._rate.add(now, event.done - self.done)
        self.done, self.total = event.done, event.total
        return []

    def count(self) -> str:
        return f"{self.done:,}/{self.total:,}"

    def line(self, now: float) -> str:
        return f"{self.what}: {super().line(now)}"

    def ended(self, now: float, error: BaseException | None) -> str:
        return (
            f"{self.done:,} {self.what}"
            if self.done >= self.total
            else f"{self.what}: ended at {self.done:,} of {self.total:,}"
        )
