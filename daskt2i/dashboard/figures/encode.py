"""Figures of an encode: how far it is, how fast, which chunks are written, where the time of the workers goes.

Covers: `Headline`, which every page shows on top, for a training too; `Rate`, `Chunks`, `Parts`, `Notes`.
Does not cover: single workers (`workers`), rejected rows (`rejected`), curves of a training (`training`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from daskt2i.dashboard.figures import frame
from daskt2i.dashboard.figures.frame import BLUE, ORANGE, RED, SKY, Figure, Plotted, shown
from daskt2i.dashboard.state.names import BESIDE, ENCODE_PARTS, HELDOUT_LOSS, LAST_LOSS, MEAN_SPEED, RECENT_SPEED
from daskt2i.formatting import duration, many, size

if TYPE_CHECKING:
    from daskt2i.dashboard.run_state import RunState

_SILENT = 60.0
"""Seconds without a message of a process that would tell every ten seconds that it is there."""

_WAITING = "#8a949e55"
_STATES = (
    ("written", BLUE),
    ("running", SKY),
    ("again", ORANGE),
    ("failed", RED),
    ("waiting", _WAITING),
)
_WORDS = {"running": "running or next", "again": "failed, tried again"}
_LETTERS = {"r": SKY, "a": ORANGE, "f": RED}

_NO_ENCODE = frame.empty(
    "No encode has run yet. When <code>encode</code> runs, its rows, chunks and workers are shown here."
)


class Headline(Figure):
    """The run, its stage, and the figures that matter most.

    Args:
        whole: show the figures of all stages, as a report does. A page shows those of the stage that runs.
    """

    def __init__(self, whole: bool = False) -> None:
        self.root, self._whole = frame.text(), whole

    def update(self, state: RunState) -> None:
        line = [f"<b>{shown(state.label or state.run)}</b>", shown(_stage_words(state))]
        if state.waiting or state.activity:
            line.append(f'<span class="dim">{shown(state.waiting or state.activity)}</span>')
        if state.error:
            line.append(f'<span class="bad">{shown(state.error, 300)}</span>')
        trains, whole = state.stage in ("train", "train-vae"), self._whole or state.finished
        groups = [_encode(state)] if state.rows and (whole or not trains) else []
        groups += [_training(state)] if state.training and (whole or trains) else []
        counts = [(f"{done:,} of {total:,}", shown(what)) for what, (done, total) in list(state.counts.items())[-2:]]
        groups = [*groups[:-1], groups[-1] + counts] if groups else [counts]
        frame.say(self.root, f"<p>{' &nbsp; '.join(line)}</p>{''.join(map(frame.cards, groups))}")


class Rate(Plotted):
    """Rows per second since the encode began."""

    def __init__(self) -> None:
        from bokeh.models import ColumnDataSource

        self.source = ColumnDataSource({"x": [], "rate": []})
        super().__init__(frame.plot("", "time since the start, s", "rows/s", [("rows/s", "@rate{0.0}")]))
        self.plot.varea("x", 0, "rate", source=self.source, color=BLUE, alpha=0.2)
        self.plot.line("x", "rate", source=self.source, color=BLUE, line_width=2)
        self.plot.y_range.start = self.plot.x_range.start = 0

    def update(self, state: RunState) -> None:
        points = np.array(list(state.rates), dtype=float).reshape(-1, 2)
        if not len(points):
            self.hide("Rows per second are shown from the second chunk on." if state.chunks else "")
            return
        x, unit = frame.since(points[:, 0], state.encode_begun or points[0, 0])
        frame.grow(self.source, {"x": x, "rate": points[:, 1]})
        frame.label(self.plot.xaxis, f"time since the start, {unit}")
        self.show("Rows per second")


class Chunks(Plotted):
    """A strip of all chunks. A cell stands for one chunk, or for a range of them where there are more than 1,000."""

    def __init__(self) -> None:
        from bokeh.models import ColumnDataSource, Range1d

        self.source = ColumnDataSource(_cells("", 0))
        tips = [("chunks", "@first to @last"), ("written", "@written")]
        ranges = {"x_range": Range1d(0, 1), "y_range": Range1d(0, 104)}
        super().__init__(frame.plot("", "chunk", "share written, %", tips, height=150, **ranges))
        cells = {"left": "left", "right": "right", "bottom": 0, "line_color": None, "source": self.source}
        self.plot.quad(top=100, fill_color=_WAITING, **cells)
        self.plot.quad(top="top", fill_color="colour", **cells)
        self.plot.grid.grid_line_color = None
        self.plot.xaxis.ticker.min_interval = 1  # no chunk 0.2 where there are few
        self._strip, self._chunks = "", 0

    def update(self, state: RunState) -> None:
        strip, chunks, states = state.strip, state.chunks, state.chunk_states
        if not chunks:
            self.hide(_NO_ENCODE)
            return
        if (strip, chunks) != (self._strip, self._chunks):
            self._send(strip, chunks)
        legend = frame.key((c, f"{_WORDS.get(name, name)} {states[name]:,}") for name, c in _STATES if states[name])
        each = f"; one bar stands for {chunks / len(strip):,.0f} chunks" if chunks > len(strip) > 0 else ""
        count = f"<p><b>{states['written']:,} of {chunks:,} written</b>{each}</p>"
        self.show("Chunks", count + legend)

    def _send(self, strip: str, chunks: int) -> None:
        """Send the bars that changed: of a thousand, few change within a second."""
        changed = [i for i, (a, b) in enumerate(zip(self._strip, strip, strict=False)) if a != b]
        if (chunks, len(strip)) == (self._chunks, len(self._strip)) and len(changed) < 100:
            cells = [(i, _cell(strip[i])) for i in changed]
            names = ("top", "colour", "written")
            self.source.patch({name: [(i, cell[place]) for i, cell in cells] for place, name in enumerate(names)})
        else:
            self.source.data = _cells(strip, chunks)
            self.plot.x_range.end = chunks
        self._strip, self._chunks = strip, chunks


def _cells(strip: str, chunks: int) -> dict[str, Any]:
    """The bars of a strip."""
    edges = np.linspace(0, chunks, len(strip) + 1)
    firsts = np.ceil(edges[:-1]).astype(int)
    lasts = np.maximum(firsts, np.ceil(edges[1:]).astype(int) - 1)
    tops, colours, written = zip(*map(_cell, strip), strict=True) if strip else ((), (), ())
    return {
        "left": edges[:-1],
        "right": edges[1:],
        "top": list(tops),
        "colour": list(colours),
        "first": firsts,
        "last": lasts,
        "written": list(written),
    }


def _cell(letter: str) -> tuple[int, str, str]:
    """Height, colour and words of a bar."""
    share = 100 if letter == "W" else 10 * int(letter) if letter.isdigit() else 0
    words = {"r": "one runs", "a": "one failed, is tried again", "f": "one failed"}.get(letter, f"{share} %")
    return 100 if letter in _LETTERS else share, _LETTERS.get(letter, BLUE), words


class Parts(Plotted):
    """The share of the workers' time that each part takes."""

    def __init__(self) -> None:
        super().__init__(frame.bars("share of the time of all workers, %"))
        self.source = self.plot.renderers[0].data_source

    def update(self, state: RunState) -> None:
        parts = {name: seconds for name, seconds in state.parts.items() if seconds > 0}
        total = sum(parts.get(name, 0.0) for name in ENCODE_PARTS)
        if not total:
            self.hide("Where the time goes is shown from the first chunk on." if state.chunks else "")
            return
        rows = [(words, parts[name], BLUE) for name, words in ENCODE_PARTS.items() if name in parts]
        rows += [(f"{words} (threads beside)", parts[name], SKY) for name, words in BESIDE.items() if name in parts]
        labelled = [
            (words, 100 * seconds / total, colour, f"{100 * seconds / total:.1f} %, {duration(seconds)}")
            for words, seconds, colour in rows
        ]
        frame.send_bars(self.plot, self.source, labelled)
        self.show("Where the time goes")


