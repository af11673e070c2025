"""The result of `estimate`: calibrations and the forecasts for a run.

Covers: the JSON object that is printed and stored, and its view.
Does not cover: the arithmetic (`arithmetic`), measuring (`encode.calibration`), tables for a terminal
(`display.estimate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from daskt2i.config.settings import PriceSettings
from daskt2i.estimate.arithmetic import Calibration, Disk, Forecast, Price, Work, disk, forecast, price
from daskt2i.formatting import duration, many, size, workers_words
from daskt2i.view import Section, View, Viewed


@dataclass(frozen=True, slots=True, repr=False)
class EstimateResult(Viewed):
    """Forecasts of a run before it starts.

    Attributes:
        name: name of the workflow.
        work: the work of the encode.
        calibrations: the calibrations, in the order of measuring.
        forecasts: one forecast for each device and number of workers.
        prices: costs on the machines of the workflow's price table; None without a table.
        table: the price table.
        notes: sentences for the user.
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
        """Bytes of the store. They are nearly the same for each device."""
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
            "chosen": [
                {"device": one.device, **choice.to_json()} for one in self.calibrations for choice in one.choices
            ],
            "prices": table and {**table, "runs": [asdict(one) for one in self.prices or ()]},
            "notes": list(self.notes),
        }

    def view(self) -> View:
        """The forecasts, disk and memory."""
        first = self.calibrations[0]
        rows = [
            (
                f"{one.workers} on {one.device}",
                f"{duration(one.seconds)}, {one.images_per_second:.1f} images/s"
                + ("" if one.fits else " (does not fit into memory)")
                + f"; {one.basis}",
            )
            for one in self.forecasts
        ]
        rows += [
            ("disk", size(self.disk.total)),
            ("memory", f"{size(first.worker_bytes)} per worker, {size(first.driver_bytes)} driver (peaks)"),
        ]
        for one in self.prices or ():
            if one.cost is not None and self.table is not None:
                rows.append((one.name, f"{one.cost:.2f} {self.table.currency}; {one.basis}"))
        rows += chosen_rows(self.calibrations)
        rows += [("note", note) for note in self.notes]
        calibrated = tuple(
            (
                one.device,
                f"{one.precision}, {workers_words(one.workers, one.threads)}, {many(one.rows, 'row')} measured",
            )
            for one in self.calibrations
        )
        work = f"{many(self.work.rows, 'image')}, {many(self.work.captions, 'caption')}"
        return View(f"Estimate of {self.name}", tuple(rows), about=work, sections=(Section("Measured", calibrated),))


def chosen_rows(calibrations: Sequence[Calibration]) -> list[tuple[str, str]]:
    """Setting and choice, a line for each; with the device if there are several."""
    several = len({one.device for one in calibrations}) > 1
    rows = {
        (f"{choice.setting} on {one.device}" if several else choice.setting): choice.words()
        for one in calibrations
        for choice in one.choices
    }
    return list(rows.items())


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
    """Forecasts from calibrations. For each number of workers it uses the calibration with the nearest number.

    Args:
        workers: numbers of workers to forecast.
        memory: bytes that all workers share; None if each worker has its own limit.
        threads: torch threads of each worker, if the workflow sets them; else None.
        table: prices of machines, or None.
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
