"""Progress of every stage for a person who watches a terminal or reads a log.

Covers: which view shows which stage, counts that are told now and then, lines and warnings.
Does not cover: the bars of encoding and training (`encode_progress`, `train_progress`), results.
"""

from __future__ import annotations

from time import monotonic

from rich.console import Console
from rich.text import Text

from daskt2i.display.encode_progress import PLAIN_SECONDS, EncodeProgress
from daskt2i.display.train_progress import TrainProgress
from daskt2i.events import Activity, DashboardReady, Event, Listener, Note, Progress, StageEnded, StageStarted


def progress_for(console: Console) -> Listener:
    """What shows progress here."""
    return TerminalProgress(console)


class TerminalProgress:
    """A listener for all stages: bars on a terminal, plain lines elsewhere.

    Args:
        console: where to write; standard error, so that standard output holds results alone.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: EncodeProgress | TrainProgress | None = None
        self._counted: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._open(event)
        elif isinstance(event, StageEnded):
            self._close()
        elif isinstance(event, Progress):
            self._count(event)
        elif isinstance(event, Activity):
            self._say(event.text)
        elif isinstance(event, DashboardReady):
            self._say(f"dashboard {event.link}")
        elif self._bar is not None:
            self._bar(event)
        elif isinstance(event, Note):
            self._say(event.text, "yellow")

    def _open(self, event: StageStarted) -> None:
        self._close()
        if event.stage == "encode":
            self._bar = EncodeProgress(self._console, event.total)
        else:
            self._bar = TrainProgress(self._console, event.total, event.batch)
        self._bar.__enter__()

    def _close(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.__exit__()

    def _count(self, event: Progress) -> None:
        """Every few seconds a line; the first one not at once, for most counts are over by then."""
        now = monotonic()
        if now - self._counted.setdefault(event.what, now) >= PLAIN_SECONDS:
            self._counted[event.what] = now
            self._say(f"{event.what}: {event.done:,}/{event.total:,}")
        if event.done >= event.total:
            del self._counted[event.what]  # the next count of that name begins anew

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)
