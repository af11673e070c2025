"""Residual blocks that reuse their own intermediate results.

Covers: `ResnetBlock2D` (AutoencoderKL and UNets) and `AutoencoderTinyBlock` of diffusers.
Does not cover: activations outside the blocks (`activations`), convolutions (`packed_convolutions`).

diffusers writes each elementwise step to new memory, and divides by `output_scale_factor`, which is 1. A block of an
autoencoder at 256 px so reads and writes 400 MB more than the convolutions need. A step in place gives the same bits.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from daskt2i.inference.parity import SIDE, change_equal, small_input

if TYPE_CHECKING:
    import torch
    from torch import nn


def in_place_residual_blocks(model: nn.Module) -> int:
    """The pass: change the residual blocks of a model. Returns how many."""
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock

    resnets = [one for one in model.modules() if type(one) is ResnetBlock2D and _is_known(one)]
    tiny = [one for one in model.modules() if type(one) is AutoencoderTinyBlock and _is_known_tiny(one)]
    return change_equal(resnets, resnet_block(), _way, _resnet_inputs) + change_equal(
        tiny,
        _tiny_block(),
        lambda block: type(block.skip).__name__,
        lambda block: (small_input(block, 1, _width(block), SIDE, SIDE),),
    )


def _is_known(block: Any) -> bool:
    """Whether a block has the parts that the class below uses, and no others."""
    from torch import nn

    parts = {"norm1": nn.GroupNorm, "norm2": nn.GroupNorm, "conv1": nn.Conv2d, "conv2": nn.Conv2d}
    parts |= {"nonlinearity": nn.SiLU, "dropout": nn.Dropout}
    optional = {"conv_shortcut": nn.Conv2d, "time_emb_proj": nn.Linear}
    return (
        all(type(getattr(block, name, None)) is kind for name, kind in parts.items())
        and all(type(getattr(block, name, 0)) in (kind, type(None)) for name, kind in optional.items())
        and set(dict(block.named_children())) <= {*parts, *optional}
        and getattr(block, "upsample", 0) is None
        and getattr(block, "downsample", 0) is None
        and getattr(block, "time_embedding_norm", None) in ("default", "scale_shift", "group")
        and isinstance(getattr(block, "skip_time_act", None), bool)
        and isinstance(getattr(block, "output_scale_factor", None), int | float)
    )


def _way(block: Any) -> tuple[Any, ...]:
    """What decides which lines of `forward` a block runs."""
    shortcut, time = block.conv_shortcut is None, block.time_emb_proj is None
    return shortcut, time, block.time_embedding_norm, block.skip_time_act, block.output_scale_factor


def _resnet_inputs(block: Any) -> tuple[Any, ...]:
    pixels = small_input(block, 1, block.conv1.in_channels, SIDE, SIDE)
    return pixels, None if block.time_emb_proj is None else small_input(block, 1, block.time_emb_proj.in_features)


def _is_known_tiny(block: Any) -> bool:
    from torch import nn

    kinds = [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.Conv2d]
    return (
        [type(layer) for layer in getattr(block, "conv", ())] == kinds
        and type(getattr(block, "skip", None)) in (nn.Conv2d, nn.Identity)
        and type(getattr(block, "fuse", None)) is nn.ReLU
        and set(dict(block.named_children())) == {"conv", "skip", "fuse"}
    )


def _width(block: Any) -> int:
    width: int = block.conv[0].in_channels
    return width


def _add(into: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """`other + into`, in the memory of `into` if a new tensor would have the same dtype and memory order."""
    if into.dtype == other.dtype and into.shape == other.shape and into.stride() == other.stride():
        return into.add_(other)
    return other + into


@functools.cache
def resnet_block() -> Any:
    """The class for `ResnetBlock2D`."""
    import torch
    from diffusers.models.resnet import ResnetBlock2D
    from torch.nn.functional import silu

    class InPlaceResnetBlock(ResnetBlock2D):
        """`ResnetBlock2D` for inference."""

        def forward(self, input_tensor: torch.Tensor, temb: Any = None, *args: Any, **kwargs: Any) -> torch.Tensor:
            """See `ResnetBlock2D.forward`."""
            if args or kwargs or torch.is_grad_enabled():
                return super().forward(input_tensor, temb, *args, **kwargs)
            # The results of normalisations and convolutions are new tensors, which nobody else holds.
            hidden = self.conv1(silu(self.norm1(input_tensor), inplace=True))
            if self.time_emb_proj is not None:
                temb = self.time_emb_proj(temb if self.skip_time_act else silu(temb))[:, :, None, None]
            if self.time_embedding_norm == "default" and temb is not None:
                hidden = hidden.add_(temb) if hidden.dtype == temb.dtype else hidden + temb
            hidden = self.norm2(hidden)
            if self.time_embedding_norm == "scale_shift":
                scale, shift = temb.chunk(2, dim=1)
                same = hidden.dtype == temb.dtype
                hidden = hidden.mul_(1 + scale).add_(shift) if same else hidden * (1 + scale) + shift
            hidden = silu(hidden, inplace=True)
            if self.conv_shortcut is not None:
                input_tensor = self.conv_shortcut(input_tensor)
            hidden = self.last_step(hidden, input_tensor)
            return hidden if self.output_scale_factor == 1 else hidden / self.output_scale_factor

        def last_step(self, hidden: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
            """The second convolution, and the sum."""
            return _add(self.conv2(hidden), residual)

    return InPlaceResnetBlock


@functools.cache
def _tiny_block() -> type:
    import torch
    from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock

    class InPlaceTinyBlock(AutoencoderTinyBlock):
        """`AutoencoderTinyBlock` for inference."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """See `AutoencoderTinyBlock.forward`."""
            if torch.is_grad_enabled():
                return super().forward(x)
            first, _, second, _, third = self.conv
            hidden = third(second(first(x).relu_()).relu_())
            return _add(hidden, self.skip(x)).relu_()

    return InPlaceTinyBlock
