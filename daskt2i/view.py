"""How a result shows itself: as text at a Python prompt, as HTML in a notebook.

Covers: `View`, which holds the data; rendering it as text and as HTML; `Viewed`, which gives a result `__repr__` and
`_repr_html_`.
Does not cover: what each result puts into its view (the room of the result), tables on a terminal (`display`).

The HTML contains its pictures and has no script, so it makes no requests. Every text is escaped, without
terminal colours. JupyterLab's own variables give the colours, so they follow its light or dark theme. Other programs
show the colours of their page.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from daskt2i.notebooks import html_text

MOST_FAILURES = 10
"""Failures that a view lists. It only counts the rest."""

# JupyterLab aligns table cells to the right with a stronger rule than ours, so `!important` is needed.
_STYLE = """
div.daskt2i-view { font-size: 13px; line-height: 1.5; color: var(--jp-ui-font-color1, inherit); }
div.daskt2i-view .title { font-weight: 600; }
div.daskt2i-view .dim, div.daskt2i-view th { color: var(--jp-ui-font-color2, GrayText); font-weight: 400; }
div.daskt2i-view table { margin: 4px 0; border: 0; border-collapse: collapse; width: auto; }
div.daskt2i-view th, div.daskt2i-view td { text-align: left !important; vertical-align: top; border: 0;
  padding: 1px 14px 1px 4px;
  white-space: pre-wrap; overflow-wrap: anywhere; max-width: 90ch; }
