"""A training before it starts: rows, steps, ranks, and what decides them.

Covers: what `train --dry-run` prints, and what a notebook shows.
Does not cover: how many ranks there are (`session.worker_layout`), training (`driver`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daskt2i.config.settings import LaunchSettings, OptimiserSettings
from daskt2i.view import View, Viewed


@dataclass(frozen=True, slots=True, repr=False)
class TrainPlan(Viewed):
    """A training before it starts.

    Attributes:
        out: address of the run folder.
        rows: accepted rows of the store, held-out ones included.
        ranks, threads: as planned on this machine; 0 where the workers decide.
        settings, launch: the sections of the workflow.
        title: of the view.
    """

    out: str
    rows: int
    ranks: int
    threads: int
    settings: OptimiserSettings
    launch: LaunchSettings
    title: str = "Plan of train"

    def to_json(self) -> dict[str, Any]:
        """The object that `train --dry-run --json` prints."""
        given = {"steps": self.settings.steps, "batch": self.settings.batch}
        return {"rows": self.rows, **given, "ranks": self.ranks, "threads": self.threads, "out": self.out}

    def view(self) -> View:
        """Rows, steps, ranks, rate, precision and checkpoints."""
        settings, ways = self.settings, self.launch
        heldout = min(self.rows, settings.validation)
        trained = self.rows - heldout
        epochs = settings.steps * settings.batch / trained if trained else 0.0
        parts = ways.gradient_accumulation_steps
        batch = f"{settings.batch} over all ranks" + f", in {parts} parts" * (parts > 1)
        rows = (
            ("rows", f"{trained:,} to learn from, {heldout:,} held out"),
            ("steps", f"{settings.steps:,} of {batch}: {epochs:.1f} epochs"),
            ("ranks", f"{self.ranks or 'one per worker'} x {self.threads or 'as the workers have'} threads"),
            ("rate", _rate(settings)),
            ("precision", ways.precision + (" (measured at the start)" if ways.precision == "auto" else "")),
            ("checkpoints", f"every {ways.checkpoint_every:,} steps, the newest {ways.keep_checkpoints} kept"),
            ("run folder", self.out),
        )
        return View(self.title, rows)


def _rate(settings: OptimiserSettings) -> str:
    if settings.warmup >= settings.steps:
        return f"rising all the time: {settings.learning_rate:g} would be reached after {settings.warmup} steps"
    return f"{settings.learning_rate:g} after {settings.warmup} steps, then down a cosine"
