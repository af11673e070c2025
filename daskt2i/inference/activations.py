"""Activations that write over their input, where nobody else reads it.

Covers: the last SiLU of encoders, decoders and UNets.
Does not cover: activations inside residual blocks (`residual_blocks`).
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def in_place_activations(model: nn.Module) -> int:
    """The pass: change the activation after `conv_norm_out`, whose result only it reads. Returns how many."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.autoencoders.vae import Decoder, Encoder
    from torch import nn

    uses = Counter(id(one) for _, one in model.named_modules(remove_duplicate=False))
    changed = 0
    for owner in model.modules():
        if not isinstance(owner, Encoder | Decoder | UNet2DConditionModel):
            continue
        last = getattr(owner, "conv_act", None)
        # An activation has no state, so a version of diffusers may use one object in several places.
        if (
            type(last) is nn.SiLU
            and uses[id(last)] == 1
            and type(getattr(owner, "conv_norm_out", None)) is nn.GroupNorm
        ):
            last.__class__ = _silu()
            changed += 1
    return changed


@functools.cache
def _silu() -> type:
    import torch
    from torch import nn

    class InPlaceSiLU(nn.SiLU):
        """`SiLU` for inference."""

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            """See `SiLU.forward`."""
            return super().forward(input) if torch.is_grad_enabled() else nn.functional.silu(input, inplace=True)

    return InPlaceSiLU
