"""One step of training as a plain loop of PyTorch: loss and gradients that the trainer must have too.

Covers: the three objectives, min-SNR weights, the call of a model.
Does not cover: samples, which the trainer's data set gives; ranks and parts of a batch, which a plain loop has not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Call = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(model, noised latents, times 0..1000, text states) -> what the objective asks."""


def plain_step(
    model: Any, batch: Any, objective: str, call: Call, gamma: float = 5.0
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a whole batch (`loader.batch_arrays.Batch`)."""
    x, n, uniform, normal, states = (
        torch.from_numpy(np.array(one, np.float32))
        for one in (batch.latents, batch.noise, batch.uniform, batch.normal, batch.text_states)
    )
    if objective == "flow":
        t = 1 / (1 + torch.exp(-normal))
        noised, times, target = (1 - t[:, None, None, None]) * x + t[:, None, None, None] * n, 1000 * t, n - x
        weight = torch.ones(len(x))
    else:
        roots = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).sqrt()
        if objective == "v":
            roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
        step = (1000 * uniform).long()
        power = (roots**2).float()[step]
        a, s = power.sqrt()[:, None, None, None], (1 - power).sqrt()[:, None, None, None]
        noised, times, target = a * x + s * n, step.float(), n if objective == "epsilon" else a * n - s * x
        snr = power / (1 - power)
        weight = torch.clamp(snr, max=gamma) / (snr if objective == "epsilon" else snr + 1)
    loss = (((call(model, noised, times, states) - target) ** 2).mean((1, 2, 3)) * weight).mean()
    model.zero_grad()
    loss.backward()
    return float(loss.detach()), {
        name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None
    }
