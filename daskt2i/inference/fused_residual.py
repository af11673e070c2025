"""The residual add of an autoencoder's blocks, inside the second convolution of the block.

Covers: blocks of `AutoencoderKL` on a CPU, after `residual_blocks`.
Does not cover: UNets. Their skip connections hold the input of a block, which this writes over.

In bf16 the sum is rounded once instead of twice. So the bits change, and `rewrite` does not use this. In fp32 most
shapes give the same bits, but not all (docs/decisions/0019-processors.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from daskt2i.inference.residual_blocks import resnet_block

if TYPE_CHECKING:
    import torch
    from torch import nn


def find_fused_add(torch: Any) -> Callable[..., Any] | None:
    """The convolution of oneDNN that adds to a tensor in place, in a namespace like `torch`; None if it is missing."""
    try:
        found = torch.ops.mkldnn._convolution_pointwise_.binary if torch.backends.mkldnn.is_available() else None
    except (AttributeError, RuntimeError):
        return None
    return found if callable(found) else None


def fuse_residual_adds(model: nn.Module, fused: Callable[..., Any] | None = None) -> int:
    """Change the rewritten blocks of an autoencoder's encoder and decoder. Returns how many."""
    import torch
    from diffusers.models.autoencoders.vae import Decoder, Encoder

    fused = fused or find_fused_add(torch)
    if fused is None:
        return 0
    changed = 0
    for owner in model.modules():
        if type(owner) not in (Encoder, Decoder):
            continue
        blocks: list[Any] = list(owner.modules())
        for block in blocks:
            if type(block) is resnet_block() and block.conv2.weight.device.type == "cpu":
                block.__class__ = _fused_block()
                block._fused = fused
                changed += 1
    return changed


@functools.cache
def _fused_block() -> Any:
    import torch

    class FusedResnetBlock(resnet_block()):  # type: ignore[misc]
        """`ResnetBlock2D` for inference, which writes the result over its input."""

        _fused: Callable[..., Any]

        def last_step(self, hidden: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
            """The second convolution and the sum, in the memory of the residual."""
            layer = self.conv2
            fits = hidden.dtype == residual.dtype and residual.is_contiguous(memory_format=torch.channels_last)
            if not fits or layer.bias is None:
                return super().last_step(hidden, residual)
            sizes = layer.padding, layer.stride, layer.dilation, layer.groups
            result: torch.Tensor = self._fused(
                residual, hidden, layer.weight, layer.bias, *sizes, "add", 1.0, None, [], None
            )
            return result

    return FusedResnetBlock
