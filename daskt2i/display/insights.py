"""A report on a terminal of 80 columns. Renders; prints nothing itself.

Covers: the totals in words, the study's charts as bars of characters.
Does not cover: `--json` (`InsightsResult.to_json`), the page (`insights.page`).
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from daskt2i.insights.report import InsightsResult, shares
from daskt2i.insights.suggest import Suggestion

_BAR = 24
_SHOWN = 10


def report_view(report: InsightsResult) -> RenderableType:
    """What `insights` shows."""
    rows = [
        ("source", report.label),
        ("images", f"{report.rows:,}" + f", {report.left_out:,} left out by {report.where}" * bool(report.where)),
        ("people", f"{report.people:,} images ({report.people / max(1, report.rows):.1%}), as captions tell"),
    ]
    captions = f"{report.captions:,}; {report.alike:,} say what another says, {report.repeated:,} word for word"
    rows.append(("captions", captions))
    if report.limit:
        mean = sum(n * c for n, c in report.tokens.items()) / max(1, sum(report.tokens.values()))
        rows.append(("tokens", f"{mean:.1f} a caption; {report.cut:,} longer than {report.limit}, to be cut"))
    if report.looked:
        reasons = ", ".join(f"{count} {reason}" for reason, count in report.reasons.items())
        rows.append(("rejected", f"{sum(report.reasons.values()):,} by encode{f' ({reasons})' * bool(reasons)}"))
        rows.append(("repeats", f"{report.exact:,} the same file, {report.near:,} nearly the same picture"))
        shapes = ", ".join(f"{count:,} {name}" for name, count in report.aspects.items())
        rows.append(("shapes", shapes))
        rows.append(("modes", ", ".join(f"{count:,} {name}" for name, count in report.modes.items())))
    if report.licences:
        rows.append(("licences", ", ".join(f"{count:,} {name}" for name, count in list(report.licences.items())[:8])))
    if report.boxes:
        rows.append(("boxes", ", ".join(f"{name} {count:,}" for name, count in report.boxes.items())))
    rows += [("note", note) for note in report.notes]
    rows.append(("speed", f"{report.rows / max(1e-9, report.seconds):,.0f} images/s, {report.workers} workers"))
    rows += [("written", place) for place in report.files.values()]
    facts = _plain_table("Insights")
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in rows:
        facts.add_row(name, Text(value))
    charts = [
        _bars("gender", report.gender),
        _bars("age group", report.age),
        _bars("group size", report.group),
        _bars("activity", dict(list(report.activities.items())[:_SHOWN])),
    ]
    return Group(*[chart for chart in charts if chart is not None], facts)


def _bars(title: str, counts: Mapping[str, int]) -> RenderableType | None:
    if not counts:
        return None
    table = _plain_table(title)
    table.add_column(width=12)
    table.add_column(width=_BAR, no_wrap=True)
    table.add_column(justify="right")
    table.add_column(justify="right", style="dim")
    most = max(counts.values())
    for name, share in shares(counts).items():
        bar = "█" * max(1, round(_BAR * counts[name] / most))
        table.add_row(Text(name), Text(bar, style="blue"), f"{counts[name]:,}", f"{share:.0%}")
    return table


def _plain_table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)


def suggestions_view(found: list[Suggestion]) -> RenderableType:
    """What `suggest` shows: one suggestion a line."""
    if not found:
        return Text("Nothing in this store's captions goes on from that.")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(overflow="fold")
    table.add_column(style="dim", no_wrap=True)
    for one in found:
        table.add_row(Text(one.text), one.why)
    return table
