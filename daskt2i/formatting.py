"""Numbers as text, tables for a terminal, and the frame of an HTML page that needs no other file.

Covers: sizes and durations, tables of names and values for a terminal; the style and content policy of a page, Bokeh's
script inside the page, an empty figure, panels of figures.
Does not cover: what a page shows (`insights.page`, `bench.page`).

The content policy forbids every request. So a page from an e-mail or a web server does not report who opens it, and it
looks the same without a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from rich.table import Table
from rich.text import Text

PLAIN = "#4477aa"

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; font-src data:"

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; background: #f5f6f8; margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 2px; } h2 { font-size: 19px; margin: 36px 0 10px; }
h3 { font-size: 14px; margin: 0 0 6px; font-weight: 600; }
.sub { color: #5b6876; margin: 0 0 18px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.card, .panel { background: #fff; border: 1px solid #e1e5ea; border-radius: 8px; padding: 14px 16px; }
.card b { display: block; font-size: 24px; line-height: 1.2; } .card span { color: #5b6876; font-size: 13px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 14px; }
.panel { overflow: hidden; }
.thumbs { display: grid; grid-template-columns: repeat(3, 1fr); gap: 6px; }
.thumbs img { width: 100%; aspect-ratio: 1; border-radius: 5px; display: block; background: #eceff3; }
table { border-collapse: collapse; width: 100%; font-size: 14px; } td { padding: 3px 8px 3px 0; vertical-align: top; }
td:last-child { text-align: right; white-space: nowrap; padding-right: 0; }
td.name { overflow-wrap: anywhere; text-align: left; white-space: normal; }
.note { color: #5b6876; font-size: 13.5px; max-width: 860px; }
"""


def size(count: float) -> str:
    """Bytes as text: `"1.4 GiB"`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds as text: `"4.2 s"`, `"3 min 05 s"`, `"2 h 10 min"`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def waiting_words(what: str, where: str, seconds: float, limit: float, chunk: int | None) -> str:
    """What is awaited, as a sentence without a full stop. Arguments as in `events.Waiting`."""
    who = " ".join(
        part for part in (f"chunk {chunk}" if chunk is not None else "", f"on {where}" if where else "") if part
    )
    end = f", given up after {duration(limit)}" if limit else ""
    return f"waiting for {duration(seconds)}{end}: {f'{who}: ' if who else ''}{what}"


def many(count: int, noun: str) -> str:
    """`"1 row"`, `"2,000 rows"`. A name is not enough for a number: it may be one.

    Args:
        noun: in the singular. Words may come before it: `"accepted row"`.
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def counted(counts: Mapping[str, int]) -> str:
    """Counts by name, sorted by name: `"3 missing-file, 12 unreadable-image"`."""
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))


def workers_words(workers: int, threads: int, most: int = 0) -> str:
    """`"2 workers x 1 thread"`; `"2 workers x 1 to 8 threads"` if they have different numbers, `most` at most."""
    each = f"{threads} to {most} threads" if most > threads else f"{threads} thread{'s' * (threads != 1)}"
    return f"{workers} worker{'s' * (workers != 1)} x {each}"


def facts(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """A table of names and values, one pair a line."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def document(title: str, body: str, script: str, style: str = "", components: Sequence[str] = ("bokeh",)) -> str:
    """The whole page.

    Args:
        title: plain text.
        body: HTML. Its text is already escaped.
        script: the script that `bokeh.embed.components` returned, or "".
        style: CSS rules of this page. They follow the rules of all pages.
        components: the parts of Bokeh's script that the page needs, as in `bokeh.resources.Resources`.
    """
    from bokeh.resources import Resources

    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}{style}</style>'
        f"{Resources(mode='inline', components=list(components)).render_js()}</head>"
        f"<body><main>{body}</main>{script}</body></html>"
    )


def figure(height: int, **settings: Any) -> Any:
    """An empty Bokeh figure as wide as its panel, `height` pixels high."""
    from bokeh.plotting import figure as plain

    made = plain(height=height, sizing_mode="stretch_width", toolbar_location=None, tools="", **settings)
    made.outline_line_color = None
    made.title.text_font_size = "14px"
    made.grid.grid_line_color = "#eef0f3"
    made.axis.axis_line_color = "#c9d0d8"
    made.axis.minor_tick_line_color = None
    return made


def section(title: str, blocks: Mapping[str, str], names: Iterable[str], extra: str = "") -> str:
    """A heading with the panels in `blocks`; "" if there are none."""
    panels = "".join(f'<div class="panel">{blocks[name]}</div>' for name in names if name in blocks)
    return f'<h2>{title}</h2><div class="grid">{panels}{extra}</div>' if panels or extra else ""


def off_words(forecast: float, truth: float) -> str:
    """How a forecast was off: `"29 % too short"`, `"4 % too long"`; `"right"` if the percentage rounds to 0.

    The percentage is that of the truth, so a forecast of half the time is 50 % too short.
    """
    error = forecast / truth - 1 if truth else 0.0
    words = f"{abs(error):.0%}".replace("%", " %")
    return "right" if words == "0 %" else f"{words} too {'long' if error > 0 else 'short'}"
