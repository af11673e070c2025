"""What a person reads while a model is trained and after: a progress bar, plain lines, tables.

Covers: the events of ranks as words, the summaries of train, train-vae, sample and evaluate.
Does not cover: encoding (`display.encode`), `--json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from daskt2i.config.settings import LaunchSettings, OptimiserSettings
from daskt2i.events import Event, LaunchEvent, Note
from daskt2i.formatting import duration, facts
from daskt2i.sample.fidelity import FIELDS, ClipScores, Fidelity

if TYPE_CHECKING:
    from daskt2i.train.driver import TrainResult

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


def train_plan(
    title: str, settings: OptimiserSettings, ways: LaunchSettings, rows: int, ranks: int, threads: int, out: str
) -> Table:
    """What `--dry-run` of a training shows."""
    trained = max(0, rows - settings.validation)
    epochs = settings.steps * settings.batch / trained if trained else 0.0
    parts = ways.gradient_accumulation_steps
    batch = f"{settings.batch} over all ranks" + f", in {parts} parts" * (parts > 1)
    return facts(
        title,
        [
            ("rows", f"{trained:,} to learn from, {min(rows, settings.validation):,} held out"),
            ("steps", f"{settings.steps:,} of {batch}: {epochs:.1f} epochs"),
            ("ranks", f"{ranks or 'one per worker'} x {threads or 'as the workers have'} threads"),
            ("rate", _rate(settings)),
            ("precision", ways.precision + (" (measured at the start)" if ways.precision == "auto" else "")),
            ("checkpoints", f"every {ways.checkpoint_every:,} steps, the newest {ways.keep_checkpoints} kept"),
            ("run folder", out),
        ],
    )


def _rate(settings: OptimiserSettings) -> str:
    if settings.warmup >= settings.steps:
        return f"rising all the time: {settings.learning_rate:g} would be reached after {settings.warmup} steps"
    return f"{settings.learning_rate:g} after {settings.warmup} steps, then down a cosine"


def trained_table(found: TrainResult, title: str = "Trained") -> Table:
    """How a training ended."""
    loss = "unknown" if found.loss is None else f"{found.loss:.4f}"
    loss += f", held out {found.heldout_loss:.4f}" if found.heldout_loss is not None else ""
    rows = [("steps", f"{found.steps:,}"), ("loss", loss)]
    if found.ranks:
        again = f", {found.attempts} attempts" * (found.attempts > 1)
        ranks = f"{found.ranks} rank{'s' * (found.ranks != 1)}{again}"
        speed = f"{found.samples_per_second:.1f} samples/s" if found.samples_per_second else "done at once"
        rows.append(("speed", f"{speed} ({duration(found.seconds)}; {ranks})"))
    else:
        rows.append(("speed", "nothing was left to do"))
    figures = ((name, value) for name, value in found.more.items() if isinstance(value, int | float))
    rows += [(name.replace("_", " "), f"{value:,}") for name, value in figures]
    rows.append(("made", found.made))
    rows += [("note", note) for note in found.notes]
    return facts(title, rows)


def samples_table(files: Sequence[str], pictures: int, seconds: float) -> Table:
    """Where pictures are."""
    rate = f"{pictures / seconds:.1f} pictures/s" if seconds > 0 else ""
    return facts(
        "Drawn", [("pictures", f"{pictures:,} ({rate}, {duration(seconds)})"), ("sheet", files[0] if files else "")]
    )


def fidelity_table(found: Fidelity) -> Table:
    """The judge's shares: a row for each field, a column for all pictures, those of one shape, those of two."""
    table = Table(title="Prompt fidelity", title_justify="left", title_style="bold", box=None, pad_edge=False)
    columns = [("all pictures", found.overall), ("one shape", found.single), ("two shapes", found.pair)]
    table.add_column("right", style="dim")
    for name, shares in columns:
        table.add_column(f"{name} ({shares.of})", justify="right")
    for name in FIELDS:
        table.add_row(name, *(f"{shares.share(name):.1%}" if shares.of else "-" for _, shares in columns))
    return table


def clip_table(found: ClipScores) -> Table:
    """CLIP scores, with what they are worth beside them."""
    said = found.to_json()
    return facts(
        "CLIP score",
        [
            ("model", found.model),
            ("score", f"{said['clip_score']:.2f} over {said['count']} pictures"),
            ("wrong prompts", f"{said['clip_score_mismatched']:.2f} (each picture with another's prompt)"),
            ("retrieval", f"{said['retrieval']:.1%} of pictures fit their own prompt best"),
        ],
    )
