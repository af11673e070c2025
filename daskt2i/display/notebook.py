"""Progress in a notebook: each stage has one line, which updates in place and ends as a sentence.

Covers: the line as HTML and as plain text, the notes and failed chunks below it, the times of its updates.
Does not cover: the meaning of the events of a stage (`encode_progress`, `train_progress`), errors (`notebooks`).

The HTML has no script and makes no request. It uses the colours of JupyterLab or VS Code. Its fallback colours are
readable on white and on black. A saved notebook contains only the last state of a line.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from daskt2i.display.encode_progress import AGAIN
from daskt2i.display.progress import stage_progress
from daskt2i.display.stage_progress import CountProgress, Line, StageProgress, Tone
from daskt2i.events import (
    Activity,
    ChunkDone,
    DashboardReady,
    Event,
    Note,
    Progress,
    StageEnded,
    StageStarted,
    WorkersReady,
)
from daskt2i.notebooks import html_text, running_shell, without_codes

PAUSE = 0.25
"""Seconds between two updates of a line."""

COUNT_PAUSE = 0.5
"""Seconds before a count is shown for the first time. Most counts end before that."""

FEW = 3
"""Notes that are shown. If there are more, all of them are folded."""

MOST = 50
"""Notes of each kind that are kept. The rest is only counted, because a notebook is not a log."""

QUIET = "var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #7a7a7a))"
RED = "var(--jp-error-color1, var(--vscode-errorForeground, #e04848))"
YELLOW = "var(--jp-warn-color0, var(--vscode-editorWarning-foreground, #b07a00))"
BLUE = "var(--jp-brand-color1, var(--vscode-progressBar-background, #2a8be0))"
FONT = (
    "font:var(--jp-ui-font-size1, 13px)/1.6 var(--jp-ui-font-family, var(--vscode-font-family, system-ui, sans-serif))"
)
_STRIPE = "height:4px;border-radius:2px"


class NotebookProgress:
    """A listener for all stages in a Jupyter kernel. It needs IPython.

    Another thread than that of the cell may call it. A line appears in the cell in which its stage started.

    Args:
        clock: returns the seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._stage: _Block | None = None
        self._loose: dict[str, _Block] = {}
        self._dashboard = ""
        self._watched = False

    def __call__(self, event: Event) -> None:
        now = self._clock()
        if isinstance(event, StageStarted):
            self._end_loose(now)
            self._end_stage(now, None)
            self._stage = _Block(stage_progress(event, now), self._clock, dashboard=self._dashboard)
            self._dashboard = ""
            self._stage.changed()
        elif isinstance(event, StageEnded):
            self._end_stage(now, event.error)
        elif isinstance(event, DashboardReady):
            self._dashboard = event.link
        elif isinstance(event, Progress):
            self._count(event, now)
        elif isinstance(event, Activity):
            self._outside().status(event.text)
        elif self._stage is not None:
            self._stage.hear(event, now)
        elif isinstance(event, Note):
            self._outside().add(Line(event.text, Tone.NOTE))

    def _end_stage(self, now: float, error: BaseException | None) -> None:
        stage, self._stage = self._stage, None
        if stage is not None:
            stage.end(now, error)

    def _count(self, event: Progress, now: float) -> None:
        block = self._loose.get(event.what)
        if block is None:
            self._end_with_cell()
            block = _Block(CountProgress(event.what, event.total, now), self._clock, wait=COUNT_PAUSE)
            self._loose[event.what] = block
        block.hear(event, now)
        if event.done >= event.total:
            del self._loose[event.what]
            block.end(now, None)

    def _outside(self) -> _Block:
        """The block for lines that belong to no stage."""
        if self._stage is not None:
            return self._stage
        if "" not in self._loose:
            self._end_with_cell()
            self._loose[""] = _Block(None, self._clock)
        return self._loose[""]

    def _end_loose(self, now: float) -> None:
        loose, self._loose = self._loose, {}
        for block in loose.values():
            block.end(now, None)

    def _end_with_cell(self) -> None:
        """End unfinished counts with their cell, because no event reports an interrupted count."""
        shell = running_shell()
        if shell is None or self._watched or threading.current_thread() is not threading.main_thread():
            return
        self._watched = True

        def end(result: Any) -> None:
            shell.events.unregister("post_run_cell", end)
            self._watched = False
            self._end_loose(self._clock())

        shell.events.register("post_run_cell", end)


@dataclass(slots=True)
class _Notes:
    """The lines below a progress line: failed chunks, and other notes."""

    failures: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    dropped: int = 0

    def add(self, line: Line) -> None:
        if line.chunk is not None:
            self.failures[line.chunk] = line.text
        elif len(self.notes) < MOST:
            self.notes.append(line.text)
        else:
            self.dropped += 1

    def repaired(self, chunk: int) -> None:
        """Turn the failure of a chunk into a note, because a later try encoded it."""
        if (text := self.failures.pop(chunk, None)) is not None:
            self.add(Line(f"{text.removesuffix(AGAIN)}; a later try encoded it"))

    def lines(self) -> list[tuple[str, str]]:
        """Colour and text of each line, failures first."""
        failures = [(RED, text) for _, text in sorted(self.failures.items())]
        more = [(RED, f"and {len(failures) - MOST:,} more failed chunks")] if len(failures) > MOST else []
        dropped = [(YELLOW, f"and {self.dropped:,} more notes")] if self.dropped else []
        return [*failures[:MOST], *more, *((YELLOW, text) for text in self.notes), *dropped]

    def title(self) -> str:
        failed, notes = len(self.failures), len(self.notes) + self.dropped
        parts = [f"{failed:,} failed chunk{'s' * (failed != 1)}"] * bool(failed)
        return ", ".join(parts + [f"{notes:,} note{'s' * (notes != 1)}"] * bool(notes))