class Notes(Figure):
    """The newest sentences for the user."""

    def __init__(self) -> None:
        self.root = frame.text()

    def update(self, state: RunState) -> None:
        if not state.notes:
            frame.say(self.root, frame.empty("No notes yet. Warnings and decisions of the run are shown here."))
            return
        rows = [(_clock(when), shown(said, 300)) for when, said in reversed(state.notes)]
        frame.say(self.root, "<h3>Notes, the newest first</h3>" + frame.table(("time (UTC)", ""), rows[:20], wide=(1,)))


def _clock(when: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(when))


def _stage_words(state: RunState) -> str:
    if not state.stage:
        return "has not begun"
    how = state.stages.get(state.stage, "running")
    if how == "lost" and state.lost is not None:
        return f"the process that drives {state.stage} is gone since {_clock(state.lost)} UTC"
    if (silent := state.silent(time.time())) > _SILENT:
        return f"{state.stage} runs; the process that drives it has told nothing for {duration(silent)}"
    return {
        "running": f"{state.stage} runs",
        "done": f"{state.stage} is done",
        "stopped": f"{state.stage} was stopped",
    }.get(how, f"{state.stage} failed")


def _encode(state: RunState) -> list[tuple[str, str]]:
    if not state.rows:
        return []
    rejected = sum(state.rejected.values())
    pairs = [(f"{state.rows_done:,}", f"of {state.rows:,} rows ({frame.percent(state.rows_done / state.rows, 1)})")]
    if state.encode_begun and state.encode_ended:
        took, rows = state.encode_ended - state.encode_begun, state.rows_done - state.rows_before
        if rows > 0 and took > 0:
            pairs.append((f"{rows / took:,.1f}", "rows/s, the start included"))
        pairs.append((duration(took), "this encode took"))
    elif state.rate is not None:
        pairs.append((f"{state.rate:,.1f}", "rows/s"))
        if state.eta is not None:
            left, low, high = state.eta
            pairs.append((duration(left), f"left ({duration(low)} to {duration(high)})"))
    share = f" ({frame.percent(rejected / state.rows_done, 1)})" if state.rows_done else ""
    pairs.append((f"{rejected:,}", f"rows rejected{share}"))
    if state.bytes:
        pairs.append((size(state.bytes), "written"))
    if state.worker_count:
        pairs.append(
            (
                f"{state.worker_count:,}",
                f"worker{'s' * (state.worker_count != 1)}, {many(state.threads, 'thread')} each",
            )
        )
    if state.engine or state.precision:
        pairs.append((shown(state.engine or "torch", 24), f"{shown(state.device, 24)}, {shown(state.precision, 24)}"))
    return pairs


