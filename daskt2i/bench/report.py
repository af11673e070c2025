"""The report of a benchmark: one table of plain values, and the facts that are needed to repeat it.

Covers: columns and their units, cells, flags, plots as data; the report on a terminal, as JSON and as CSV.
Does not cover: the page and the pictures (`page`), measuring (the other modules of `bench`), printing.

A failed cell stays in the table without figures. A flag says why it failed.
"""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

from daskt2i.machine.machine import this_machine
from daskt2i.machine.processor import matrix_instructions, processor_name

if TYPE_CHECKING:
    from rich.console import RenderableType

Value = str | int | float | bool | None
"""A figure of a cell; None if it was not measured."""

Kind = Literal["text", "count", "number", "seconds", "rate", "times", "share", "bytes"]
"""The kind of values of a column. It decides how they are shown. JSON and CSV hold plain values: seconds, bytes, shares
of 1."""

PACKAGES = (
    *("daskt2i", "torch", "diffusers", "transformers", "numpy", "dask", "distributed", "zarr", "joblib", "pyarrow"),
    "pillow",
)
"""Packages whose versions are in a report."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: key in JSON and heading in CSV: words with underscores.
        kind: kind of the values.
        title: heading on a terminal and on the page; by default the name, with spaces.
        group: heading of its table on a terminal, where one table would be too wide; "" for a key column, which all
            tables repeat.
        unit: the unit together with that of the kind, e.g. `images` for images/s.
        meaning: one sentence for the page and the documentation.
    """

    name: str
    kind: Kind = "number"
    title: str = ""
    group: str = ""
    unit: str = ""
    meaning: str = ""

    @property
    def heading(self) -> str:
        """Title and unit, for people."""
        own = {"seconds": "s", "rate": "/s", "bytes": "MiB", "times": "x", "share": ""}.get(self.kind, "")
        unit = f"{self.unit}{own}" if self.kind == "rate" else self.unit or own
        return f"{self.title or self.name.replace('_', ' ')}{f', {unit}' if unit else ''}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table.

    Attributes:
        values: column name -> value; missing columns were not measured.
        flags: sentences about this line, e.g. why a figure is not reliable.
    """

    values: Mapping[str, Value]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot: points x, y; `low` and `high` are the spread of repeats around y.

    Attributes:
        ideal: True for the ideal line, which is dashed and has no points.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    ideal: bool = False

    @classmethod
    def of(cls, name: str, cells: Sequence[Cell], x: str, y: str) -> Curve:
        """A curve through cells, by the names of their values; `y_low` and `y_high` are the spread around `y`."""

        def values(key: str) -> tuple[float, ...]:
            return tuple(float(cell.values[key] or 0) for cell in cells)

        return cls(name, values(x), values(y), values(f"{y}_low"), values(f"{y}_high"))


@dataclass(frozen=True, slots=True)
class Plot:
    """Curves over x, or stacked bars over categories.

    Attributes:
        name: name of its PNG file, a word with dashes.
        curves: the curves of a plot over x.
        categories, parts: for stacked bars: part name -> one value for each category.
        from_zero: whether the y axis starts at 0.
    """

    name: str
    title: str
    x: str
    y: str
    curves: tuple[Curve, ...] = ()
    categories: tuple[str, ...] = ()
    parts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    from_zero: bool = True


@dataclass(frozen=True, slots=True)
class BenchReport:
    """A benchmark's result.

    Attributes:
        name: name of its files, e.g. `bench-encode`.
        title: one line.
        command: the command as it was typed.
        columns, cells: the table.
        facts: facts about all cells, e.g. the machine's peak: name -> value or list of values. JSON values only.
        notes: sentences for a person.
        plots: plots of the table.
        machine, versions: the machine, and the versions of packages.
        when: start, ISO 8601, UTC.
        complete: False if it was stopped before all cells were measured.
    """

    name: str
    title: str
    command: str
    columns: tuple[Column, ...]
    cells: tuple[Cell, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    machine: Mapping[str, Value] = field(default_factory=lambda: machine_facts())
    versions: Mapping[str, str] = field(default_factory=lambda: package_versions())
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    complete: bool = True

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints and that is in the `.json` file."""
        return {
            "report": self.name,
            "title": self.title,
            "command": self.command,
            "when": self.when,
            "complete": self.complete,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "facts": dict(self.facts),
            "columns": [
                {"name": c.name, "kind": c.kind, "heading": c.heading, "meaning": c.meaning} for c in self.columns
            ],
            "cells": [{**cell.values, "flags": list(cell.flags)} for cell in self.cells],
            "notes": list(self.notes),
        }

    def to_csv(self) -> bytes:
        """The cells with a heading line, UTF-8; the last column holds all flags."""
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*(column.name for column in self.columns), "flags"])
        for cell in self.cells:
            values = [cell.values.get(column.name) for column in self.columns]
            writer.writerow(["" if value is None else value for value in values] + [" ".join(cell.flags)])
        return stream.getvalue().encode()

    def view(self) -> RenderableType:
        """The report for a terminal of 80 columns: one table for each group of columns; flags and notes below."""
        return _view(self)


