"""The encoder and the decoder of a diffusers `AutoencoderKL` as networks of ncnn.

Covers: ResNet blocks, attention in the middle, down- and upsampling, with and without quant_conv, at any resolution.
Does not cover: AutoencoderTiny (its layers have 64 channels, where Winograd gains nothing), the bytes of the weights
(`network`), running it (`engine`).

A module is translated only if each part of it is known. Everything that a config can change in a known module is
checked here, because a silent difference would give other latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from daskt2i.encoders.ncnn.network import INPUT, Network

if TYPE_CHECKING:
    import torch


class Unsupported(ValueError):
    """The form of a module for ncnn is not known. The text names the module."""


def encoder_network(model: Any) -> Network:
    """Pixels in the range of the model (fp32[3, height, width]) to mean and log-variance (fp32[2 z, h, w]).

    Raises:
        Unsupported: a module is not known.
    """
    _require_kl(model)
    network, encoder = Network(), model.encoder
    _known(encoder, "Encoder")
    blob = _convolution(network, encoder.conv_in, INPUT)
    for block in encoder.down_blocks:
        _known(block, "DownEncoderBlock2D")
        blob = _resnets(network, block, blob)
        for sampler in block.downsamplers or ():
            blob = _downsample(network, sampler, blob)
    blob = _middle(network, encoder.mid_block, blob)
    blob = _activated(network, encoder.conv_norm_out, encoder.conv_act, blob)
    blob = _convolution(network, encoder.conv_out, blob)
    if model.quant_conv is not None:
        _convolution(network, model.quant_conv, blob)
    return network


def decoder_network(model: Any) -> Network:
    """Latents (fp32[z, h, w]) to pixels in the range of the model (fp32[3, height, width]).

    Raises:
        Unsupported: a module is not known.
    """
    _require_kl(model)
    network, decoder, blob = Network(), model.decoder, INPUT
    _known(decoder, "Decoder")
    if model.post_quant_conv is not None:
        blob = _convolution(network, model.post_quant_conv, blob)
    blob = _convolution(network, decoder.conv_in, blob)
    blob = _middle(network, decoder.mid_block, blob)
    for block in decoder.up_blocks:
        _known(block, "UpDecoderBlock2D")
        blob = _resnets(network, block, blob)
        for sampler in block.upsamplers or ():
            blob = _upsample(network, sampler, blob)
    blob = _activated(network, decoder.conv_norm_out, decoder.conv_act, blob)
    _convolution(network, decoder.conv_out, blob)
    return network


def _require_kl(model: Any) -> None:
    _known(model, "AutoencoderKL")
    if getattr(model, "use_tiling", False) or getattr(model, "use_slicing", False):
        raise Unsupported("tiled or sliced coding")


def _known(module: Any, *names: str) -> None:
    """Refuse a module of another class; also a class of ours or of a user that only inherits one of them."""
    if type(module).__name__ not in names:
        raise Unsupported(f"a module {type(module).__name__} in place of {' or '.join(names)}")
    if getattr(module, "_forward_hooks", None) or getattr(module, "_forward_pre_hooks", None):
        raise Unsupported(f"a {type(module).__name__} with a hook")


def _require(module: Any, **values: Any) -> None:
    for name, value in values.items():
        found = getattr(module, name, value)
        if found != value:
            raise Unsupported(f"a {type(module).__name__} whose {name} is {found}")


def _resnets(network: Network, block: Any, blob: str) -> str:
    for resnet in block.resnets:
        blob = _resnet(network, resnet, blob)
    return blob


def _middle(network: Network, block: Any, blob: str) -> str:
    _known(block, "UNetMidBlock2D")
    blob = _resnet(network, block.resnets[0], blob)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            blob = _attention(network, attention, blob)
        blob = _resnet(network, resnet, blob)
    return blob


def _resnet(network: Network, block: Any, blob: str) -> str:
    _known(block, "ResnetBlock2D")
    _require(block, upsample=None, downsample=None, time_emb_proj=None, output_scale_factor=1)
    if block.time_embedding_norm == "scale_shift":
        raise Unsupported("a ResnetBlock2D whose time_embedding_norm is scale_shift")
    inner = _activated(network, block.norm1, block.nonlinearity, blob)
    inner = _convolution(network, block.conv1, inner)
    inner = _activated(network, block.norm2, block.nonlinearity, inner)
    inner = _convolution(network, block.conv2, inner)
    if block.conv_shortcut is not None:
        blob = _convolution(network, block.conv_shortcut, blob)
    return network.add("BinaryOp", (blob, inner), {0: 0})


def _attention(network: Network, module: Any, blob: str) -> str:
    _known(module, "Attention")
    _known(module.processor, "AttnProcessor", "AttnProcessor2_0")
    _require(
        module, spatial_norm=None, norm_q=None, norm_k=None, norm_cross=None, add_k_proj=None, add_q_proj=None,
        residual_connection=True, rescale_output_factor=1, fused_projections=False, is_causal=False,
    )  # fmt: skip
    if module.group_norm is None:
        raise Unsupported("an Attention without group_norm")
    projections = (module.to_q, module.to_k, module.to_v, module.to_out[0])
    width, inner = int(module.to_q.in_features), int(module.to_q.out_features)
    weights: list[tuple[torch.Tensor, bool]] = []
    for linear in projections:
        _known(linear, "Linear")
        weights += [(linear.weight, True), (_bias(linear), False)]
    if any((int(one.in_features), int(one.out_features)) != (width, width) for one in projections):
        raise Unsupported(f"an Attention from {width} to {inner} features")
    normed = _group_norm(network, module.group_norm, blob)
    rows = network.add("Permute", (network.add("Reshape", (normed,), {0: -1, 1: width}),), {0: 1})
    scale = float(width // int(module.heads)) ** -0.5
    rows = network.add(
        "MultiHeadAttention",
        (rows,),
        {0: width, 1: int(module.heads), 2: width * width, 3: width, 4: width, 6: scale},
        weights,
    )
    # The expression takes width, height and channels from the second input, so the network fits every resolution.
    back = network.add("Reshape", (network.add("Permute", (rows,), {0: 1}), blob), {6: '"1w,1h,1c"'})
    return network.add("BinaryOp", (back, blob), {0: 0})


def _downsample(network: Network, module: Any, blob: str) -> str:
    _known(module, "Downsample2D")
    _require(module, norm=None, use_conv=True)
    # diffusers pads right and bottom by hand where the convolution does not pad.
    return _convolution(network, module.conv, blob, extra=1 if module.padding == 0 else 0)


def _upsample(network: Network, module: Any, blob: str) -> str:
    _known(module, "Upsample2D")
    _require(module, norm=None, use_conv=True, use_conv_transpose=False, interpolate=True)
    larger = network.add("Interp", (blob,), {0: 1, 1: 2.0, 2: 2.0})
    return _convolution(network, module.conv, larger)


def _activated(network: Network, norm: Any, activation: Any, blob: str) -> str:
    _known(activation, "SiLU")
    return network.add("Swish", (_group_norm(network, norm, blob),))


def _group_norm(network: Network, module: Any, blob: str) -> str:
    _known(module, "GroupNorm")
    _require(module, affine=True)
    parameters = {0: int(module.num_groups), 1: int(module.num_channels), 2: float(module.eps), 3: 1}
    return network.add("GroupNorm", (blob,), parameters, [(module.weight, False), (module.bias, False)])


def _convolution(network: Network, module: Any, blob: str, extra: int = 0) -> str:
    """A convolution; `extra` zeros more at the right and at the bottom."""
    _known(module, "Conv2d")
    _require(module, groups=1, dilation=(1, 1), padding_mode="zeros", transposed=False)
    if not isinstance(module.padding, Sequence) or isinstance(module.padding, str):
        raise Unsupported(f"a Conv2d whose padding is {module.padding}")
    (top, left), (high, wide), (down, across) = module.padding, module.kernel_size, module.stride
    parameters = {
        0: int(module.out_channels), 1: wide, 11: high, 2: 1, 12: 1, 3: across, 13: down,
        4: left, 15: left + extra, 14: top, 16: top + extra, 5: 1, 6: int(module.weight.numel()),
    }  # fmt: skip
    return network.add("Convolution", (blob,), parameters, [(module.weight, True), (_bias(module), False)])


def _bias(module: Any) -> torch.Tensor:
    return module.weight.new_zeros(module.weight.shape[0]) if module.bias is None else module.bias
