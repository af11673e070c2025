"""The held-out loss by noise level: ten bins of the time that the denoiser gets, 0 (clean) to 1,000 (noise).

Covers: sums and numbers of rows for each bin, as `task.TrainTask.heldout` gives them.
Does not cover: means over ranks (`heldout`), times and losses (`model.diffusion`).

A loss of all times together hides which of them is weak: near the noise it is a matter of layout, near the clean latent
of detail. Logit-normal times are rare at both ends, so with few validation rows an outer bin may be empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BINS, MOST_TIME = 10, 1000.0


class LossByTime:
    """Sums of losses by bin: `loss_t0` has the times from 0 to 100, and so on to `loss_t9`."""

    def __init__(self) -> None:
        self._sums, self._rows = [0.0] * BINS, [0] * BINS

    def add(self, times: Tensor, losses: Tensor) -> None:
        """Add the rows of a batch.

        Args:
            times, losses: `float32[b]`.
        """
        for time, loss in zip(times.tolist(), losses.tolist(), strict=True):
            number = min(int(time * BINS / MOST_TIME), BINS - 1)
            self._sums[number] += loss
            self._rows[number] += 1

    def sums(self) -> dict[str, tuple[float, int]]:
        """Name of each bin -> sum of its losses, and its number of rows, which may be 0."""
        both = zip(self._sums, self._rows, strict=True)
        return {f"loss_t{number}": (total, rows) for number, (total, rows) in enumerate(both)}