def show(kind: Kind, value: Value) -> str:
    """A value in words, without its unit: `"0.93"`, `"95 %"`, `"1,204"`; `"–"` for None."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    match kind:
        case "count":
            return f"{value:,.0f}"
        case "share":
            return f"{value:.0%}".replace("%", " %") if value >= 0.1 or value == 0 else f"{100 * value:.1f} %"
        case "bytes":
            return _digits(value / 2**20)
        case "times":
            return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else _digits(value)


def _digits(value: float) -> str:
    """Three digits, or all digits before the point."""
    size = abs(value)
    if size >= 100 or value == 0:
        return f"{value:,.0f}"
    places = 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 4
    return f"{value:.{places}f}" if size >= 0.0001 else f"{value:.1e}"


def _view(report: BenchReport) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    keys = [column for column in report.columns if not column.group]
    groups = list(dict.fromkeys(column.group for column in report.columns if column.group)) or [""]
    parts: list[RenderableType] = [Text(report.title, style="bold")]
    if not report.complete:
        parts.append(Text("Stopped before all was measured.", style="yellow"))
    for group in groups:
        measured = [c for c in report.columns if c.group == group and c.group and _any(report, c)]
        if group and not measured:
            continue
        title = Text(group, style="bold dim") if group else None
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
        shown = [*keys, *measured]
        for column in shown:
            right = column.kind != "text"
            heading = column.heading.replace(", ", "\n", 1)  # columns are narrow, so the unit is in a second line
            table.add_column(heading, justify="right" if right else "left", header_style="dim", overflow="fold")
        for number, cell in enumerate(report.cells, 1):
            texts = [show(column.kind, cell.values.get(column.name)) for column in shown]
            if cell.flags and texts:
                texts[0] += f" ({number})"
            table.add_row(*map(Text, texts))
        parts += [Text(""), table]
    flags = [(f"({number})", flag) for number, cell in enumerate(report.cells, 1) for flag in cell.flags]
    facts = [
        (name.replace("_", " "), value if isinstance(value, str) else show("number", value))
        for name, value in report.facts.items()
        if isinstance(value, str | int | float)
    ]
    below = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    below.add_column(style="dim")
    below.add_column(overflow="fold")
    for name, text in [*flags, *facts, *(("note", note) for note in report.notes)]:
        below.add_row(name, Text(text))
    below.add_row("machine", Text(", ".join(f"{k} {show('number', v)}" for k, v in report.machine.items())))
    return Group(*parts, Text(""), below)


def _any(report: BenchReport, column: Column) -> bool:
    return any(cell.values.get(column.name) is not None for cell in report.cells)


def machine_facts() -> dict[str, Value]:
    """Facts about this machine, without its name: processor, cores, memory in GiB, GPUs, operating system."""
    machine = this_machine()
    return {
        "processor": processor_name(),
        "cores": machine.cores,
        "memory_gib": round(machine.memory / 2**30, 1),
        "gpus": machine.gpus,
        "instructions": " ".join(matrix_instructions()),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}, Python {platform.python_version()}",
    }


def package_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Package -> version, for installed packages."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, smallest and largest of one or more values. The median of an even count is the mean of the middle two."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return median, ordered[0], ordered[-1]
