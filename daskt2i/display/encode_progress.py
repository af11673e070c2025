"""Progress of encoding: a bar on a terminal, plain lines elsewhere.

Covers: the events of `encode`, and a failed chunk as one line.
Does not cover: the plan and the totals (`encode`), which view shows which stage (`progress`).
"""

from __future__ import annotations

from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from daskt2i.errors import sentence
from daskt2i.events import ChunkDone, ChunkFailed, Event, Note, WorkersReady
from daskt2i.formatting import duration, workers_words

PLAIN_SECONDS = 5.0
"""Seconds between two progress lines where there is no terminal."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.fields.get('rate', 0.0):.1f} images/s", style="green")


class EncodeProgress:
    """A listener for `encode`: a bar on a terminal, plain lines elsewhere.

    Args:
        console: where to write; standard error, so that standard output holds results alone.
        rows: rows of the run.
    """

    def __init__(self, console: Console, rows: int) -> None:
        self._console, self._rows = console, rows
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} rows"),
            _Rate(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("encoding", total=rows, start=False)
        self._begun = self._told = monotonic()
        self._before = self._now = 0

    def __enter__(self) -> EncodeProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, WorkersReady):
            info = event.executor_info
            before = f", {event.chunks_done:,} chunks done before" * bool(event.chunks_done)
            self._say(workers_words(info.workers, info.threads) + before)
            if info.dashboard:
                self._say(f"dashboard {info.dashboard}")
            self._before = event.rows_done
            self._begun = self._told = monotonic()
            self._bar.start_task(self._task)
            self._bar.update(self._task, completed=self._before)
        elif isinstance(event, ChunkDone):
            self._now += event.receipt.stop - event.receipt.start
            self._advance()
        elif isinstance(event, ChunkFailed):
            again = "" if event.final else "; it is tried again after the others"
            self._say(f"chunk {event.chunk} failed: {sentence(event.error)}{again}", "yellow")
        elif isinstance(event, Note):
            self._say(event.text, "yellow")

    def _advance(self) -> None:
        now = monotonic()
        rate = self._now / max(1e-9, now - self._begun)
        done = self._before + self._now
        self._bar.update(self._task, completed=done, rate=rate)
        if not self._console.is_terminal and (now - self._told >= PLAIN_SECONDS or done >= self._rows):
            self._told = now
            left = (self._rows - done) / rate if rate else 0.0
            self._say(f"{done:,}/{self._rows:,} rows, {rate:.1f} images/s, {duration(left)} left")

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)
