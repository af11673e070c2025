"""Tables of results for a terminal of 80 columns. This module renders; it prints nothing.

Covers: any result by its `view()`; estimates, reports and prompt fidelity, which have their own tables.
Does not cover: `--json` (each result has `to_json`), notebooks (`view`), events (`progress`).
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from daskt2i.display.estimate import estimate_table
from daskt2i.display.insights import report_view
from daskt2i.estimate.result import EstimateResult
from daskt2i.evaluation.intervals import about
from daskt2i.evaluation.judging import FIELDS, Fidelity
from daskt2i.evaluation.result import EvaluateResult
from daskt2i.evaluation.words import Words
from daskt2i.formatting import facts
from daskt2i.insights.report import InsightsResult
from daskt2i.train.whole_run import RunPlan, RunResult
from daskt2i.view import View, Viewed


def result_table(result: Viewed) -> RenderableType:
    """A result for 80 columns, with failures first."""
    if isinstance(result, RunPlan):
        measure = result.measure_view()
        last = [_view_table(measure)] if measure.rows else []
        return Group(result_table(result.encode), result_table(result.train), _view_table(result.draw_view()), *last)
    if isinstance(result, RunResult) and isinstance(result.evaluate, EvaluateResult):
        return result_table(result.evaluate)  # the stages before were shown when they ended
    if isinstance(result, EstimateResult):
        return estimate_table(result)
    if isinstance(result, InsightsResult):
        return report_view(result)
    if isinstance(result, EvaluateResult) and result.fidelity is not None:
        found = result.fidelity
        more = [] if result.figures is None else [facts("Figures", result.figures.rows())]
        return Group(fidelity_table(found), words_table(found.words), *more, Text(f"contact sheet {result.sheet}"))
    return _view_table(result.view())


def _view_table(view: View) -> Table:
    return facts(view.title, [*(("failed", text) for text in view.some_failures()), *view.rows])


def fidelity_table(found: Fidelity) -> Table:
    """The judge's shares: a row for each field; columns for all pictures, pictures of one shape, and of two shapes."""
    table = Table(title="Prompt fidelity", title_justify="left", title_style="bold", box=None, pad_edge=False)
    columns = [("all pictures", found.overall), ("one shape", found.single), ("two shapes", found.pair)]
    table.add_column("right", style="dim")
    for name, shares in columns:
        table.add_column(f"{name} ({shares.of})", justify="right")
    for name in FIELDS:
        table.add_row(name, *(about(shares.right[name], shares.of) for _, shares in columns))
    return table


def words_table(found: Words) -> Table:
    """A row for each word of the prompts: the share of pictures that show it, with its interval."""
    title = "By word, with the interval of 95 %"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("word", style="dim")
    table.add_column("")
    table.add_column("shown", justify="right")
    table.add_column("of pictures", justify="right")
    before = ""
    for kind, word, right, of in found.rows():
        table.add_row(kind if kind != before else "", word, about(right, of), f"{of:,}")
        before = kind
    return table
