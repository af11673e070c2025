"""Figures of the workers of an encode: rate and memory of each, and what it did last.

Covers: plots that stay small with a thousand workers, and a table of those that are worth a look.
Does not cover: the ranks of a training (`training`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from daskt2i.dashboard.figures import frame
from daskt2i.dashboard.figures.frame import BLUE, GREEN, RED, Figure, Plotted, shown
from daskt2i.formatting import many, size

if TYPE_CHECKING:
    from daskt2i.dashboard.run_state import RunState

MOST_ROWS = 30
"""Workers in the table."""

_NUMBERS = ("threads", "rows/s", "memory", "of limit", "spilled", "batch", "chunks", "last seen", "last chunk")

_GIB = 2**30


def _pause(state: RunState) -> float:
    """A thousand workers are drawn every five seconds."""
    return len(state.workers) / 200


class _Ranked(Plotted):
    """One bar for each worker, the highest first. 1,000 bars are a curve."""

    title, unit, colour, tip = "", "", BLUE, ""

    def __init__(self) -> None:
        from bokeh.models import ColumnDataSource

        self.source = ColumnDataSource({name: [] for name in ("x", "y", "limit", "worker", "last")})
        tips = [("worker", "@worker"), (self.unit, self.tip), ("last", "@last")]
        super().__init__(frame.plot("", "worker, the highest first", self.unit, tips, height=180))
        self.plot.vbar("x", top="y", width=0.8, fill_color=self.colour, line_color=None, source=self.source)
        self.plot.xgrid.grid_line_color = None
        self.plot.y_range.start = 0
        self.plot.xaxis.ticker.min_interval = 1

    def value(self, worker: Mapping[str, Any]) -> float:
        """What the bar of a worker shows."""
        raise NotImplementedError

    def pause(self, state: RunState) -> float:
        return _pause(state)

    def update(self, state: RunState) -> None:
        if not state.workers:
            self.hide()
            return
        names, workers = list(state.workers), list(state.workers.values())
        values = np.array([self.value(one) for one in workers])
        limits = np.array([float(one.get("limit") or 0) / _GIB for one in workers])
        order = np.argsort(-values, kind="stable")
        said = [str(workers[i].get("last", "")) if len(order) <= 100 else "" for i in order]
        data = {
            "x": np.arange(1, len(order) + 1),
            "y": values[order],
            "limit": limits[order],
            "worker": [names[i] for i in order],
            "last": [one[: frame.MOST_TEXT] for one in said],
        }
        frame.send(self.source, data)
        self.show(self.title)


class WorkerRates(_Ranked):
    """Rows per second of each worker, of its newest chunk."""

    title, unit, tip = "Rate of each worker", "rows/s", "@y{0.0}"

    def value(self, worker: Mapping[str, Any]) -> float:
        return float(worker.get("rate") or 0.0)


class WorkerMemory(_Ranked):
    """The largest memory of each worker so far, against its limit."""

    title, unit, colour, tip = (
        "Memory of each worker (bars) and its limit (line)",
        "GiB, largest",
        GREEN,
        "@y{0.00}",
    )

    def __init__(self) -> None:
        super().__init__()
        from bokeh.transform import dodge

        edges = {"x0": dodge("x", -0.5), "x1": dodge("x", 0.5), "y0": "limit", "y1": "limit"}
        self.plot.segment(**edges, source=self.source, color=RED, line_width=2)

    def value(self, worker: Mapping[str, Any]) -> float:
        return float(worker.get("memory") or 0.0) / _GIB


class WorkerTable(Figure):
    """The slowest workers first: they decide when the run ends."""

    def __init__(self) -> None:
        self.root = frame.text()

    def pause(self, state: RunState) -> float:
        return _pause(state)

    def update(self, state: RunState) -> None:
        if not state.workers:
            count = f"{many(state.worker_count, 'worker')}: models load. " if state.worker_count else ""
            frame.say(self.root, frame.empty(f"{count}No worker has ended a chunk yet. Each is listed from then on."))
            return
        slowest = sorted(state.workers.items(), key=lambda one: float(one[1].get("rate") or 0.0))
        # A running encode is compared with now, so that a worker that went silent is seen.
        runs = state.stages.get("encode") == "running"
        now = state.now(time.time()) if runs else state.encode_ended or state.updated
        rows = [_row(name, one, now, runs) for name, one in slowest[:MOST_ROWS]]
        more = max(len(slowest), state.workers_seen) - len(rows)
        threads = {one["threads"] for one in state.workers.values() if one.get("threads")}
        differ = len(threads) > 1
        if not differ:
            rows = [[*row[:1], *row[2:]] for row in rows]
        head = (
            "worker",
            *(["threads"] * differ),
            "rows/s",
            "memory",
            "of limit",
            "spilled",
            "batch",
            "engine",
            "chunks",
            "last seen" if runs else "last chunk",
            "last message",
        )
        left = f'<p class="dim">and {more:,} more, which are faster</p>' if more > 0 else ""
        loading = state.worker_count - state.workers_seen
        if state.stages.get("encode") == "running" and loading > 0:
            are = "is" if loading == 1 else "are"
            left += f'<p class="dim">{many(loading, "more worker")} {are} at the first chunk: models load there.</p>'
        title = "<h3>Workers, the slowest first</h3>"
        numbers = [head.index(name) for name in _NUMBERS if name in head]
        frame.say(self.root, title + frame.table(head, rows, numbers=numbers, wide=(len(head) - 1,)) + left)


def _row(name: str, one: Mapping[str, Any], now: float, runs: bool) -> list[str]:
    memory, limit, spilled = one.get("memory"), one.get("limit"), one.get("spilled")
    share = frame.percent(memory / limit) if memory and limit else "–"
    if memory and limit and memory > 0.8 * limit:
        share = f'<span class="bad">{share}</span>'
    return [
        shown(f"{one['name']} ({name})" if one.get("name") not in (None, "", name) else name, 60),
        f"{one['threads']:,}" if one.get("threads") else "–",
        f"{float(one.get('rate') or 0.0):,.1f}",
        size(memory) if memory else "–",
        share,
        "–" if spilled is None else size(spilled),
        shown(one.get("batch", "–"), 12),
        shown(one.get("engine") or "–", 24),
        f"{one.get('chunks', 0):,}",
        _ago(now - float(one["at"]), runs) if one.get("at") else "–",
        shown(one.get("last", "")),
    ]


def _ago(seconds: float, runs: bool) -> str:
    """In steps, so that a table does not change every second. After the encode it is compared with its end."""
    ago, now = ("ago", "now") if runs else ("before the end", "at the end")
    seconds = max(0.0, seconds)
    for most, unit, words in ((60, 10, "s"), (3600, 60, "min")):
        if seconds < most:
            part = int(seconds // unit) * (unit if words == "s" else 1)
            return f"{part} {words} {ago}" if part else now
    return f"{seconds / 3600:.0f} h {ago}"
