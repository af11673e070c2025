"""What `estimate` shows on a terminal, and the JSON object that it prints and keeps.

Covers: the calibrations of one command, put together with the run they are for.
Does not cover: figures (`estimate.arithmetic`), measuring (`encode.calibration`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from daskt2i.config.settings import PriceSettings
from daskt2i.estimate.arithmetic import Calibration, Disk, Forecast, Price, Work, disk, forecast, price
from daskt2i.formatting import duration, facts, size, workers_words


@dataclass(frozen=True, slots=True)
class EstimateResult:
    """What is known of a run before it starts.

    Attributes:
        name: of the workflow.
        work: what is to be encoded.
        calibrations: in the order in which they were measured.
        forecasts: one for each device and number of workers.
        prices: of machines in the workflow's table; None without one.
        table: that price table.
        notes: sentences.
    """

    name: str
    work: Work
    calibrations: tuple[Calibration, ...]
    forecasts: tuple[Forecast, ...]
    prices: tuple[Price, ...] | None
    table: PriceSettings | None
    notes: tuple[str, ...]

    @property
    def disk(self) -> Disk:
        """Bytes of the store; devices differ by nothing that matters here."""
        return disk(self.calibrations[0], self.work)

    def to_json(self) -> dict[str, Any]:
        """The object that `estimate --json` prints."""
        found = self.disk
        table = self.table and {k: str(getattr(self.table, k)) for k in ("currency", "source", "date")}
        return {
            "workflow": self.name,
            "rows": self.work.rows,
            "captions": self.work.captions,
            "chunks": self.work.chunks,
            "forecasts": [
                {**{k: _rounded(v) for k, v in asdict(one).items()}, "hours": round(one.seconds / 3600, 4)}
                for one in self.forecasts
            ],
            "disk": {**asdict(found), "total": found.total},
            "memory": {
                "worker": max(one.worker_bytes for one in self.calibrations),
                "driver": max(one.driver_bytes for one in self.calibrations),
            },
            "prices": table and {**table, "runs": [asdict(one) for one in self.prices or ()]},
            "notes": list(self.notes),
        }


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def estimate_of(
    name: str,
    work: Work,
    calibrations: Sequence[Calibration],
    workers: Sequence[int],
    memory: int | None,
    threads: int | None,
    table: PriceSettings | None,
    notes: Sequence[str],
) -> EstimateResult:
    """Forecasts from calibrations: each number of workers from the calibration that is nearest to it.

    Args:
        memory: bytes that all workers share; None where each has a limit of its own.
        threads: of each worker, where the workflow says so.
    """
    found: list[Forecast] = []
    best: list[Calibration] = []
    for device in dict.fromkeys(one.device for one in calibrations):
        mine = [one for one in calibrations if one.device == device]
        best.append(max(mine, key=lambda one: one.workers))
        for count in workers if best[-1].device == "cpu" or not best[-1].cores else [best[-1].workers]:
            nearest = min(mine, key=lambda one: (abs(one.workers - count), one.workers))
            exact = nearest.workers == count
            found.append(forecast(nearest, work, count, threads=nearest.threads if exact else threads, memory=memory))
    prices = None if table is None else tuple(price(table, best, work))
    return EstimateResult(name, work, tuple(calibrations), tuple(found), prices, table, tuple(notes))


def estimate_table(estimate: EstimateResult) -> RenderableType:
    """The estimate for 80 columns."""
    work, on_disk = estimate.work, estimate.disk
    parts: list[RenderableType] = [
        Text(f"Estimate of {estimate.name}: {work.rows:,} images, {work.captions:,} captions", style="bold"),
        Text(""),
        _runs(estimate.forecasts),
    ]
    first = estimate.calibrations[0]
    rows = [
        ("workers", "processes x torch threads; images/s of the whole run, steady: while all are at work"),
        (
            "disk",
            f"{size(on_disk.total)}: {size(on_disk.latents)} latents, {size(on_disk.text)} text, "
            f"{size(on_disk.rest)} rest",
        ),
        ("memory", f"{size(first.worker_bytes)} per worker, {size(first.driver_bytes)} driver (peaks)"),
    ]
    for one in estimate.calibrations:
        rows.append(
            (
                "calibrated",
                f"{one.device}, {one.precision}: {workers_words(one.workers, one.threads)}, {one.rows:,} rows in "
                f"chunks of {one.chunk_rows}; {one.seconds_per_row(work.rows_per_chunk):.3g} s per row and worker; "
                f"start {duration(one.start_seconds + one.begin_seconds)}",
            )
        )
    for run in estimate.forecasts:
        rows += [(f"{run.workers} on {run.device}", note) for note in run.notes]
    rows += [("note", note) for note in estimate.notes]
    parts += [Text(""), facts("", rows)]
    if estimate.prices is not None and estimate.table is not None:
        parts += [Text(""), _prices(estimate.prices, estimate.table)]
    return Group(*parts)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", header_style="dim", no_wrap=True)
    return table


def _runs(forecasts: Sequence[Forecast]) -> Table:
    table = _table("device", "workers", "time", "images/s", "steady", "memory", "of", "basis")
    for one in forecasts:
        table.add_row(
            one.device,
            f"{one.workers} x {one.threads}",
            duration(one.seconds) if one.fits else f"({duration(one.seconds)})",
            f"{one.images_per_second:.1f}",
            f"{one.steady_rate:.1f}",
            size(one.worker_bytes),
            "no limit" if one.limit_bytes is None else size(one.limit_bytes),
            one.basis,
        )
    return table


def _prices(prices: Sequence[Price], given: PriceSettings) -> RenderableType:
    table = _table("machine", "device", "per hour", "images/s", "time", f"cost, {given.currency}")
    notes = []
    for one in prices:
        known = one.hours is not None and one.cost is not None and one.images_per_second is not None
        table.add_row(
            one.name,
            one.device,
            f"{one.per_hour:g}",
            f"{one.images_per_second:.1f}" if one.images_per_second else "–",
            duration((one.hours or 0) * 3600) if known else "–",
            f"{one.cost:.2f}" if known else "–",
        )
        notes.append((one.name, one.basis))
    notes.append(("prices", f"{given.source}, {given.date}"))
    return Group(table, facts("", notes))
