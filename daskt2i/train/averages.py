"""The averages of a training: their held-out losses, and which of them the result gets.

Covers: the figures of a validation for every average, the choice of `export_ema`, what is said about it.
Does not cover: keeping averages (`optimisation.train_state`), the held-out loss (`figures.heldout`), writing the result
(`denoiser_rank`, `autoencoder_rank`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daskt2i.config.settings import OptimiserSettings
from daskt2i.launch.process_group import ProcessGroup
from daskt2i.train.figures.heldout import heldout_figures
from daskt2i.train.optimisation.train_state import TrainState
from daskt2i.train.task import TrainTask

HELDOUT = "heldout_loss"
EXPORTED = "exported"
"""Key of a label: which average the model is, if `export_ema` was set."""


def validated(task: TrainTask, state: TrainState, group: ProcessGroup) -> dict[str, float]:
    """Figures of the average of `ema` on held-out rows, and the loss of each further average. Every rank calls it."""
    with state.averaged() as model, state.autocast():
        found = heldout_figures(task, model, group)
    for decay in state.further:
        with state.averaged(decay) as model, state.autocast():
            other = heldout_figures(task, model, group)
        found |= {f"{name}_ema{decay}": value for name, value in other.items() if name == HELDOUT}
    return found


@dataclass(frozen=True, slots=True)
class Exported:
    """Which weights the result of a training gets.

    Attributes:
        ema: decay of the average; 0 for the weights without average.
        further: its name among the averages of `emas`; None for that of `ema`.
        heldout_loss: of these weights; None without held-out rows.
        asked: whether `export_ema` is set. If not, nothing is said.
    """

    ema: float
    further: str | None = None
    heldout_loss: float | None = None
    asked: bool = False

    def label(self) -> dict[str, Any]:
        """What the label of the result says."""
        return {EXPORTED: {"ema": self.ema, HELDOUT: self.heldout_loss}} if self.asked else {}

    def figures(self) -> dict[str, float]:
        """What the result of `train` says."""
        if not self.asked:
            return {}
        loss = {} if self.heldout_loss is None else {"exported_heldout_loss": round(self.heldout_loss, 6)}
        return {"exported_ema": self.ema, **loss}

    def note(self) -> str:
        """A sentence for the user, or ""."""
        if not self.asked:
            return ""
        which = f"the average with the decay {self.ema:g}" if self.ema else "the weights without an average"
        loss = "there are no held-out rows" if self.heldout_loss is None else f"held-out loss {self.heldout_loss:.4f}"
        return f"The trained model is {which} ({loss})."


def exported(settings: OptimiserSettings, figures: Mapping[str, float]) -> Exported:
    """The weights that `export_ema` asks for. If two are equally good, it is the one that stands first.

    Args:
        figures: those of `validated` that are finite, at the last step.
    """
    asked = settings.export_ema
    further = {decay: str(decay) for decay in settings.further_emas()}
    losses = {decay: figures.get(f"{HELDOUT}_ema{name}") for decay, name in further.items()}
    losses = {settings.ema: figures.get(HELDOUT), **losses}
    if asked is None:
        return Exported(settings.ema)
    known = {decay: loss for decay, loss in losses.items() if loss is not None}
    ema = min(known, key=known.__getitem__, default=settings.ema) if asked == "best" else asked
    return Exported(ema, further.get(ema), losses[ema], True)
