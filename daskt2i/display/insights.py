"""A report for a terminal of 80 columns. This module renders; it prints nothing.

Covers: the totals in words, the charts as bars of characters.
Does not cover: `--json` (`InsightsResult.to_json`), the page (`insights.page`).
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from daskt2i.formatting import facts
from daskt2i.insights.report import SHOWN, InsightsResult, shares
from daskt2i.insights.suggest import Suggestion

_BAR = 24


def report_view(report: InsightsResult) -> RenderableType:
    """The charts and totals of a report."""
    view = report.view()
    charts = [
        _bars("gender", report.gender, report.people),
        _bars("age group", report.age, report.people),
        _bars("group size", report.group, report.people),
        _bars("activity", dict(list(report.activities.items())[:SHOWN]), report.people),
    ]
    return Group(*[chart for chart in charts if chart is not None], facts(view.title, view.rows))


def _bars(title: str, counts: Mapping[str, int], total: int) -> RenderableType | None:
    if not counts:
        return None
    table = _plain_table(title)
    table.add_column(width=12)
    table.add_column(width=_BAR, no_wrap=True)
    table.add_column(justify="right")
    table.add_column(justify="right", style="dim")
    most = max(counts.values())
    for name, share in shares(counts, total).items():
        bar = "█" * max(1, round(_BAR * counts[name] / most))
        table.add_row(Text(name), Text(bar, style="blue"), f"{counts[name]:,}", f"{share:.0%}")
    return table


def _plain_table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)


def suggestions_view(found: list[Suggestion]) -> RenderableType:
    """Suggestions, one on each line."""
    if not found:
        return Text("No caption of this store continues this text.")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(overflow="fold")
    table.add_column(style="dim", no_wrap=True)
    for one in found:
        table.add_row(Text(one.text), one.why)
    return table
