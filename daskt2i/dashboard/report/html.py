"""The page of a run as one HTML file: everything that the dashboard shows, without a server and without a request.

Covers: figures and tables in one file; the table alone, if Bokeh is missing or of a version that cannot draw them.
Does not cover: the figures (`figures`), where they come from (`rebuild`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from html import escape

from daskt2i.dashboard.run_state import RunState
from daskt2i.formatting import POLICY, STYLE, document

_STYLE = """
main { max-width: 1360px; } h1, h2 { font-weight: 600; } .sub, .note { color: var(--dim); }
.line { display: flex; flex-wrap: wrap; gap: 18px; margin: 0 0 16px; } .line > div { flex: 1 1 380px; min-width: 0; }
.facts th { text-align: left; font-weight: 400; color: var(--dim); }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; } .facts td:first-child { width: 9em; }
"""


def page(
    state: RunState, rows: Iterable[tuple[str, str]], unknown: Sequence[str], evaluation: str = ""
) -> tuple[str, tuple[str, ...]]:
    """The page, and a sentence for each thing that is not on it.

    Args:
        evaluation: a section as HTML.
        rows: names and values of the summary.
        unknown: sentences about what is not known, which stand on the page.
    """
    title = f"daskt2i: {state.label}"
    when = datetime.fromtimestamp(state.updated).astimezone().strftime("%Y-%m-%d %H:%M") if state.updated else ""
    stages = ", ".join(f"{name} {how}" for name, how in state.stages.items())
    sub = " · ".join(part for part in (state.out, stages, when) if part)
    head = f'<h1>{_shown(title)}</h1><p class="sub">{_shown(sub)}</p>'
    try:
        figures, script = _figures(state)
        notes = "".join(f'<p class="note">{_shown(text)}</p>' for text in unknown)
        return _utf8(document(title, head + notes + figures + evaluation, script, _look(), components=_COMPONENTS)), ()
    except Exception as error:  # another Bokeh; the report must be written in any case
        why = " ".join(str(error).split())[:200].rstrip(".")
        missing = f"The page has no figures, because Bokeh cannot draw them ({type(error).__name__}: {why})."
        notes = "".join(f'<p class="note">{_shown(text)}</p>' for text in (*unknown, missing))
        table = "".join(f"<tr><td>{_shown(name)}</td><td>{_shown(value)}</td></tr>" for name, value in rows)
        return _utf8(_plain(title, f'{head}{notes}<table class="facts">{table}</table>{evaluation}')), (missing,)


_COMPONENTS = ("bokeh", "bokeh-widgets")
"""Parts of Bokeh's script: plots, and texts."""


def _figures(state: RunState) -> tuple[str, str]:
    """The sections of the dashboard's page that have something to show: HTML, and the script that draws them."""
    from bokeh.embed import components

    from daskt2i.dashboard.figures.encode import Headline
    from daskt2i.dashboard.figures.frame import Figure
    from daskt2i.dashboard.page import SECTIONS

    heading = Headline(whole=True)
    made: dict[str, Figure] = {"head": heading}
    lines: list[tuple[str, list[list[str]]]] = []
    for section in SECTIONS:
        if section.stages and not set(section.stages) & _stages_of(state):
            continue
        places = []
        for row in section.rows:
            names = [f"f{len(made) + place}" for place in range(len(row))]
            made.update(zip(names, (figure() for figure in row), strict=True))
            places.append(names)
        lines.append((section.title, places))
    for figure in made.values():
        figure.update(state)
    script, blocks = components({name: figure.root for name, figure in made.items()}, wrap_script=True)
    html = blocks["head"]
    for title, places in lines:
        html += f"<h2>{escape(title)}</h2>"
        html += "".join(
            f'<div class="line">{"".join(f"<div>{blocks[name]}</div>" for name in names)}</div>' for names in places
        )
    return html, script


def _stages_of(state: RunState) -> set[str]:
    """Stages that left something: their events, or their files."""
    found = set(state.stages)
    if state.chunks:
        found.add("encode")
    if state.training:
        found.add(state.training)
    return found


def _look() -> str:
    from daskt2i.dashboard.figures.frame import PAGE_CSS

    return PAGE_CSS + _STYLE


def _plain(title: str, body: str) -> str:
    """A page without Bokeh."""
    style = STYLE
    with suppress(Exception):
        style += _look()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{style}</style></head>'
        f"<body><main>{body}</main></body></html>"
    )


def _shown(text: str) -> str:
    return escape(" ".join(text.split()))


def _utf8(text: str) -> str:
    """Text that can be written: a broken file name may hold half a character."""
    return text.encode("utf-8", "replace").decode()
