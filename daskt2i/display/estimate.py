"""Tables of an estimate for a terminal.

Covers: tables of forecasts, disk, memory and prices for 80 columns.
Does not cover: the values of an estimate (`estimate.result`).
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from daskt2i.config.settings import PriceSettings
from daskt2i.estimate.arithmetic import Forecast, Price
from daskt2i.estimate.result import EstimateResult, chosen_rows
from daskt2i.formatting import duration, facts, many, size, workers_words


def estimate_table(estimate: EstimateResult) -> RenderableType:
    """The estimate for 80 columns."""
    work, on_disk = estimate.work, estimate.disk
    parts: list[RenderableType] = [
        Text(
            f"Estimate of {estimate.name}: {many(work.rows, 'image')}, {many(work.captions, 'caption')}",
            style="bold",
        ),
        Text(""),
        _runs(estimate.forecasts),
    ]
    first = estimate.calibrations[0]
    rows = [
        ("workers", "processes x torch threads; images/s: of the whole run; steady: while all workers are busy"),
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
                f"{one.device}, {one.precision}: {workers_words(one.workers, one.threads)}, {many(one.rows, 'row')} in "
                f"chunks of {one.chunk_rows}; {one.seconds_per_row(work.rows_per_chunk):.3g} s per row and worker; "
                f"start {duration(one.start_seconds + one.begin_seconds)}",
            )
        )
    rows += chosen_rows(estimate.calibrations)
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