class _Block:
    """One output of a cell: a progress line, and notes below it.

    Args:
        progress: the progress of the stage; None for lines that belong to no stage.
        wait: seconds before the block appears.
        dashboard: link to Dask's dashboard, or "".
    """

    def __init__(
        self, progress: StageProgress | None, clock: Callable[[], float], wait: float = 0.0, dashboard: str = ""
    ) -> None:
        self._progress, self._clock, self._dashboard = progress, clock, dashboard
        self._status, self._ended, self._colour = "", "", QUIET
        self._notes = _Notes()
        self._handle: Any = None
        self._due = clock() + wait
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()  # the timer draws in its own thread

    def hear(self, event: Event, now: float) -> None:
        assert self._progress is not None
        with self._lock:
            if isinstance(event, WorkersReady):
                self._dashboard = event.executor_info.dashboard or self._dashboard
            elif isinstance(event, ChunkDone):
                self._notes.repaired(event.receipt.chunk)
            for line in self._progress.hear(event, now):
                if line.tone is Tone.PLAIN:
                    self._status = line.text
                else:
                    self._notes.add(line)
            self.changed()

    def status(self, text: str) -> None:
        """Show the current activity."""
        with self._lock:
            self._status = text
            self.changed()

    def add(self, line: Line) -> None:
        with self._lock:
            self._notes.add(line)
            self.changed()

    def end(self, now: float, error: BaseException | None) -> None:
        """Draw the block for the last time, with a sentence instead of the bar."""
        with self._lock:
            if self._progress is not None:
                self._ended = self._progress.ended(now, error)
            self._status = ""  # what went on is over
            if error is not None:
                self._colour = YELLOW if isinstance(error, KeyboardInterrupt) else RED
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._handle is not None or (now >= self._due and self._text(now)):
                self._draw()

    def changed(self) -> None:
        """Draw now or after the pause. The timer also shows the last event, after which no other event may follow."""
        with self._lock:
            wait = self._due - self._clock()
            if wait <= 0:
                self._draw()
            elif self._timer is None:
                # From the context the kernel knows to which cell the output belongs.
                context = contextvars.copy_context()
                self._timer = threading.Timer(wait, context.run, (self._draw_later,))
                self._timer.daemon = True
                self._timer.start()

    def _draw_later(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer = None
                self._draw()

    def _draw(self) -> None:
        now = self._clock()
        self._due = now + PAUSE
        bundle = {"text/html": self._html(now), "text/plain": self._text(now)}
        with suppress(Exception):  # the stage must continue if the kernel cannot show the line
            if self._handle is None:
                from IPython.display import display

                self._handle = display(bundle, raw=True, display_id=True)
            else:
                self._handle.update(bundle, raw=True)

    def _words(self, now: float) -> list[str]:
        """The words after the bar: count, rate or activity, time left."""
        assert self._progress is not None
        found = [f"{self._progress.done:,} of {self._progress.total:,} {self._progress.unit}".rstrip()]
        figures = self._progress.figures(now)
        time = self._progress.time(now) if self._progress.running else ""
        return [*found, figures or self._status or "starting" * (not self._progress.running), time]

    def _text(self, now: float) -> str:
        if self._ended or self._progress is None:
            line = self._ended or self._status
        else:
            line = f"{self._progress.what}: {', '.join(word for word in self._words(now) if word)}"
        return without_codes("\n".join(part for part in (line, *(text for _, text in self._notes.lines())) if part))

    def _html(self, now: float) -> str:
        if self._ended or self._progress is None:
            line = _div(self._ended or self._status, self._colour)
        else:
            line = self._bar(self._progress, now)
        return f'<div style="{FONT}">{line}{_notes_html(self._notes, bool(self._ended))}</div>'

    def _bar(self, progress: StageProgress, now: float) -> str:
        percent = 100 * progress.done / progress.total if progress.total else 0.0
        bar = (
            f'<span role="progressbar" aria-valuenow="{percent:.0f}" aria-valuemin="0" aria-valuemax="100" '
            f'style="flex:0 0 12em;{_STRIPE};background:rgba(128,128,128,.35)">'
            f'<span style="display:block;{_STRIPE};width:{percent:.1f}%;background:{BLUE}"></span></span>'
        )
        words = " · ".join(html_text(word) for word in self._words(now) if word)
        link = _link(self._dashboard)
        return (
            '<div style="display:flex;flex-wrap:wrap;align-items:center;column-gap:.8em">'
            f"<span>{html_text(progress.what)}</span>{bar}"
            f'<span style="color:{QUIET};font-variant-numeric:tabular-nums">{words}{link}</span></div>'
        )


def _div(text: str, colour: str) -> str:
    return f'<div style="color:{colour}">{html_text(text)}</div>' if text else ""


def _link(address: str) -> str:
    """A link to the dashboard. It may be a path on the server that shows the notebook."""
    if not address.startswith(("http://", "https://", "/")):
        return ""
    return f' · <a href="{html_text(address)}" target="_blank" rel="noopener noreferrer">dashboard</a>'


def _notes_html(notes: _Notes, ended: bool) -> str:
    """The notes as HTML. They are folded only after the stage, because each update would close what a reader opened."""
    lines = notes.lines()
    if ended and len(lines) > FEW:
        inside = "".join(_div(text, colour) for colour, text in lines)
        colour = RED if notes.failures else YELLOW
        summary = f'<summary style="cursor:pointer;color:{colour}">{html_text(notes.title())}</summary>'
        return f"<details>{summary}{inside}</details>"
    shown = "".join(_div(text, colour) for colour, text in lines[:FEW])
    return shown + (_div(f"and {len(lines) - FEW:,} more, shown at the end", QUIET) if len(lines) > FEW else "")
