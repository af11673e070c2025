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
from daskt2i.evaluation.judging import FIELDS, Fidelity
from daskt2i.evaluation.result import EvaluateResult
from daskt2i.formatting import facts
from daskt2i.insights.report import InsightsResult
from daskt2i.train.whole_run import RunPlan
from daskt2i.view import View, Viewed


def result_table(result: Viewed) -> RenderableType:
    """A result for 80 columns, with failures first."""
    if isinstance(result, RunPlan):
        return Group(result_table(result.encode), result_table(result.train), _view_table(result.draw_view()))
    if isinstance(result, EstimateResult):
        return estimate_table(result)
    if isinstance(result, InsightsResult):
        return report_view(result)
    if isinstance(result, EvaluateResult) and result.fidelity is not None:
        return Group(fidelity_table(result.fidelity), Text(f"contact sheet {result.sheet}"))
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
        table.add_row(name, *(f"{shares.share(name):.1%}" if shares.of else "-" for _, shares in columns))
    return table
