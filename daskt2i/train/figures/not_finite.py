"""The error for a loss, a gradient or a weight that is not finite, with the checkpoint to go on from.

Covers: marking a checkpoint as poisoned if the step after it gives such a value each time; the advice.
Does not cover: finding such values (`step_figures`, `heldout`, `checkpoint.not_finite`).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import NoReturn

from daskt2i.errors import NonFiniteLoss, StoreError
from daskt2i.formatting import many
from daskt2i.train.checkpoint import Checkpoints


@dataclass(frozen=True, slots=True)
class NotFinite:
    """What the error needs to know of a training.

    Attributes:
        checkpoints: of this training.
        learning_rate: the peak of its schedule.
        precision: of the arithmetic inside the model.
        writes: whether this rank may mark a checkpoint.
    """

    checkpoints: Checkpoints
    learning_rate: float
    precision: str
    writes: bool

    def stop(self, what: str, step: int, value: float, *, repeats: bool = False) -> NoReturn:
        """Raise the error.

        Args:
            what: begins the sentence: `The loss`.
            repeats: whether a training from a checkpoint of the step before would compute the same value again.

        Raises:
            NonFiniteLoss: always.
        """
        checkpoints = self.checkpoints
        newest, marked = checkpoints.newest(tensors=False), ""
        # With another precision the same weights may be right.
        if repeats and newest is not None and newest.step == step - 1 and self.precision == "fp32":
            if self.writes:
                with contextlib.suppress(OSError, StoreError):  # this error matters more
                    checkpoints.mark_poisoned(newest.step, f"the step after it gives {value}")
            marked = f" The checkpoint of step {newest.step} gives this each time, so it is marked as poisoned."
            newest = checkpoints.newest(tensors=False, before=newest.step)
        lower = f"with a lower learning_rate (it is {self.learning_rate:g}) or"
        if newest:
            stands, more = f"The checkpoint of step {newest.step} is kept", many(newest.step, "step")
            advice = f"Train again {lower} a warmup of more than {more}; then it continues from there"
        elif marked:
            stands = "There is no other checkpoint"
            advice = f"Remove {checkpoints.folder.address(checkpoints.name)} and train {lower} a longer warmup"
        else:
            stands, advice = "There is no checkpoint yet", f"Train {lower} a longer warmup"
        if step == 1 and repeats:  # no rate has changed a weight yet
            advice = "It comes from the samples or the model, so no other rate helps. Encode with encoders whose "
            advice += "values are smaller into another run folder (out), or train another model"
        if self.precision != "fp32":
            advice = f"Train again with launch.precision=fp32. Or: {advice}"
        raise NonFiniteLoss(f"{what} at step {step} is {value}, so training stopped.{marked} {stands}. {advice}.")
