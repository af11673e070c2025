"""The input of the tables: cells, their runs, and the peak that they are compared with.

Covers: a cell and its repeats, checking the number of rows, the machine's peak and the encoders' operations.
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
"""The name of the scheduler that runs the study's pool."""


@dataclass(frozen=True, slots=True)
class CellSettings:
    """The settings of a cell.

    Attributes:
        part: the measured part.
        scheduler: name of the scheduler.
        workers: number of workers; 0: all workers of an address.
        threads: torch threads of each worker; 0: torch's default.
    """

    part: Part
    scheduler: str
    workers: int
    threads: int

    @property
    def name(self) -> str:
        """The name for a line of progress."""
        return f"{self.part} {self.scheduler}{f':{self.workers}' if self.workers else ''}"


@dataclass(slots=True)
class Runs:
    """The repeats of a cell. `failure` is the sentence of an error; then the figures do not count."""

    cell: CellSettings
    measured: list[Measured] = field(default_factory=list)
    failure: str = ""

    def add(self, measured: Measured, rows: int) -> None:
        """Add a repeat.

        Raises:
            ExecutorError: the number of its rows is not the requested one.
        """
        counted = measured.accepted + measured.rejected
        if counted != rows:
            raise ExecutorError(
                f"{counted} rows were counted ({measured.accepted} accepted, {measured.rejected} rejected), but the "
                f"run has {rows}. A speed over other rows would be wrong, so this cell has no figures."
            )
        self.measured.append(measured)

    @property
    def good(self) -> bool:
        """Whether the cell has figures."""
        return bool(self.measured) and not self.failure


@dataclass(frozen=True, slots=True)
class Ground:
    """The peak and the operations of a part, from `peak.measure`.

    Attributes:
        precision: precision of all cells except naive.
        peaks: precision -> busy cores -> FLOP/s of all together.
        image_flop, caption_flop, padded_flop: operations of one image, one caption (mean), one caption of full length.
    """

    precision: str
    peaks: Mapping[str, Mapping[int, float]]
    image_flop: float
    caption_flop: float
    padded_flop: float

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Ground:
        """Read the JSON of `peak.measure`."""
        peaks = {name: {int(busy): rate for busy, rate in rates.items()} for name, rates in found["peaks"].items()}
        return cls(found["precision"], peaks, *(found[f"{k}_flop"] for k in ("image", "caption", "padded")))

    def better(self, other: Ground | None) -> Ground:
        """The higher peaks of two measurements. Noise makes a peak lower, never higher."""
        if other is None:
            return self
        peaks = {
            name: {busy: max(rate, other.peaks.get(name, {}).get(busy, 0.0)) for busy, rate in rates.items()}
            for name, rates in self.peaks.items()
        }
        return Ground(self.precision, peaks, self.image_flop, self.caption_flop, self.padded_flop)
