"""Progress of a training: a bar on a terminal, plain lines elsewhere.

Covers: the events of ranks as words.
Does not cover: the plan and the results (`train`), which view shows which stage (`progress`).
"""

from __future__ import annotations

from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from daskt2i.events import Event, LaunchEvent, Note
from daskt2i.formatting import duration

PLAIN_SECONDS = 10.0
"""Seconds between two progress lines where there is no terminal."""


class TrainProgress:
    """A listener for training: a bar on a terminal, plain lines elsewhere.

    Args:
        console: where to write; standard error.
        steps, batch: of the whole training.
        what: the word before the bar.
    """

    def __init__(self, console: Console, steps: int, batch: int, what: str = "training") -> None:
        self._console, self._steps, self._batch = console, steps, batch
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[figures]}", style="green"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=steps, start=False, figures="")
        self._last_line = float("-inf")
        self._heldout = ""

    def __enter__(self) -> TrainProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, LaunchEvent):
            self._told_by_launch(event)
        elif isinstance(event, Note):
            self._say(event.text, "yellow")

    def _told_by_launch(self, event: LaunchEvent) -> None:
        kind = event.kind
        if kind in ("note", "failed", "fewer"):
            self._say(str(event["text"]), "yellow")
        elif kind == "started":
            begun = f", from step {event['step']:,} on" if event["step"] else ""
            ranks = event["ranks"]
            self._say(
                f"{ranks} rank{'s' * (ranks != 1)} x {event['threads']} thread{'s' * (event['threads'] != 1)} on "
                f"{event['device']}, {event['precision']}, {event['parameters'] / 1e6:.1f} M parameters{begun}"
            )
            self._bar.start_task(self._task)
            self._bar.update(self._task, completed=event["step"])
        elif kind == "step":
            self._step(event)
        elif kind == "heldout":
            self._heldout = f", held out {event['heldout_loss']:.4f}"
            if "heldout_psnr" in event:
                self._heldout += f" ({event['heldout_psnr']:.1f} dB)"
        elif kind == "skipped":
            self._say(f"row {event['row']} cannot be used ({event['reason']}): {event['detail']}", "yellow")

    def _step(self, event: LaunchEvent) -> None:
        step, speed = event["step"], event.get("samples_per_second", 0.0)  # none after the first step
        rate = f", {speed:.1f} samples/s" if speed else ""
        self._bar.update(self._task, completed=step, figures=f"loss {event['loss']:.4f}{rate}")
        if self._console.is_terminal:
            return
        now = monotonic()
        if now - self._last_line >= PLAIN_SECONDS or step == self._steps:
            self._last_line = now
            seconds = (self._steps - step) * self._batch / speed if speed else 0.0
            left = f", {duration(seconds)} left" if seconds else ""
            self._say(f"step {step:,}/{self._steps:,}, loss {event['loss']:.4f}{self._heldout}{rate}{left}")

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)
