"""What was asked for, what came of it, and what it is held against: the input of the tables.

Covers: a cell and its repeats, rows that add up, the machine's peak and the encoders' operations.
Does not cover: running (`driver`), figures (`scaling`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from daskt2i.bench.encode.rows import Part
from daskt2i.bench.measured import Measured
from daskt2i.errors import ExecutorError

NAIVE = "naive"
"""The scheduler that is the study's pool."""


@dataclass(frozen=True, slots=True)
class CellSettings:
    """A cell: what runs how.

    Attributes:
        workers: 0 for as many as an address has.
        threads: torch threads of each; 0 for torch's default.
    """

    part: Part
    scheduler: str
    workers: int
    threads: int

    @property
    def name(self) -> str:
        """For a line of progress."""
        return f"{self.part} {self.scheduler}{f':{self.workers}' if self.workers else ''}"


@dataclass(slots=True)
class Runs:
    """The repeats of a cell. `failure`: the sentence that ended it; its figures do not count then."""

    cell: CellSettings
    measured: list[Measured] = field(default_factory=list)
    failure: str = ""

    def add(self, measured: Measured, rows: int) -> None:
        """Take a repeat.

        Raises:
            ExecutorError: its rows do not add up to those that were asked for.
        """
        counted = measured.accepted + measured.rejected
        if counted != rows:
            raise ExecutorError(
                f"{counted} rows were counted ({measured.accepted} accepted, {measured.rejected} rejected), and {rows} "
                "were asked for: a speed over other rows says nothing, so this cell has none."
            )
        self.measured.append(measured)

    @property
    def good(self) -> bool:
        """Whether it has figures."""
        return bool(self.measured) and not self.failure


@dataclass(frozen=True, slots=True)
class Ground:
    """What the cells of a part are held against, as `peak.measure` found it.

    Attributes:
        precision: of all cells but naive.
        peaks: precision -> busy cores -> FLOP/s of them together.
        image_flop, caption_flop, padded_flop: of one image, one caption (mean), one caption of full length.
    """

    precision: str
    peaks: Mapping[str, Mapping[int, float]]
    image_flop: float
    caption_flop: float
    padded_flop: float

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Ground:
        """From JSON."""
        peaks = {name: {int(busy): rate for busy, rate in rates.items()} for name, rates in found["peaks"].items()}
        return cls(found["precision"], peaks, *(found[f"{k}_flop"] for k in ("image", "caption", "padded")))

    def better(self, other: Ground | None) -> Ground:
        """The higher peaks of two measurements: noise makes a peak lower, never higher."""
        if other is None:
            return self
        peaks = {
            name: {busy: max(rate, other.peaks.get(name, {}).get(busy, 0.0)) for busy, rate in rates.items()}
            for name, rates in self.peaks.items()
        }
        return Ground(self.precision, peaks, self.image_flop, self.caption_flop, self.padded_flop)