def _training(state: RunState) -> list[tuple[str, str]]:
    runs = state.stages.get(state.training) == "running"
    pairs = [(f"{state.step:,}", f"of {state.steps:,} steps")]
    if state.loss.last:
        pairs.append((f"{state.loss.last[1]:.4f}", LAST_LOSS))
    if state.heldout.last:
        pairs.append((f"{state.heldout.last[1]:.4f}", f"{HELDOUT_LOSS}, step {state.heldout.last[0]:,.0f}"))
    if state.speed.last and runs:
        pairs.append((f"{state.speed.last[1]:,.1f}", RECENT_SPEED))
    if state.mean_speed:
        pairs.append((f"{state.mean_speed:,.1f}", MEAN_SPEED))
    if state.steps_left_seconds is not None:
        pairs.append((duration(state.steps_left_seconds), "left"))
    elif state.train_begun and state.train_ended:
        pairs.append((duration(state.train_ended - state.train_begun), "this training took"))
    if state.ranks:
        again = f", start {state.attempt}" if state.attempt > 1 else ""
        pairs.append((f"{state.ranks:,}", f"rank{'s' * (state.ranks != 1)}{again}"))
    if state.checkpoint is not None:
        pairs.append((f"{state.checkpoint:,}", "step of the newest checkpoint"))
    return pairs
