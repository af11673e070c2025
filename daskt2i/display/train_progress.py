"""Progress of a training, computed from the events of its ranks.

Covers: steps, losses and samples per second, notes of the launcher, how a training ended.
Does not cover: how it looks (`progress`, `notebook`), the plan and the results (`train`).
"""

from __future__ import annotations

from daskt2i.display.rate import RecentRate
from daskt2i.display.stage_progress import Line, StageProgress, Tone
from daskt2i.events import Event, LaunchEvent
from daskt2i.formatting import many


class TrainProgress(StageProgress):
    """The progress of a training of `total` steps, each with `batch` samples."""

    what, unit = "training", "steps"

    def __init__(self, total: int, now: float, batch: int = 1) -> None:
        super().__init__(total, now)
        self._batch = batch
        self._first: int | None = None
        self._loss = self._validation = ""
        self._told_rate: float | None = None

    def hear(self, event: Event, now: float) -> list[Line]:
        if not isinstance(event, LaunchEvent):
            return super().hear(event, now)
        kind = event.kind
        if kind == "waiting":
            self._waits(now, event.get("seconds", 0.0))
        elif kind in ("moving", "started", "step", "failed"):
            self._waits_since = None
        if kind in ("note", "failed", "fewer", "waiting", "moving"):
            return [Line(str(event["text"]), Tone.NOTE)]
        if kind == "started":
            return [self._start(event)]
        if kind == "step":
            # The first step only starts the clock, because it also allocates and compiles.
            self._rate.add(now, (event["step"] - self.done) * self._batch)
            self.done, self._loss = event["step"], f"loss {event['loss']:.4f}"
            self._told_rate = event.get("samples_per_second") or None  # over all steps except the first
        elif kind == "heldout":
            self._validation = f", held out {event['heldout_loss']:.4f}"
            if "heldout_psnr" in event:
                self._validation += f" ({event['heldout_psnr']:.1f} dB)"
        elif kind == "skipped":
            return [Line(f"row {event['row']} cannot be used ({event['reason']}): {event['detail']}", Tone.NOTE)]
        return []

    def _start(self, event: LaunchEvent) -> Line:
        """Handle the start of the ranks: the first start, or a restart after a failure."""
        self.running, self.done, self._rate, self._told_rate = True, event["step"], RecentRate(), None
        self._first = self.done if self._first is None else self._first
        begun = f", from step {event['step']:,} on" if event["step"] else ""
        ranks, threads, precision = event["ranks"], event["threads"], event["precision"] + self._measured(event)
        return Line(
            f"{ranks} rank{'s' * (ranks != 1)} x {threads} thread{'s' * (threads != 1)} on "
            f"{event['device']}, {precision}, {event['parameters'] / 1e6:.1f} M parameters{begun}"
        )

    @staticmethod
    def _measured(event: LaunchEvent) -> str:
        """Why this precision, if it was measured."""
        each = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in event.get("step_seconds", {}).items())
        return f" (measured, a step: {each})" if each else ""

    def figures(self, now: float) -> str:
        rate = self.per_second(now) or self._told_rate
        speed = "" if rate is None else f"{rate:.1f} samples/s"
        return ", ".join(part for part in (self._loss + self._validation, speed) if part)

    def _left(self, now: float) -> float | None:
        samples = (self.total - self.done) * self._batch
        left = self._rate.seconds_left(now, samples)
        return samples / self._told_rate if left is None and self._told_rate else left

    def count(self) -> str:
        return f"{self.done:,}/{self.total:,}"

    def line(self, now: float) -> str:
        return f"step {super().line(now)}"

    def _finished(self, took: str) -> str:
        if self._first is None:
            return f"all {self.total:,} steps were trained before"
        before = f"; {self._first:,} were trained before" if self._first else ""
        loss = f", {self._loss.replace('loss', 'loss of the last step')}" if self._loss else ""
        return f"trained {many(self.done - self._first, 'step')} in {took}{loss}{before}"
