"""A benchmark's report as files: one self-contained HTML page, PNGs of its plots, JSON and CSV.

Covers: curves with the spread of their repeats and the ideal line, stacked bars, the table with the meaning of columns.
Does not cover: the figures (`report`). The PNGs need matplotlib (`pip install 'daskt2i[bench]'`). Without it they are
left out, and the report says so.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from html import escape
from importlib.util import find_spec
from typing import Any

from daskt2i import formatting
from daskt2i.bench.report import BenchReport, Cell, Column, Plot, show
from daskt2i.store.ownership import claim
from daskt2i.store.run_folder import REPORTS, RunFolder

COLOURS = ("#4477aa", "#cc6677", "#117733", "#ddaa33", "#882255", "#44aa99", "#aa4499", "#999933", "#88ccee", "#bbbbbb")
"""Paul Tol's muted scheme; people with colour blindness can distinguish its colours (personal.sron.nl/~pault)."""

WITHOUT_PNG = "No PNGs were written: they need matplotlib (pip install 'daskt2i[bench]')."

_STYLE = """
.wide { overflow-x: auto; } .wide table { font-size: 13px; font-variant-numeric: tabular-nums; }
.wide th { text-align: right; vertical-align: bottom; font-weight: 600; padding: 3px 10px 3px 0; color: #5b6876; }
.wide td { text-align: right; padding-right: 10px; white-space: nowrap; border-top: 1px solid #eef0f3; }
.wide .text { text-align: left; } code { font-size: 13px; overflow-wrap: anywhere; }
"""


def save(report: BenchReport, folder: RunFolder, also: Mapping[str, str] = {}) -> dict[str, str]:
    """Write `reports/NAME.json`, `.csv`, `.html` and `reports/NAME-PLOT.png` into a run folder.

    Args:
        also: kind -> text of more files `reports/NAME.KIND`.

    Returns:
        Kind of file -> its address; PNGs have the keys `png PLOT`. Without matplotlib there is a sentence at `no png`.

    Raises:
        StoreError, StoreFull: the files could not be written.
    """
    claim(folder)
    stem = f"{REPORTS}/{report.name}"
    files = {"json": f"{stem}.json", "csv": f"{stem}.csv", "html": f"{stem}.html"}
    folder.write(files["json"], (json.dumps(report.to_json(), ensure_ascii=False, indent=1) + "\n").encode())
    folder.write(files["csv"], report.to_csv())
    folder.write(files["html"], render(report).encode("utf-8", "replace"))
    for kind, text in also.items():
        files[kind] = f"{stem}.{kind}"
        folder.write(files[kind], text.encode("utf-8", "replace"))
    places = {kind: folder.address(name) for kind, name in files.items()}
    if find_spec("matplotlib") is None:
        return {**places, "no png": WITHOUT_PNG} if report.plots else places
    for plot in report.plots:
        name = f"{stem}-{plot.name}.png"
        folder.write(name, png(plot))
        places[f"png {plot.name}"] = folder.address(name)
    return places


def render(report: BenchReport) -> str:
    """Make the HTML page."""
    from bokeh.embed import components

    figures = {plot.name: _figure(plot) for plot in report.plots}
    script, blocks = components(figures) if figures else ("", {})
    stopped = "" if report.complete else "<p><b>Stopped before all was measured.</b></p>"
    body = "".join(
        [
            f"<h1>{escape(report.title)}</h1>",
            f'<p class="sub">{escape(report.when)} · <code>{escape(report.command)}</code></p>{stopped}',
            formatting.section("Plots", blocks, [plot.name for plot in report.plots]),
            _table(report),
            _notes(report),
            f'<h2>Where</h2><div class="grid">{_pairs("Measured here", report.facts)}'
            f"{_pairs('Machine', report.machine)}{_pairs('Versions', report.versions)}</div>",
            _meanings(report.columns),
        ]
    )
    return formatting.document(report.title, body, script, _STYLE)


def _figure(plot: Plot) -> Any:
    return _stacked(plot) if plot.parts else _lines(plot)


def _lines(plot: Plot) -> Any:
    made = formatting.figure(300, title=plot.title, x_axis_label=plot.x, y_axis_label=plot.y)
    if plot.from_zero:
        made.y_range.start = 0
    for number, curve in enumerate(plot.curves):
        colour = "#999999" if curve.ideal else COLOURS[number % len(COLOURS)]
        label = {"legend_label": curve.name}
        dash = "dashed" if curve.ideal else "solid"
        made.line(list(curve.x), list(curve.y), line_width=2, color=colour, line_dash=dash, **label)
        if not curve.ideal and len(curve.x) <= 50:
            made.scatter(list(curve.x), list(curve.y), size=7, color=colour, **label)
        if curve.low:
            made.segment(list(curve.x), list(curve.low), list(curve.x), list(curve.high), color=colour)
    ticks = sorted({x for curve in plot.curves for x in curve.x})
    if len(ticks) <= 12:
        made.xaxis.ticker = ticks
    if made.legend:
        made.add_layout(made.legend[0], "below")
        made.legend.orientation, made.legend.ncols = "horizontal", 3
        made.legend.border_line_color = None
    return made


