"""The report of `bench device` as one page of Markdown.

Covers: the device, a table for each part, what was not measured, the kernels, the plots.
Does not cover: the other files of a report (`bench.page`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec

from daskt2i.bench.device.columns import COLUMNS
from daskt2i.bench.report import BenchReport, Cell, Column, show

_TITLES = {
    "device": "Peak of matrix products",
    "encoders": "Encoders alone",
    "whole": "The whole path of encode",
    "training": "Training",
    "drawing": "Drawing",
    "kernels": "Profiles",
}


def markdown(report: BenchReport) -> str:
    """Make the page. It names the pictures of the plots, which are beside it."""
    return "\n".join([line.rstrip() for line in _lines(report)]) + "\n"


def _lines(report: BenchReport) -> Iterator[str]:
    yield from (f"# {report.title}", "", f"{report.when}, `{report.command}`", "")
    if not report.complete:
        yield from ("**Stopped before all was measured.**", "")
    facts = {k: v for k, v in report.facts.items() if isinstance(v, str | int | float)}
    rows = {**facts, **report.machine, **report.versions}
    yield from ("## Device and machine", "", "| | |", "|---|---|")
    yield from (f"| {name.replace('_', ' ')} | {_cell(show('number', value))} |" for name, value in rows.items())
    yield ""
    for part in dict.fromkeys(str(cell.values["part"]) for cell in report.cells):
        cells = [cell for cell in report.cells if cell.values["part"] == part]
        yield from (f"## {_TITLES.get(part, part)}", "", *_table(cells), "")
        flags = [
            f"{' '.join(str(cell.values[name]) for name in ('case', 'way') if cell.values.get(name))}: {flag}"
            for cell in cells
            for flag in cell.flags
        ]
        yield from (*(f"- {_cell(flag)}" for flag in flags), *([""] if flags else []))
    yield from _profiles(report)
    if report.plots and find_spec("matplotlib") is not None:
        yield from ("## Plots", "")
        for plot in report.plots:
            yield from (f"![{plot.title}]({report.name}-{plot.name}.png)", "")
    yield from ("## Notes", "", *(f"- {note}" for note in report.notes), "")
    yield from ("## Columns", "", *(f"- {c.heading}: {c.meaning}" for c in COLUMNS[1:] if c.meaning))


def _table(cells: Sequence[Cell]) -> Iterator[str]:
    shown = [
        c
        for c in COLUMNS
        if c.name not in ("case", "part") and any(cell.values.get(c.name) is not None for cell in cells)
    ]
    good = [
        cell
        for cell in cells
        if any(cell.values.get(c.name) is not None for c in shown if c.group in ("Speed", "Limit"))
    ]
    if not good:
        return
    yield _row(c.heading for c in shown)
    yield _row("---" if c.kind == "text" else "---:" for c in shown)
    for cell in good:
        yield _row(_value(c, cell) for c in shown)


def _value(column: Column, cell: Cell) -> str:
    value = cell.values.get(column.name)
    return "" if value is None else _cell(show(column.kind, value))


def _profiles(report: BenchReport) -> Iterator[str]:
    found = report.facts.get("profile", {})
    if found:
        yield from ("## What the device does", "")
    for title, one in found.items():
        busy = show("share", one["busy_share"])
        yield from (
            f"### {title}",
            "",
            f"{one['wall_ms']:.3g} ms a call under the profiler; {busy} of it in kernels.",
            "",
        )
        kinds = ", ".join(f"{kind} {show('share', share)}" for kind, share in one["kinds"].items())
        yield from (f"By kind: {kinds}.", "", "| kernel | kind | calls | ms | share |", "|---|---|---:|---:|---:|")
        for kernel in one["kernels"]:
            texts = (f"`{kernel['name']}`", kernel["kind"], show("number", kernel["calls"]), f"{kernel['ms']:.3g}")
            yield _row((*map(_cell, texts), show("share", kernel["share"])))
        yield ""


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
