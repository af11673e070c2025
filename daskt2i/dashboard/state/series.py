"""Curves and histograms of a fixed size, however long a run takes.

Covers: points that become fewer while a run goes on; counts by class.
Does not cover: what the points mean (`run_state`, `encode`, `train`), how they are drawn.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

MOST_POINTS = 600
"""Points of a curve that are kept. A figure of 1,400 pixels shows no more."""


class Series:
    """Points (x, y) in the order of x. Of many points every second, fourth, … is kept, and always the first and last.

    Args:
        most: number of points that are kept; at least 4.
    """

    def __init__(self, points: Iterable[Sequence[Any]] = (), most: int = MOST_POINTS) -> None:
        self.most = max(4, most)
        self._points: list[tuple[float, Any]] = []
        self._step, self._number, self._passing = 1, 0, False
        for x, y in points:
            self.add(x, y)

    def add(self, x: float, y: Any) -> None:
        """Add a point. Points from its x on are replaced: a training that starts again repeats its last steps."""
        if self._passing:  # the point before is not one of those that stay
            self._points.pop()
        while self._points and self._points[-1][0] >= x:
            self._points.pop()
        self._points.append((x, y))
        self._passing = bool(self._number % self._step) and len(self._points) > 1
        self._number += 1
        if not self._passing and len(self._points) > self.most:
            self._points = self._points[::2] if len(self._points) % 2 else [*self._points[::2], self._points[-1]]
            self._step *= 2
            self._passing = bool((self._number - 1) % self._step)

    @property
    def last(self) -> tuple[float, Any] | None:
        """The newest point, or None."""
        return self._points[-1] if self._points else None

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        return iter(self._points)

    def __len__(self) -> int:
        return len(self._points)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Series) and self._points == other._points

    __hash__ = None  # type: ignore[assignment]

    def to_json(self) -> list[list[Any]]:
        """The points, rounded to six digits."""
        return [[_rounded(x), _rounded(y)] for x, y in self._points]


def _rounded(value: Any) -> Any:
    """Nine digits represent a float32 exactly; times have more digits before the point."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if abs(value) < 1e8 else round(value, 3)
    return value


PSNR_EDGES: tuple[float, ...] = tuple(float(edge) for edge in range(0, 62, 2))
"""Edges of the histogram of PSNR, dB. A value above the last edge counts in the last class."""


class Histogram:
    """Counts by class: `counts[i]` values lie from `edges[i]` up to below `edges[i + 1]`."""

    def __init__(self, edges: Sequence[float] = PSNR_EDGES) -> None:
        self.edges = tuple(edges)
        self.counts = [0] * (len(self.edges) - 1)
        self.lowest: float | None = None

    def add(self, values: Iterable[float]) -> None:
        """Count values. What is not finite is left out."""
        for value in values:
            if math.isfinite(value):
                place = bisect_right(self.edges, value) - 1
                self.counts[min(max(place, 0), len(self.counts) - 1)] += 1
                self.lowest = value if self.lowest is None else min(self.lowest, value)


class Strip:
    """The chunks of an encode as a strip of cells, at most 1,000 of them. Each cell stands for a range of chunks.

    A letter for each cell: `.` nothing written, `1` to `9` so many tenths written, `W` all written, `r` a chunk of it
    runs, `a` one failed and is tried again, `f` one failed for good.

    Args:
        done: one byte for each chunk: 1 if it is written.
    """

    CELLS = 1000
    WAITING, WRITTEN, RUNNING, AGAIN, FAILED = range(5)
    NAMES = ("waiting", "written", "running", "again", "failed")

    def __init__(self, done: bytes) -> None:
        self.states = bytearray(done)
        self.counts = [self.states.count(state) for state in range(5)]
        self.cells = min(self.CELLS, len(done))
        self._changed: set[int] = set(range(self.cells))
        self._letters = bytearray(self.cells)

    def put(self, chunk: int, state: int) -> None:
        """A chunk has another state now. A chunk that does not exist is left out."""
        if not 0 <= chunk < len(self.states):
            return
        before, self.states[chunk] = self.states[chunk], state
        self.counts[before] -= 1
        self.counts[state] += 1
        self._changed.add(chunk * self.cells // len(self.states))

    def letters(self) -> str:
        """The strip, a letter for each cell."""
        count = len(self.states)
        for cell in self._changed:
            part = self.states[-(-cell * count // self.cells) : -(-(cell + 1) * count // self.cells)]
            self._letters[cell] = ord(self._letter(part))
        self._changed.clear()
        return self._letters.decode()

    @classmethod
    def _letter(cls, part: bytearray) -> str:
        for state, letter in ((cls.FAILED, "f"), (cls.AGAIN, "a"), (cls.RUNNING, "r")):
            if state in part:
                return letter
        written = part.count(cls.WRITTEN)
        if written == len(part):
            return "W"
        return str(max(1, written * 10 // len(part))) if written else "."

    def by_name(self) -> dict[str, int]:
        """State -> number of chunks."""
        return dict(zip(self.NAMES, self.counts, strict=True))


def whole(value: Any, below: int = 2**60) -> int:
    """A whole number of a message.

    Args:
        below: what is as large is no such number. No count is as large as the default.

    Raises:
        ValueError, TypeError: it is none, or too large.
    """
    if isinstance(value, str):
        raise TypeError(value)
    found = int(value)
    if abs(found) >= below:
        raise ValueError(value)
    return found


def number(value: Any) -> float:
    """A finite number of a message.

    Raises:
        ValueError, TypeError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def figures_of(told: Mapping[str, Any], numbers: Collection[str], texts: Collection[str]) -> dict[str, Any]:
    """The fields of a message that are what they should be: finite numbers, or text. Others are left out."""
    found: dict[str, Any] = {}
    for name, value in told.items():
        if name in texts:
            fits = isinstance(value, str)
        else:
            finite = isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**63
            fits = name in numbers and not isinstance(value, bool) and (value is None or finite)
        if fits:
            found[name] = value
    return found
