"""The report as one HTML page without external files: it contains Bokeh's charts and script, and the thumbnails.

Covers: the charts (gender, age group, group size, activities), histograms, a sample of pictures of each class.
Does not cover: counting (`report`). Text from the data is escaped. A content policy in the page forbids every request,
so the page reports its readers to nobody, even if it is mailed or put on a web server.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from daskt2i import formatting
from daskt2i.errors import RowRejected
from daskt2i.faults.patience import fetched_patiently
from daskt2i.formatting import many
from daskt2i.images import read as images
from daskt2i.insights.report import InsightsResult
from daskt2i.protocols import Source
from daskt2i.types import Row

if TYPE_CHECKING:
    import pyarrow as pa

THUMBNAIL = 112
SAMPLES = 6
"""Pictures of each class, spread evenly over its rows; about 4 KB each."""

CLASSES = 6
"""Number of activities that are shown with pictures."""

_COLOURS = {
    "male": "#4477aa", "female": "#cc6677", "neutral": "#999933", "mixed": "#aa4499", "child": "#88ccee",
    "teen": "#44aa99", "adult": "#4477aa", "elderly": "#882255", "unstated": "#bbbbbb", "single": "#4477aa",
    "pair": "#ddcc77", "group": "#cc6677",
}  # fmt: skip
"""Paul Tol's muted scheme; people with colour blindness can distinguish its colours (personal.sron.nl/~pault)."""

_MEANING = """
These figures count words in captions, not people in pictures. A gender here is a word that an annotator chose, often
from looks. It says nothing certain about a person. Words such as person, rider or child count as neutral. The figures
cannot count what captions do not say: "unstated" is most often an adult without a description. Use the figures to see
what a model will learn from the captions, and what it will rarely see. Do not use them to say who people are.
"""


@dataclass(frozen=True, slots=True)
class About:
    """How the report was made, for the notes on the page.

    Attributes:
        tokenizer: the tokenizer that counted tokens, "" for none.
        rules: the user's rules file, "" for the rules of daskt2i.
        limits: limits for the images that are shown.
    """

    tokenizer: str
    rules: str
    limits: images.Limits


def render(report: InsightsResult, source: Source | None, about: About) -> str:
    """Make the HTML page.

    Args:
        source: the source of the pictures; None for a page without pictures.
    """
    from bokeh.embed import components

    figures = _figures(report)
    script, blocks = components(figures) if figures else ("", {})
    body = "".join(
        [
            f"<h1>{escape(report.label)}</h1>",
            f'<p class="sub">{_subtitle(report)}</p>',
            _cards(report),
            formatting.section("People in captions", blocks, ("gender", "age", "group", "activities", "boxes")),
            f'<p class="note">{_MEANING}</p>',
            _pictures(report, source, about.limits) if source is not None else "",
            formatting.section("Captions", blocks, ("captions", "tokens"), _repeated(report)),
            formatting.section("Files", blocks, ("widths", "heights", "ratio", "bytes"), _tables(report)),
            formatting.section("Licences", {}, (), _table("Licence", report.licences)),
            _notes(report, about),
        ]
    )
    return formatting.document(f"{report.label}: insights", body, script)


def _subtitle(report: InsightsResult) -> str:
    parts = [many(report.rows, "image"), many(report.captions, "caption")]
    if report.where:
        parts.append(f"kept by <code>{escape(report.where)}</code>, {report.left_out:,} left out")
    return " · ".join(parts)


def _cards(report: InsightsResult) -> str:
    share = f"{report.people / report.rows:.1%} of images" if report.rows else ""
    cards = [(f"{report.people:,}", f"with people, {share}")]
    if report.looked:
        unusable = sum(report.reasons.values())
        cards += [
            (f"{unusable:,}", f"images that encode would reject, {report.unreadable:,} of them unreadable"),
            (f"{report.exact + report.near:,}", f"repeats: {report.exact:,} exact, {report.near:,} near"),
            (f"{report.bytes / 2**20:,.1f} MiB", "of image files"),
        ]
    if report.limit:
        cards.append((f"{report.cut:,}", f"captions longer than {report.limit} tokens, which will be cut"))
    cards.append((f"{report.alike:,}", f"captions that repeat another one, {report.repeated:,} of them exactly"))
    inside = "".join(f'<div class="card"><b>{value}</b><span>{escape(text)}</span></div>' for value, text in cards)
    return f'<div class="cards">{inside}</div>'


def _figures(report: InsightsResult) -> dict[str, Any]:
    found = {
        "gender": _bars("Gender", report.gender, report.people),
        "age": _bars("Age group", report.age, report.people),
        "group": _bars("Group size", report.group, report.people),
        "activities": _bars(
            f"Main activity, the {len(report.activities)} most frequent", report.activities, report.people
        ),
        "boxes": _bars("People: captions and boxes", report.boxes),
        "captions": _bars("Captions per image", {str(k): v for k, v in report.captions_per_image.items()}),
        "tokens": _columns("Tokens per caption", report.tokens, report.limit),
    }
    if report.looked and report.table.num_rows:
        width, height, size = (report.table[name].to_numpy() for name in ("width", "height", "bytes"))
        known = (width > 0) & (height > 0)
        found["widths"] = _histogram("Width, pixels", width[known])
        found["heights"] = _histogram("Height, pixels", height[known])
        found["ratio"] = _histogram("Width / height", np.clip(width[known] / height[known], 0, 4))
        found["bytes"] = _histogram("File size, KiB", size[size > 0] / 1024)
    return {name: figure for name, figure in found.items() if figure is not None}


