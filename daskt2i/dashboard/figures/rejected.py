"""Figures of rows that were rejected, and of the check of the encoder.

Covers: rejected rows by reason over time, the newest ones with small pictures, PSNR of checked pictures.
Does not cover: why a row is rejected (the message of the row says it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from daskt2i.dashboard.figures import frame
from daskt2i.dashboard.figures.frame import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, YELLOW, Figure, Plotted, shown
from daskt2i.dashboard.state.encode import PSNR_MEANING
from daskt2i.formatting import many

if TYPE_CHECKING:
    from daskt2i.dashboard.run_state import RunState

_COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, YELLOW)
_DASHES = ("solid", "dashed", "dotted")
"""More than seven reasons: the colours come again, with other lines."""

_MOST_REASONS = 14


class Reasons(Plotted):
    """Rejected rows so far, a line for each reason."""

    def __init__(self) -> None:
        from bokeh.models import ColumnDataSource

        self.source = ColumnDataSource({"x": [], "y": [], "colour": [], "dash": [], "reason": []})
        tips = [("reason", "@reason")]
        super().__init__(frame.plot("", "time since the start, s", "rows rejected", tips, height=230))
        look = {"line_color": "colour", "line_dash": "dash", "line_width": 2.5}
        self.plot.multi_line("x", "y", source=self.source, **look)
        self.plot.y_range.start = self.plot.x_range.start = 0

    def update(self, state: RunState) -> None:
        total = sum(state.rejected.values())
        points = list(state.rejected_series)
        if not state.rows:
            self.hide("No encode has run yet. Rows that cannot be used are counted here.")
            return
        if not total:
            self.hide(
                "No row was rejected" + " so far" * (not state.finished) + ": every image could be read and encoded."
            )
            return
        reasons = sorted(state.rejected, key=lambda one: (-state.rejected[one], one))[:_MOST_REASONS]
        times = np.array([when for when, _ in points], dtype=float)
        x, unit = frame.since(times, state.encode_begun or (times[0] if len(times) else 0.0))
        frame.label(self.plot.xaxis, f"time since the start, {unit}")
        looks = [(_COLOURS[i % 7], _DASHES[i // 7 % 3]) for i in range(len(reasons))]
        data = {
            "x": [x.tolist() for _ in reasons],
            "y": [[counts.get(reason, 0) for _, counts in points] for reason in reasons],
            "colour": [colour for colour, _ in looks],
            "dash": [dash for _, dash in looks],
            "reason": reasons,
        }
        frame.send(self.source, data)
        words = [
            (colour, f"{shown(r, 40)} {state.rejected[r]:,}") for r, (colour, _) in zip(reasons, looks, strict=True)
        ]
        share = f" ({frame.percent(total / state.rows_done, 2)})" if state.rows_done else ""
        where = '<p class="dim">manifest.parquet of the run folder lists all of them, with the names of files.</p>'
        self.show(f"Rejected rows: {total:,} of {state.rows_done:,}{share}", frame.key(words) + where)


class Newest(Figure):
    """The newest rejected rows, each with its reason, its caption and a small picture if it can be read."""

    def __init__(self) -> None:
        self.root = frame.text()

    def update(self, state: RunState) -> None:
        if not state.newest_rejected:
            frame.say(
                self.root, frame.empty("The newest rejected rows are shown here with reason, caption and picture.")
            )
            return
        found = "".join(_thumb(*one) for one in reversed(state.newest_rejected))
        title = f"<h3>The newest {many(len(state.newest_rejected), 'rejected row')}</h3>"
        frame.say(self.root, f'{title}<div class="thumbs">{found}</div>')


def _thumb(row: int, reason: str, caption: str, thumbnail: str, detail: str, name: str = "") -> str:
    address = frame.picture_address(thumbnail)
    picture = f'<img src="{address}" alt="">' if address else '<span class="none">no picture</span>'
    words = f"<b>{shown(reason, 40)}</b> row {row:,}"
    said = "".join(f'<br><span class="dim">{shown(one, 90)}</span>' for one in (name, detail, caption) if one)
    return f'<div class="thumb">{picture}{words}{said}</div>'


class Psnr(Plotted):
    """PSNR of pictures that were decoded again, as a histogram."""

    def __init__(self) -> None:
        from bokeh.models import ColumnDataSource, Span

        self.source = ColumnDataSource({"left": [], "right": [], "top": []})
        tips = [("dB", "@left to @right"), ("pictures", "@top{0,0}")]
        super().__init__(frame.plot("", "PSNR, dB", "pictures", tips, height=200))
        bars = {"left": "left", "right": "right", "top": "top", "bottom": 0, "fill_color": BLUE}
        self.plot.quad(**bars, line_color=GREY, line_width=0.5, source=self.source)
        self.limit = Span(dimension="height", line_color=RED, line_dash="dashed", line_width=2, visible=False)
        self.plot.add_layout(self.limit)
        self.plot.y_range.start = 0

    def update(self, state: RunState) -> None:
        counts, edges = state.psnr_counts, state.psnr_edges
        used = [i for i, count in enumerate(counts) if count]
        if not used:
            why = "No picture was checked yet. PSNR is measured on a few rows of each chunk, if the encoder can decode."
            self.hide(why)
            return
        # The limit stays in the picture: how far away it is matters most.
        first = min(used[0], max(0, int(np.searchsorted(edges, state.min_psnr)) - 1)) if state.min_psnr else used[0]
        part = slice(first, used[-1] + 1)
        data = {"left": edges[:-1][part], "right": edges[1:][part], "top": counts[part]}
        frame.send(self.source, {name: list(column) for name, column in data.items()})
        if state.min_psnr and self.limit.location != state.min_psnr:
            self.limit.location, self.limit.visible = state.min_psnr, True
        lowest = "" if state.psnr_lowest is None else f", the lowest {state.psnr_lowest:.1f} dB"
        limit = f" The limit (dashed line) is {state.min_psnr:.1f} dB." if state.min_psnr else ""
        meaning = f'<p class="dim">{shown(PSNR_MEANING, 400)}{limit}</p>'
        self.show(f"PSNR of {sum(counts):,} checked pictures{lowest}", meaning)
