"""Progress of every stage on a terminal or in a log.

Covers: a bar on a terminal, plain lines elsewhere; choosing the progress class for a stage.
Does not cover: the meaning of the events of a stage (`encode_progress`, `train_progress`), notebooks (`notebook`),
choosing between terminal, log and notebook (`listener`), results.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from daskt2i.display.encode_progress import EncodeProgress
from daskt2i.display.stage_progress import CountProgress, Line, StageProgress, Tone
from daskt2i.display.train_progress import TrainProgress
from daskt2i.events import Activity, DashboardReady, Event, Note, StageEnded, StageStarted, WorkersReady
from daskt2i.events import Progress as Counted

PLAIN_SECONDS, LATER_SECONDS = 5.0, 30.0
"""Seconds between two plain lines: in the first minute, and after it."""

STYLES = {Tone.PLAIN: "", Tone.NOTE: "yellow", Tone.FAILURE: "yellow"}


class TerminalProgress:
    """A listener for all stages: bars on a terminal, plain lines elsewhere.

    Args:
        console: where to write.
        plain: whether to write plain lines, without a bar and colours, on a terminal too.
        clock: returns the seconds of a monotonic clock.
    """

    def __init__(self, console: Console, plain: bool = False, clock: Callable[[], float] = monotonic) -> None:
        self._console, self._clock = console, clock
        # With FORCE_COLOR, rich takes any file for a terminal. A bar would fill the file with escape codes.
        self._live = console.is_terminal and console.file.isatty() and not plain
        self._stage: StageProgress | None = None
        self._bar: _Bar | None = None
        self._counts: dict[str, CountProgress] = {}
        self._paces: dict[str, _Pace] = {}
        self._dashboard = ""

    def __call__(self, event: Event) -> None:
        now = self._clock()
        if isinstance(event, StageStarted):
            self._open(event, now)
        elif isinstance(event, StageEnded):
            self._close()
        elif isinstance(event, Counted):
            self._count(event, now)
        elif isinstance(event, Activity):
            self._say(Line(event.text))
        elif isinstance(event, DashboardReady):
            self._link(event.link)
        elif self._stage is not None:
            self._advance(self._stage, event, now)
        elif isinstance(event, Note):
            self._say(Line(event.text, Tone.NOTE))

    def _open(self, event: StageStarted, now: float) -> None:
        self._close()
        self._stage = stage_progress(event, now)
        if self._live:
            self._bar = _Bar(self._console, self._stage, self._clock)

    def _close(self) -> None:
        bar, self._bar, self._stage = self._bar, None, None
        self._paces.pop("", None)
        if bar is not None:
            bar.close()

    def _advance(self, stage: StageProgress, event: Event, now: float) -> None:
        done = stage.done
        for line in stage.hear(event, now):
            self._say(line)
        if isinstance(event, WorkersReady):
            self._link(event.executor_info.dashboard)
        if self._bar is not None:
            self._bar.update(stage)
        elif not stage.running or "" not in self._paces:
            self._paces[""] = _Pace(now)  # starts now, so that the wait for workers and models does not count
        elif stage.done != done and (self._paces[""].due(now) or stage.done >= stage.total):
            self._say(Line(stage.line(now)))

    def _link(self, address: str) -> None:
        """Write the address of the dashboard once: several stages work on the same cluster."""
        if address and address != self._dashboard:
            self._dashboard = address
            self._say(Line(f"dashboard {address}"))

    def _count(self, event: Counted, now: float) -> None:
        """Write no line at first, because most counts end within seconds."""
        name = event.what
        count = self._counts.setdefault(name, CountProgress(name, event.total, now))
        count.hear(event, now)
        if self._paces.setdefault(name, _Pace(now)).due(now):
            self._say(Line(count.line(now)))
        if event.done >= event.total:
            del self._counts[name], self._paces[name]  # the next count of this name starts at 0

    def _say(self, line: Line) -> None:
        style = STYLES[line.tone] if self._live else ""
        self._console.print(Text(line.text, style=style), soft_wrap=True, highlight=False)


def stage_progress(event: StageStarted, now: float) -> StageProgress:
    """Make the progress object for a stage that started."""
    if event.stage == "encode":
        return EncodeProgress(event.total, now)
    return TrainProgress(event.total, now, event.batch)


class _Pace:
    """Says when the next plain line is due."""

    def __init__(self, now: float) -> None:
        self._begun = self._told = now

    def due(self, now: float) -> bool:
        pause = PLAIN_SECONDS if now - self._begun < 60 else LATER_SECONDS
        if now - self._told < pause:
            return False
        self._told = now
        return True


class _Bar:
    """A live bar. It erases itself at the end."""

    def __init__(self, console: Console, stage: StageProgress, clock: Callable[[], float]) -> None:
        def words(of: Callable[[float], str], style: str = "none") -> _Words:
            return _Words(lambda: Text(of(clock()), style=style))

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            words(lambda now: stage.count()),
            words(stage.figures, "green"),
            words(lambda now: _time(stage, now), "progress.remaining"),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(stage.what, total=stage.total, start=False)
        self._bar.start()

    def update(self, stage: StageProgress) -> None:
        if stage.running:
            self._bar.start_task(self._task)
        self._bar.update(self._task, completed=stage.done)

    def close(self) -> None:
        self._bar.stop()


class _Words(ProgressColumn):
    """A column that computes its text each time it is drawn."""

    def __init__(self, text: Callable[[], Text]) -> None:
        super().__init__(Column(no_wrap=True))
        self._text = text

    def render(self, task: Task) -> Text:
        return self._text()


def _time(stage: StageProgress, now: float) -> str:
    """`"02:05"` is left, or `"waits 00:30"`; "" if it is unknown."""
    if (waited := stage.seconds_waited(now)) is not None:
        return f"waits {_watch(waited)}"
    return _watch(stage.seconds_left(now) if stage.running else None)


def _watch(seconds: float | None) -> str:
    """Time as `"02:05"` or `"1:02:05"`; "" if it is unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes:02d}:{rest:02d}"
