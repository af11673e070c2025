"""What all figures have in common: colours, plots and texts with one look, light and dark.

Covers: the base class of a figure, an empty plot with units on its axes, a text as HTML, data that are sent only if
they changed, the style of a page.
Does not cover: what is drawn.

Colours are those of Okabe and Ito (jfly.uni-koeln.de/color), which people with colour blindness can tell apart.
Lines and texts of plots have a grey that can be read on white and on black. Newer versions of Bokeh (seen: 3.9, not
3.4) take better ones from the style of the page, which follows the system's light or dark setting. Dask's own pages
are always light.

Text from data may hold anything: it is escaped (`text`), never stands in a title or a label of a plot (Bokeh would
typeset TeX there), and `disable_math` keeps it plain in a text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from daskt2i.dashboard.run_state import RunState

BLUE, SKY, GREEN, ORANGE, RED, PURPLE, YELLOW = (
    "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#F0E442",
)  # fmt: skip
GREY = "#8a949e"
"""Read on white (3.1 : 1) and on black (6.8 : 1)."""

MOST_TEXT = 160
"""Characters of a text from data that are shown."""

_ROOT = """
:root {{ color-scheme: light dark; {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
"""


def _variables(ink: str, dim: str, line: str, paper: str, card: str) -> str:
    names = {"ink": ink, "dim": dim, "line": line, "paper": paper, "card": card}
    # Bokeh asks for these names when it draws a plot (`_get_css_value` in its core/visuals).
    texts = ("text", "axis-label-text", "major-label-text", "group-text", "subgroup-text", "label-text", "title-text")
    lines = ("axis-line", "major-tick-line", "minor-tick-line")
    plot = {
        **{f"bk-{one}-color": ink if one == "text" else dim for one in texts},
        **{f"bk-{one}-color": dim for one in lines},
        "bk-grid-line-color": line,
    }
    return " ".join(f"--{name}: {value};" for name, value in {**names, **plot}.items())


LIGHT = _variables(ink="#1f2933", dim="#52606d", line="#dde2e7", paper="#fafafa", card="#ffffff")
DARK = _variables(ink="#e8ecf0", dim="#aab4be", line="#39424b", paper="#15191c", card="#20262b")

PAGE_CSS = (
    _ROOT.format(light=LIGHT, dark=DARK)
    + """
html, body { background: var(--paper); color: var(--ink); }
.navbar ul, .dropdown-content { background-color: color-mix(in srgb, var(--paper) 94%, var(--ink)); }
.navbar li a { color: var(--ink); }
@media (prefers-color-scheme: dark) { #navbar-toggle-icon img { filter: invert(1); } }
"""
)
"""Style of a page with figures. It may stand beside the style of Dask's pages."""

_TEXT_CSS = """
:host { color: var(--ink, inherit); width: 100%; overflow-x: auto; }
.bk-clearfix { display: block; width: 100%; }
* { box-sizing: border-box; }
div { font: 13px/1.45 Helvetica, Arial, sans-serif; }
h3 { font-size: 13px; margin: 0 0 4px; font-weight: 700; }
p { margin: 0 0 4px; } .dim { color: var(--dim, #666); } .bad { color: #D55E00; font-weight: 700; }
.cards { display: flex; flex-wrap: wrap; gap: 8px; } .cards + .cards { margin-top: 8px; }
.card { background: var(--card, transparent); border: 1px solid var(--line, #ccc); border-radius: 6px;
  padding: 5px 12px; min-width: 104px; }
.card b { display: block; font-size: 18px; line-height: 1.25; white-space: nowrap; }
.card span { color: var(--dim, #666); font-size: 12px; }
.empty { border: 1px dashed var(--line, #ccc); border-radius: 6px; padding: 12px 14px; color: var(--dim, #666); }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 400; color: var(--dim, #666); border-bottom: 1px solid var(--line, #ccc); }
th, td { padding: 2px 10px 2px 0; vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.wide { overflow-wrap: anywhere; min-width: 11em; }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 5px -1px 0; }
.key span { margin-right: 16px; white-space: nowrap; }
.thumbs { display: flex; flex-wrap: wrap; gap: 10px; }
.thumb { width: 132px; font-size: 12px; line-height: 1.3; overflow-wrap: anywhere; }
.thumb img, .thumb .none { display: block; width: 132px; height: 100px; object-fit: contain; border-radius: 4px;
  background: color-mix(in srgb, var(--card, #fff) 90%, var(--ink, #000)); margin-bottom: 3px; }
.thumb .none { display: flex; align-items: center; justify-content: center; color: var(--dim, #666); }
.picture { max-width: 100%; max-height: 520px; object-fit: contain; border-radius: 4px; image-rendering: auto; }
"""


TABS_CSS = """
.bk-header { border-color: var(--line) !important; }
.bk-tab { color: var(--dim) !important; font: 14px Helvetica, Arial, sans-serif; padding: 6px 14px !important; }
.bk-tab:hover { background: var(--card) !important; }
.bk-tab.bk-active { color: var(--ink) !important; background: var(--card) !important;
  border-color: var(--line) !important; border-top: 3px solid #E69F00 !important; }
@media (max-width: 500px) { .bk-tab { padding: 6px 5px !important; font-size: 13px !important; } }
"""
"""Style of tabs."""

ROW_CSS = ":host { flex-wrap: wrap; }"
"""Style of figures side by side: on a narrow screen they stand below each other."""

BESIDE = {"flex": "1 1 340px", "min-width": "0", "max-width": "100%"}
"""Style of each of them."""

SELECT_CSS = """
label { color: var(--dim); } .bk-input { background: var(--card); color: var(--ink); border-color: var(--line); }
"""
"""Style of the choice of a run."""


class Figure:
    """A part of a page: a model of Bokeh, and how it follows the state of a run.

    Attributes:
        root: the model.
    """

    root: Any

    def pause(self, state: RunState) -> float:
        """Seconds between two drawings. A figure that is dear to draw is drawn less often."""
        return 0.0

    def update(self, state: RunState) -> None:
        """Show a state. What did not change is not sent again."""
        raise NotImplementedError


class Plotted(Figure):
    """A plot, with a text below it. While there is nothing to plot, a sentence stands in its place.

    Args:
        plot: the plot, hidden at first.
    """

    def __init__(self, plot: Any) -> None:
        from bokeh.layouts import column

        self.plot, self.text = plot, text(visible=False)
        plot.visible = False
        self.root = column(self.plot, self.text, sizing_mode="stretch_width")

    def hide(self, why: str = "") -> None:
        """Show a sentence of HTML in place of the plot; nothing at all if it is empty."""
        _set(self.plot, visible=False)
        _set(self.text, text=empty(why) if why else "", visible=bool(why))

    def show(self, title: str, html: str = "") -> None:
        """Show the plot under a title, with a text of HTML below it."""
        _set(self.plot.title, text=title)
        _set(self.plot, visible=True)
        _set(self.text, text=html, visible=bool(html))


def _set(model: Any, **values: Any) -> None:
    for name, value in values.items():
        if getattr(model, name) != value:
            setattr(model, name, value)


def shown(value: object, most: int = MOST_TEXT) -> str:
    """Text from data as HTML: one line, escaped, not too long."""
    line = " ".join(str(value).split())
    return escape(line if len(line) <= most else line[: most - 2] + " …")


def picture_address(value: object) -> str:
    """The address of a picture in a message, if it holds the picture itself; else "". So nothing is loaded."""
    address = value if isinstance(value, str) else ""
    return escape(address) if address.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) else ""


def text(html: str = "", **settings: Any) -> Any:
    """A text of HTML as wide as its place."""
    from bokeh.models import Div

    return Div(
        text=html, **{"sizing_mode": "stretch_width", "disable_math": True, "stylesheets": [_TEXT_CSS], **settings}
    )


def empty(sentence: str) -> str:
    """What stands where there is nothing to show yet: why, and when there will be. `sentence` is HTML."""
    return f'<div class="empty">{sentence}</div>'


def cards(pairs: Iterable[tuple[str, str]]) -> str:
    """Figures with their names: HTML."""
    return (
        '<div class="cards">'
        + "".join(f"<div class=card><b>{a}</b><span>{b}</span></div>" for a, b in pairs)
        + "</div>"
    )


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), wide: Sequence[int] = ()
) -> str:
    """A table of HTML cells.

    Args:
        numbers: columns that are aligned to the right.
        wide: columns whose text may be long.
    """
    kinds = {**dict.fromkeys(numbers, ' class="n"'), **dict.fromkeys(wide, ' class="wide"')}
    top = "".join(f"<th{kinds.get(i, '')}>{name}</th>" for i, name in enumerate(head))
    lines = "".join(
        "<tr>" + "".join(f"<td{kinds.get(i, '')}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{lines}</table>"


def key(entries: Iterable[tuple[str, str]]) -> str:
    """The meaning of colours: HTML. Entries are (colour, words)."""
    return (
        '<div class="key">' + "".join(f'<span><i style="background:{c}"></i>{w}</span>' for c, w in entries) + "</div>"
    )


def plot(title: str, x: str, y: str, tips: Sequence[tuple[str, str]] = (), **settings: Any) -> Any:
    """An empty plot as wide as its place.

    Args:
        title, x, y: of the plot and of its axes, with units. "" for an axis with names.
        tips: what a pointer shows, as in `bokeh.models.HoverTool.tooltips`.
    """
    from bokeh.models import HoverTool, Title
    from bokeh.plotting import figure

    made = figure(
        **{
            "title": Title(text=title),
            "tools": "",
            "toolbar_location": None,
            "sizing_mode": "stretch_width",
            "height": 210,
            **settings,
        }
    )
    if tips:
        made.add_tools(HoverTool(tooltips=list(tips)))
    made.background_fill_color = made.border_fill_color = made.outline_line_color = None
    made.xaxis.axis_label, made.yaxis.axis_label = x or None, y or None
    made.title.text_font_size, made.title.text_font = "13px", "Helvetica, Arial, sans-serif"
    made.title.text_color = GREY
    made.axis.axis_label_text_font_style = "normal"
    made.axis.axis_label_text_font_size = "12px"
    for name in ("axis_label_text", "major_label_text", "axis_line", "major_tick_line"):
        setattr(made.axis, f"{name}_color", GREY)
    made.axis.minor_tick_line_color = None
    made.grid.grid_line_color, made.grid.grid_line_alpha = GREY, 0.35
    made.min_border_left, made.min_border_right = 10, 18
    return made


_BAR, _AROUND_BARS = 34, 76
"""Pixels of a bar with its label, and of title and axis."""


def bars(x: str, **settings: Any) -> Any:
    """An empty plot of horizontal bars with names and labels. Its first renderer has the source; see `send_bars`.

    A label stands above its bar, where a narrow screen has room for it whatever the length of the bar.
    """
    from bokeh.models import ColumnDataSource, FactorRange
    from bokeh.transform import dodge

    source, factors = ColumnDataSource({name: [] for name in ("name", "value", "colour", "label")}), FactorRange()
    made = plot("", x, "", y_range=factors, **settings)
    below = dodge("name", -0.22, range=factors)
    made.hbar(below, right="value", height=0.4, fill_color="colour", line_color=None, source=source)
    words = {"text_color": GREY, "text_baseline": "bottom", "x_offset": 2, "text_font_size": "12px"}
    made.text(0, "name", "label", source=source, **words)
    made.x_range.start, made.x_range.end = 0, 100
    made.ygrid.grid_line_color = None
    return made


def send_bars(made: Any, source: Any, rows: Sequence[tuple[str, float, str, str]]) -> None:
    """Give bars to a plot: (name, value, colour, label), from top to bottom."""
    rows = rows[::-1]
    names = [name for name, _, _, _ in rows]
    _set(made.y_range, factors=names)
    _set(made, height=_AROUND_BARS + _BAR * len(rows))
    _set(made.x_range, end=10 * math.ceil(0.1 * max(value for _, value, _, _ in rows)) or 1.0)  # in steps
    columns = zip(*rows, strict=True)
    send(source, dict(zip(("name", "value", "colour", "label"), map(list, columns), strict=True)))


def percent(share: float, digits: int = 0) -> str:
    """`"43 %"` for 0.43."""
    return f"{100 * share:.{digits}f} %"


def label(axis: Any, words: str) -> None:
    """Name an axis, if it has another name."""
    for one in axis:
        _set(one, axis_label=words)


def send(source: Any, data: Mapping[str, Any]) -> None:
    """Give data to a source, if they differ from what it has. Arrays are sent as they are, lists as JSON."""
    if any(not _same(source.data.get(name, ()), column) for name, column in data.items()):
        source.data = dict(data)


def grow(source: Any, data: Mapping[str, Any]) -> None:
    """Give longer columns to a source. Only what is new is sent: points at the end, and the last one if it changed."""
    before, count = source.data, len(next(iter(source.data.values())))
    most, end = len(next(iter(data.values()))), count - 1
    if not 0 < count <= most or any(not _same(before[name][:end], one[:end]) for name, one in data.items()):
        send(source, data)
        return
    if last := {name: [(end, one[end])] for name, one in data.items() if before[name][end] != one[end]}:
        source.patch(last)
    if most > count:
        source.stream({name: one[count:] for name, one in data.items()})


def _same(before: Any, now: Any) -> bool:
    if isinstance(now, np.ndarray) or isinstance(before, np.ndarray):
        return np.array_equal(before, now)
    return bool(before == now)


def say(model: Any, html: str) -> None:
    """Show a text, if it differs from what is shown."""
    _set(model, text=html, visible=bool(html))


def legend(made: Any, place: str = "top_right") -> None:
    """The look of the legend of a plot."""
    made.legend.location = place
    made.legend.orientation = "horizontal"
    made.legend.background_fill_color = made.legend.border_line_color = None
    made.legend.label_text_color = GREY
    made.legend.label_text_font_size = "12px"
    made.legend.padding, made.legend.margin = 2, 2


def since(times: Any, begun: float) -> tuple[Any, str]:
    """Times as an array of what has passed since the start, and its unit: `s`, `min` or `h`."""
    passed = times - begun
    longest = float(passed[-1]) if len(passed) else 0.0
    seconds, unit = (1, "s") if longest < 300 else (60, "min") if longest < 3 * 3600 else (3600, "h")
    return passed / seconds, unit
