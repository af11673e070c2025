"""Loss, norm and other figures of the steps, as the mean over all ranks.

Covers: collecting them, so that a GPU's queue is not emptied at each step; writing them; values that are not finite;
what is done about spikes; telling all ranks what rank 0 was asked for, with the same sum.
Does not cover: computing them (`optimisation`, `task.TrainTask.loss`), the files (`metrics`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from daskt2i.config.settings import OptimiserSettings
from daskt2i.errors import LossSpike
from daskt2i.launch import rank as ranks
from daskt2i.launch.process_group import ProcessGroup
from daskt2i.train.figures.not_finite import NotFinite
from daskt2i.train.figures.spikes import MOST_NOTES, SpikeWatch
from daskt2i.train.metrics import Metrics
from daskt2i.train.optimisation.schedule import rate

if TYPE_CHECKING:
    from torch import Tensor

MOST_OVERFLOWS = 50
"""Steps in a row that fp16 may skip. The scale halves each time from 65,536, so after 50 steps it is almost 0."""


class StepFigures:
    """The figures of the steps since they were last read.

    Args:
        metrics: on rank 0; None on other ranks.
        bad: makes the error for a value that is not finite.

    Attributes:
        spikes: the spikes so far.
    """

    def __init__(
        self, settings: OptimiserSettings, group: ProcessGroup, metrics: Metrics | None, bad: NotFinite
    ) -> None:
        self._settings, self._group, self._metrics, self._bad = settings, group, metrics, bad
        self._waiting: list[tuple[int, Tensor, dict[str, Tensor]]] = []
        self._overflows = 0
        self.spikes = SpikeWatch(settings.spike_factor)
        self._skipped: dict[int, str] = {}

    @property
    def read(self) -> bool:
        """Whether no figure waits, so that every gradient up to here was checked."""
        return not self._waiting

    def add(self, step: int, loss: Tensor, figures: dict[str, Tensor]) -> None:
        """Keep the figures of a step until `settle`."""
        self._waiting.append((step, loss, figures))

    def takes(self, step: int, loss: Tensor, norm: Tensor) -> bool:
        """Whether to take a step, with `on_spike: skip`. The ranks exchange two numbers, so all of them do the same.

        Args:
            loss, norm: of this rank.
        """
        import torch

        both = torch.stack([loss.detach().float(), norm.detach().float().to(loss.device)])
        found, size = (self._group.sum(both) / self._group.world).tolist()
        if text := self.spikes.look(found, size):
            self._skipped[step] = text
        return not text

    def settle(self, code: int = 0) -> tuple[dict[str, float], int]:
        """Compute the waiting figures over all ranks, write them, and return those of the last step.

        Args:
            code: what rank 0 was asked for; 0 on other ranks.

        Returns:
            the figures, and the code of rank 0.

        Raises:
            NonFiniteLoss: a loss or a gradient is not finite.
            LossSpike: a step is a spike, and `on_spike` is `stop`.
        """
        import torch

        waiting, self._waiting = self._waiting, []
        names = sorted(waiting[-1][2])
        table = torch.stack([torch.stack([loss, *(f[name] for name in names)]) for _, loss, f in waiting])
        asked = torch.full_like(table[:1], float(code))  # one sum for both: another exchange would cost its latency
        sums = self._group.sum(torch.cat([table, asked]).float())
        values = (sums[:-1] / self._group.world).tolist()
        line: dict[str, float] = {}
        for (step, _, _), (loss, *rest) in zip(waiting, values, strict=True):
            line = self._line(step, loss, dict(zip(names, rest, strict=True)))
            if self._metrics is not None:
                self._metrics.add(step, **line)
        return {"step": waiting[-1][0], **line}, round(float(sums[-1, 0]))

    def _line(self, step: int, loss: float, found: dict[str, float]) -> dict[str, float]:
        """The figures of one step as they are written."""
        if not math.isfinite(loss):
            self._bad.stop("The loss", step, loss, repeats=True)
        overflow = not math.isfinite(found["norm"])
        self._overflows = self._overflows + 1 if overflow else 0
        # A gradient that is not finite damages the weights. The loss shows this one step later, too late if a
        # checkpoint is saved in between. In fp16 the scaler skips such a step, and tries a smaller scale.
        if overflow and (self._bad.precision != "fp16" or self._overflows > MOST_OVERFLOWS):
            self._bad.stop("The gradient", step, found["norm"], repeats=True)
        marks = {"overflow": 1.0} if overflow else {}
        if self._is_spike(step, loss, found["norm"]):
            marks["spike"] = 1.0
        found = {name: value for name, value in found.items() if math.isfinite(value)}  # JSON has no NaN
        return {"loss": loss, **found, "rate": rate(self._settings, step - 1), **marks}

    def _is_spike(self, step: int, loss: float, norm: float) -> bool:
        """Find a spike, and tell or raise it. With `skip` the step itself has found it."""
        does = self._settings.on_spike
        text = self._skipped.pop(step, "") if does == "skip" else self.spikes.look(loss, norm)
        if not text:
            return False
        if does == "stop":
            newest = self._bad.checkpoints.newest(tensors=False)
            kept = f"The checkpoint of step {newest.step} is kept" if newest else "There is no checkpoint yet"
            raise LossSpike(
                f"Step {step} is a spike: {text}. Training stopped, as train.on_spike says, and no later checkpoint "
                f"was saved. {kept}. Train again with on_spike=skip, a lower learning_rate or a higher spike_factor "
                "(--resume-with)."
            )
        if self._metrics is not None and self.spikes.count <= MOST_NOTES:
            what = "It was not taken (on_spike: skip)" if does == "skip" else "It was taken (on_spike: note)"
            rest = "; further ones are only counted, in the figure spike" if self.spikes.count == MOST_NOTES else ""
            ranks.tell("note", text=f"Step {step} is a spike: {text}. {what}{rest}.")
        return True