def _stacked(plot: Plot) -> Any:
    from bokeh.models import ColumnDataSource

    names = list(plot.parts)
    data = ColumnDataSource({"of": list(plot.categories), **{name: list(v) for name, v in plot.parts.items()}})
    made = formatting.figure(120 + 26 * len(plot.categories), title=plot.title, y_range=list(plot.categories)[::-1])
    made.hbar_stack(
        names, y="of", height=0.72, source=data, color=[COLOURS[i % len(COLOURS)] for i in range(len(names))],
        legend_label=names,
    )  # fmt: skip
    made.xaxis.axis_label = plot.y
    made.x_range.start = 0
    made.ygrid.grid_line_color = None
    made.add_layout(made.legend[0], "below")
    made.legend.orientation, made.legend.ncols = "horizontal", 4
    made.legend.border_line_color = None
    return made


def png(plot: Plot) -> bytes:
    """The plot as a PNG of 960 x 600 pixels, or higher for many bars. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 5.0 if not plot.parts else max(3.0, 1.5 + 0.34 * len(plot.categories))
    figure = Figure(figsize=(8.0, height), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)  # pyplot would keep all figures, and may need a display
    axes = figure.add_subplot()
    axes.set_title(plot.title, fontsize=11)
    if plot.parts:
        left = [0.0] * len(plot.categories)
        for number, (name, values) in enumerate(plot.parts.items()):
            axes.barh(plot.categories, values, left=left, label=name, color=COLOURS[number % len(COLOURS)])
            left = [a + b for a, b in zip(left, values, strict=True)]
        axes.invert_yaxis()
        axes.set_xlabel(plot.y)
    else:
        for number, curve in enumerate(plot.curves):
            _draw(axes, curve, COLOURS[number % len(COLOURS)])
        axes.set_xlabel(plot.x)
        axes.set_ylabel(plot.y)
        axes.grid(color="#eef0f3")
        ticks = sorted({x for curve in plot.curves for x in curve.x})
        if len(ticks) <= 12:
            axes.set_xticks(ticks)
        if plot.from_zero:
            axes.set_ylim(bottom=0)
    if plot.parts or len(plot.curves) > 4:
        figure.legend(fontsize=8, ncols=4, loc="outside lower center")
    else:
        axes.legend(fontsize=8, ncols=2)
    stream = io.BytesIO()
    canvas.print_png(stream)
    return stream.getvalue()


def _draw(axes: Any, curve: Any, colour: str) -> None:
    if curve.ideal:
        axes.plot(curve.x, curve.y, "--", color="#999999", label=curve.name)
        return
    axes.plot(curve.x, curve.y, "o-" if len(curve.x) <= 50 else "-", color=colour, label=curve.name, markersize=4)
    if curve.low:
        axes.vlines(curve.x, curve.low, curve.high, color=colour)


def _table(report: BenchReport) -> str:
    columns = [c for c in report.columns if any(cell.values.get(c.name) is not None for cell in report.cells)]
    heads = "".join(f'<th{_class(column)} title="{escape(column.meaning)}">{escape(column.heading)}</th>'
                    for column in columns)  # fmt: skip
    lines = "".join(_line(number, cell, columns) for number, cell in enumerate(report.cells, 1))
    return f'<h2>Table</h2><div class="panel wide"><table><tr>{heads}</tr>{lines}</table></div>'


def _line(number: int, cell: Cell, columns: list[Column]) -> str:
    inside = ""
    for place, column in enumerate(columns):
        text = escape(show(column.kind, cell.values.get(column.name)))
        inside += f"<td{_class(column)}>{text}{f' ({number})' if cell.flags and not place else ''}</td>"
    return f"<tr>{inside}</tr>"


def _class(column: Column) -> str:
    return ' class="text"' if column.kind == "text" else ""


def _notes(report: BenchReport) -> str:
    flags = [f"({number}) {flag}" for number, cell in enumerate(report.cells, 1) for flag in cell.flags]
    return "".join(f'<p class="note">{escape(text)}</p>' for text in [*flags, *report.notes])


def _pairs(title: str, values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    told = {k: v if isinstance(v, str) else show("number", v) for k, v in values.items() if not isinstance(v, dict)}
    lines = "".join(
        f'<tr><td class="name">{escape(name.replace("_", " "))}</td><td class="name">{escape(value)}</td></tr>'
        for name, value in told.items()
    )
    return f'<div class="panel"><h3>{escape(title)}</h3><table>{lines}</table></div>'


def _meanings(columns: tuple[Column, ...]) -> str:
    lines = "".join(
        f'<tr><td class="name">{escape(column.heading)}</td><td class="name">{escape(column.meaning)}</td></tr>'
        for column in columns
        if column.meaning
    )
    return f'<h2>What the columns mean</h2><div class="panel"><table>{lines}</table></div>' if lines else ""