def _bars(title: str, counts: Mapping[str, int], total: int = 0) -> Any:
    """Horizontal bars with count and share of a total; of their sum if it is 0."""
    if not counts:
        return None
    names, values = list(counts), list(counts.values())
    total = total or sum(values)
    made = formatting.figure(
        64 + 26 * len(names), title=title, y_range=names[::-1], x_range=(0, max(values) * 1.32), min_border_right=10
    )
    made.hbar(y=names, right=values, height=0.72, color=[_COLOURS.get(name, formatting.PLAIN) for name in names])
    labels = [f"{value:,}  ({value / total:.0%})" for value in values]
    made.text(x=values, y=names, text=labels, x_offset=6, text_baseline="middle", text_font_size="12px")
    made.ygrid.grid_line_color = None
    made.xaxis.visible = False
    return made


def _columns(title: str, counts: Mapping[int, int], limit: int) -> Any:
    if not counts:
        return None
    from bokeh.models import Span

    last = max(*counts, 1)
    shown = np.zeros(min(last, 2 * max(limit, 1)) + 1)
    for number, count in counts.items():
        shown[min(number, len(shown) - 1)] += count
    made = formatting.figure(240, title=title)
    made.vbar(x=np.arange(len(shown)), top=shown, width=0.9, color=formatting.PLAIN)
    if limit < len(shown):
        made.add_layout(Span(location=limit + 0.5, dimension="height", line_color="#cc6677", line_dash="dashed"))
    return made


def _histogram(title: str, values: Any) -> Any:
    if not len(values):
        return None
    made = formatting.figure(220, title=title)
    spread = float(np.ptp(values))
    counts, edges = np.histogram(values, 30 if spread else 1, None if spread else (values[0] - 1, values[0] + 1))
    made.quad(top=counts, bottom=0, left=edges[:-1], right=edges[1:], color=formatting.PLAIN, line_color="white")
    made.y_range.start = 0
    return made


def _table(title: str, counts: Mapping[Any, int]) -> str:
    if not counts:
        return ""
    lines = "".join(f'<tr><td class="name">{escape(str(k))}</td><td>{v:,}</td></tr>' for k, v in counts.items())
    return f'<div class="panel"><h3>{escape(title)}</h3><table>{lines}</table></div>'


def _repeated(report: InsightsResult) -> str:
    return _table("Most frequent captions", dict(report.most_repeated))


def _tables(report: InsightsResult) -> str:
    if not report.looked:
        return ""
    sizes = {f"{width} x {height}": rows for (width, height), rows in report.sizes.items()}
    return (
        _table("Size, the most frequent", sizes)
        + _table("Shape", report.aspects)
        + _table("Format", report.formats)
        + _table("Colour mode", report.modes)
        + _table("Encode would reject", report.reasons)
    )


def _notes(report: InsightsResult, about: About) -> str:
    made = [f"Rules: {about.rules}." if about.rules else "Rules: those of daskt2i, for English captions."]
    if report.limit:
        made.append(f"Tokens: those of {about.tokenizer}, {report.limit} at most.")
    if report.blank or report.orphan:
        made.append(
            f"Not counted: {report.blank:,} blank captions, {report.orphan:,} captions of images that are not listed."
        )
    made += report.notes
    return "".join(f'<p class="note">{escape(note)}</p>' for note in made)


def _pictures(report: InsightsResult, source: Source, limits: images.Limits) -> str:
    """A few thumbnails of each class."""
    table = report.table
    panels = []
    for column, counts in (("gender", report.gender), ("group", report.group), ("age", report.age)):
        for value in counts:
            panels.append(_sample(f"{column}: {value}", _where(table, column, value), table, source, limits))
    main = [listed[0] if listed else "" for listed in table["activities"].to_pylist()]
    for activity in list(report.activities)[:CLASSES]:
        rows = [row for row, name in enumerate(main) if name == activity]
        panels.append(_sample(f"activity: {activity}", rows, table, source, limits))
    panels.append(_sample("no people", _where(table, "people", False), table, source, limits))
    copies = table["duplicate_of"].to_pylist()
    pairs = [row for row, first in enumerate(copies) if first >= 0][: SAMPLES // 2]
    panels.append(_sample("repeats of earlier images", pairs, table, source, limits))
    inside = "".join(panel for panel in panels if panel)
    return f'<h2>Examples</h2><div class="grid">{inside}</div>' if inside else ""


def _where(table: pa.Table, column: str, value: Any) -> list[int]:
    return [row for row, found in enumerate(table[column].to_pylist()) if found == value]


def _sample(title: str, rows: Sequence[int], table: pa.Table, source: Source, limits: images.Limits) -> str:
    shown: list[str] = []
    step = max(1, len(rows) // SAMPLES)
    for place in rows[::step]:
        if len(shown) == SAMPLES:
            break
        index = table["row"][place].as_py()
        row = next(iter(source.rows(index, index + 1)))
        data = _thumbnail(source, row, limits)
        if data:
            text = escape(f"{row.file_name}: {row.captions[0] if row.captions else ''}", quote=True)
            shown.append(f'<img src="data:image/jpeg;base64,{data}" alt="{text}" title="{text}">')
    if not shown:
        return ""
    return (
        f'<div class="panel"><h3>{escape(title)} ({len(rows):,})</h3><div class="thumbs">{"".join(shown)}</div></div>'
    )


def _thumbnail(source: Source, row: Row, limits: images.Limits) -> str:
    """A JPEG in base64; "" if the row has no picture."""
    if row.reason is not None:
        return ""
    try:
        pixels = images.read(fetched_patiently(source, row), THUMBNAIL, limits).pixels
    except RowRejected:
        return ""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=75)
    return base64.b64encode(stream.getvalue()).decode("ascii")
