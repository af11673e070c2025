"""What a person reads before a model is trained and after: tables.

Covers: the plan of a training, the summaries of train, train-vae, sample and evaluate.
Does not cover: progress (`train_progress`), encoding (`encode`), `--json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from daskt2i.config.settings import LaunchSettings, OptimiserSettings
from daskt2i.formatting import duration, facts
from daskt2i.sample.fidelity import FIELDS, ClipScores, Fidelity

if TYPE_CHECKING:
    from daskt2i.train.driver import TrainResult


def train_plan(
    title: str, settings: OptimiserSettings, ways: LaunchSettings, rows: int, ranks: int, threads: int, out: str
) -> Table:
    """What `--dry-run` of a training shows."""
    trained = max(0, rows - settings.heldout)
    epochs = settings.steps * settings.batch / trained if trained else 0.0
    batch = f"{settings.batch} over all ranks" + f", in {ways.accumulate} parts" * (ways.accumulate > 1)
    return facts(
        title,
        [
            ("rows", f"{trained:,} to learn from, {min(rows, settings.heldout):,} held out"),
            ("steps", f"{settings.steps:,} of {batch}: {epochs:.1f} epochs"),
            ("ranks", f"{ranks or 'one per worker'} x {threads or 'as the workers have'} threads"),
            ("rate", _rate(settings)),
            ("precision", ways.precision + (" (measured at the start)" if ways.precision == "auto" else "")),
            ("checkpoints", f"every {ways.checkpoint_every:,} steps, the newest {ways.keep} kept"),
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