div.daskt2i-view .failed { color: var(--jp-error-color0, #c62828); font-weight: 600; }
div.daskt2i-view .bar { display: flex; height: 8px; max-width: 420px; margin: 5px 0; border-radius: 4px;
  overflow: hidden; background: var(--jp-layout-color3, rgba(128, 128, 128, .35)); }
div.daskt2i-view .bar .done { background: var(--jp-brand-color1, #1976d2); }
div.daskt2i-view .count { height: 10px; margin-top: 5px; background: var(--jp-brand-color1, #1976d2); }
div.daskt2i-view .bar .rejected { background: var(--jp-warn-color1, #ef6c00); }
div.daskt2i-view .side { display: flex; flex-wrap: wrap; gap: 6px 24px; align-items: flex-start; }
div.daskt2i-view svg { background: var(--jp-layout-color2, rgba(128, 128, 128, .12)); border-radius: 3px;
  margin-top: 6px; }
div.daskt2i-view svg text { font-size: 11px; fill: var(--jp-ui-font-color2, GrayText); }
div.daskt2i-view .pictures { display: flex; flex-wrap: wrap; gap: 10px; margin-top: 6px; }
div.daskt2i-view figure { margin: 0; width: 132px; }
div.daskt2i-view figure.wide { width: auto; max-width: 100%; }
div.daskt2i-view figure.wide img { width: auto; max-width: 100%; }
div.daskt2i-view figure img { width: 132px; border-radius: 3px; display: block; margin: 0; }
div.daskt2i-view figcaption { font-size: 12px; line-height: 1.3; color: var(--jp-ui-font-color2, GrayText); }
div.daskt2i-view summary { cursor: pointer; }
div.daskt2i-view pre { font-size: 12px; max-height: 320px; overflow: auto; margin: 4px 0; padding: 6px 8px;
  background: var(--jp-layout-color2, rgba(128, 128, 128, .12)); color: inherit; }
"""

_CURVES = ("var(--jp-brand-color1, #1976d2)", "var(--jp-error-color1, #d84315)")


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a view in a notebook: a table of names and values, a plain text, or counts as bars.

    Attributes:
        bars_total: the total of which the bars are shares; 0 for their sum.
        folded: whether the section is closed at first.
    """

    title: str
    rows: tuple[tuple[str, str], ...] = ()
    text: str = ""
    bars: tuple[tuple[str, int], ...] = ()
    bars_total: int = 0
    folded: bool = True


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a view.

    Attributes:
        png: the bytes of a PNG file.
        label: the text below the picture.
        wide: whether the picture keeps its own size. All other pictures have the same width.
        row: number of its row in the grid. A new number begins a new row.
    """

    png: bytes
    label: str
    wide: bool = False
    row: int = 0


Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class View:
    """The content that a result shows.

    Attributes:
        title: a few words.
        about: a dim text beside the title.
        rows: names and values, in reading order.
        failures: sentences, shown first and in red.
        done, rejected: shares of a bar, 0 to 1. If `done` is None, there is no bar.
        curves: lines of a small chart, on the same axes.
        curves_label: a text that describes the curves.
        make_pictures: returns the pictures of a grid. Only `html` calls it.
        sections: more parts for a notebook. The text leaves them out.
    """

    title: str
    rows: tuple[tuple[str, str], ...] = ()
    about: str = ""
    failures: tuple[str, ...] = ()
    done: float | None = None
    rejected: float = 0.0
    curves: tuple[Points, ...] = ()
    curves_label: str = ""
    make_pictures: Callable[[], tuple[Picture, ...]] = tuple
    sections: tuple[Section, ...] = ()

    def some_failures(self) -> list[str]:
        """The first failures, and the number of the rest."""
        more = len(self.failures) - MOST_FAILURES
        return [*self.failures[:MOST_FAILURES], *([f"and {more:,} more"] if more > 0 else [])]

    def text(self) -> str:
        """The view as a few lines for a Python prompt."""
        width = max((len(name) for name, _ in self.rows), default=0)
        lines = [f"{self.title}  {self.about}".rstrip()]
        lines += [f"  FAILED: {sentence}" for sentence in self.some_failures()]
        lines += [f"  {name:<{width}}  {value}".rstrip() for name, value in self.rows]
        return "\n".join(lines)

    def html(self) -> str:
        """The view as HTML for a notebook."""
        about = f' <span class="dim">{html_text(self.about)}</span>'
        head = f'<div><span class="title">{html_text(self.title)}</span>{about}</div>'
        failures = "".join(f'<div class="failed">{html_text(sentence)}</div>' for sentence in self.some_failures())
        body = _table(self.rows) + _chart(self.curves, self.curves_label)
        rows = groupby(self.make_pictures(), key=lambda picture: picture.row)
        pictures = [f'<div class="pictures">{"".join(map(_picture, row))}</div>' for _, row in rows]
        parts = [
            head,
            failures,
            "" if self.done is None else _bar(self.done, self.rejected),
            f'<div class="side">{body}</div>' if body else "",
            *pictures,
            *map(_section, self.sections),
        ]
        return f'<style>{_STYLE}</style><div class="daskt2i-view">{"".join(parts)}</div>'


class Viewed:
    """Base of a result that shows its `view()`: a few lines at a Python prompt, a table in a notebook."""

    __slots__ = ()

    def view(self) -> View:
        """The content to show."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.view().text()

    def _repr_html_(self) -> str:
        return self.view().html()


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><th>{html_text(name)}</th><td>{html_text(value)}</td></tr>" for name, value in rows)
    return f"<table>{lines}</table>" if lines else ""


def _section(section: Section) -> str:
    text = f"<pre>{html_text(section.text)}</pre>" if section.text else ""
    state = "" if section.folded else " open"
    body = _table(section.rows) + text + _bars(section.bars, section.bars_total)
    return f"<details{state}><summary>{html_text(section.title)}</summary>{body}</details>"


def _bars(counts: Sequence[tuple[str, int]], total: int) -> str:
    total, most = total or sum(count for _, count in counts), max((count for _, count in counts), default=0)
    lines = []
    for name, count in counts:
        bar = f'<div class="count" style="width:{160 * count / (most or 1):.0f}px"></div>'
        lines.append(
            f"<tr><th>{html_text(name)}</th><td>{bar}</td><td>{count:,} ({count / (total or 1):.0%})</td></tr>"
        )
    return f"<table>{''.join(lines)}</table>" if lines else ""


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    label = html_text(picture.label)
    kind = ' class="wide"' if picture.wide else ""
    caption = f"<figcaption>{label}</figcaption>" if label else ""
    return f'<figure{kind}><img src="data:image/png;base64,{data}" alt="{label}">{caption}</figure>'


def _bar(done: float, rejected: float) -> str:
    parts = (("done", done - rejected), ("rejected", rejected))
    shares = "".join(f'<div class="{name}" style="width:{100 * share:.2f}%"></div>' for name, share in parts)
    return f'<div class="bar">{shares}</div>'


def _chart(curves: Sequence[Points], label: str) -> str:
    """Curves in a small SVG, with the highest and lowest value, and the range of steps. The second curve is thicker."""
    points = [point for curve in curves for point in curve]
    if len(points) < 2:
        return ""
    right = max(x for x, _ in points) or 1.0
    low, high = min(y for _, y in points), max(y for _, y in points)
    lines = []
    for number, curve in enumerate(curves):
        across, down = 232 / right, 62 / ((high - low) or 1)
        places = " ".join(f"{4 + x * across:.1f},{4 + (high - y) * down:.1f}" for x, y in curve)
        colour, width = _CURVES[number % len(_CURVES)], 1.2 + 0.8 * number
        lines.append(f'<polyline fill="none" style="stroke:{colour}" stroke-width="{width}" points="{places}"/>')
    for text, x, y, anchor in (
        (f"{high:.3g}", 244, 13, "start"),
        (f"{low:.3g}", 244, 69, "start"),
        ("0", 4, 84, "start"),
        (f"{right:,.0f}", 236, 84, "end"),
    ):
        lines.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>')
    caption = f"<figcaption>{html_text(label)}</figcaption>" if label else ""
    return f'<figure class="wide"><svg width="300" height="90" role="img">{"".join(lines)}</svg>{caption}</figure>'
