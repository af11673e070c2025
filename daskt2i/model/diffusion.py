"""The three objectives of the denoiser: noised latents, the target and the weight of each.

| objective | noised | target | time |
|---|---|---|---|
| `flow` | (1 - t) x + t n | n - x | t = sigmoid(normal) or as `times` says, shifted; the model gets 1000 t |
| `v` | a x + s n | a n - s x | one of 1,000 steps of the schedule; the last step has no signal |
| `epsilon` | a x + s n | n | the same schedule; the last step has a little signal |

x is the latent, n is normal noise, and a^2 + s^2 = 1. flow: rectified flow (arXiv:2403.03206, 3.1). The density of its
times is also the weight of the loss at each time, so flow has no min-SNR weight. v: arXiv:2202.00512, with a schedule
rescaled to zero terminal SNR (arXiv:2305.08891). epsilon: arXiv:2006.11239.

Covers: this table, the densities of flow's times, and min-SNR weights.
Does not cover: where noise and times come from (`loader.dataset`: keyed by row), the schedule's numbers
(`noise_schedule`), samplers (`pipeline`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daskt2i.config.training.denoiser import TimeSettings
from daskt2i.model.noise_schedule import Objective, alphas_cumprod

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class NoisedBatch:
    """One batch as the denoiser sees it.

    Attributes:
        inputs: noised latents, `float32[b, c, y, x]`.
        times: the time that the model gets, `float32[b]`, 0 (clean) to 1000.
        target: `float32[b, c, y, x]`.
        weight: of each sample's squared error, `float32[b]`.
    """

    inputs: torch.Tensor
    times: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor


class Diffusion:
    """An objective with its settings.

    Args:
        objective: `flow`, `v` or `epsilon`.
        snr_gamma: the gamma of min-SNR weights (arXiv:2303.09556, 3.4) for `v` and `epsilon`; None: all weights are 1.
        shift: of flow's times, `t -> shift t / (1 + (shift - 1) t)` (arXiv:2403.03206, eq. 23).
        times: how flow's times are drawn; None is logit-normal with mean 0 and std 1.
        alphas: power of the signal at each noise level, of a pretrained model; None: those of `noise_schedule`.
    """

    def __init__(
        self,
        objective: Objective,
        snr_gamma: float | None = 5.0,
        shift: float = 1.0,
        times: TimeSettings | None = None,
        alphas: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.objective = objective
        self.snr_gamma = snr_gamma
        self.shift = shift
        self.times = times or TimeSettings()  # type: ignore[call-arg]
        self._alphas: Any = None
        self._given = alphas

    def noised(
        self, latents: torch.Tensor, noise: torch.Tensor, uniform: torch.Tensor, normal: torch.Tensor
    ) -> NoisedBatch:
        """Add noise to latents, and compute times, targets and weights.

        Args:
            latents, noise: `float32[b, c, y, x]`.
            uniform: `float32[b]` in [0, 1); chooses the step of a schedule, and flow's time unless it is logit-normal.
            normal: `float32[b]`; chooses a logit-normal time.
        """
        import torch

        if self.objective == "flow":
            time = self._flow_time(uniform, normal)
            time = self.shift * time / (1 + (self.shift - 1) * time)
            t = time[:, None, None, None]
            return NoisedBatch((1 - t) * latents + t * noise, 1000 * time, noise - latents, torch.ones_like(time))
        if self._alphas is None:
            power = alphas_cumprod(self.objective) if self._given is None else self._given
            self._alphas = torch.as_tensor(power, dtype=torch.float32, device=latents.device)
        step = (uniform * len(self._alphas)).long().clamp(max=len(self._alphas) - 1)
        power = self._alphas[step]
        a, s = power.sqrt()[:, None, None, None], (1 - power).sqrt()[:, None, None, None]
        target = noise if self.objective == "epsilon" else a * noise - s * latents
        return NoisedBatch(a * latents + s * noise, step.float(), target, self._weight(power))

    def _flow_time(self, uniform: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
        """Times from 0 to 1 before the shift, `float32[b]`."""
        import torch

        times = self.times
        if times.kind == "uniform":
            return uniform
        if times.kind == "mode":
            return 1 - uniform - times.scale * (torch.cos(math.pi / 2 * uniform) ** 2 - 1 + uniform)  # eq. 20
        # Without changes by 0 and 1: the bits of trainings that began before these settings stay.
        return torch.sigmoid(times.mean + times.std * normal)

    def _weight(self, power: torch.Tensor) -> torch.Tensor:
        import torch

        if self.snr_gamma is None:
            return torch.ones_like(power)
        # min(SNR, gamma) / SNR for epsilon, min(SNR, gamma) / (SNR + 1) for v, as in the training scripts of diffusers.
        # With SNR = power / (1 - power) nothing is divided by zero. The last step of v, without signal, has weight 0.
        most = torch.minimum(power, self.snr_gamma * (1 - power))
        return most / power if self.objective == "epsilon" else most

    def loss(self, predicted: torch.Tensor, batch: NoisedBatch) -> torch.Tensor:
        """Each sample's weighted mean squared error, `float32[b]`."""
        error = (predicted.float() - batch.target).square().mean(dim=(1, 2, 3))
        return error * batch.weight
