"""Number of parameters and working memory of a model, computed only from its config.

Covers: AutoencoderKL, AutoencoderTiny, AutoencoderDC, CLIP text models, T5 encoders, BERT and similar models.
Does not cover: the memory of Python and torch (about 400 MB a process, `plan`), GPU workspaces.

A plan needs these numbers before any weights exist (random weights, `--dry-run`). The parameter counts of autoencoders
and CLIP are exact (tests compare them with torch). Those of other text models are within some percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KL_MAPS = 5.0
TINY_MAPS = 3.1
DC_MAPS = 5.0
"""Feature maps of the widest stage in memory at the peak of `encode`, fp32, for each further image in a batch.

Measured (resident size, batch 1 against more, channels_last, torch 2.13, 1 thread): the sd-vae-ft-mse architecture at
256 px 170 MB an image (5.1 maps of 33.6 MB), at 512 px 688 MB (5.1); a KL model with 32, 64, 64 channels at 256 px
34 MB (4.1); TAESD at 256 px 52 MB (3.1). Decoding one image took 258, 112 and 81 MB. SANA's AutoencoderDC (f32c32): at
256 px 142 to 171 MB (4.2 to 5.1), at 512 px 650 MB (4.8); decoding one image of 256 px took 342 MB, twice as much."""


def vae_reduction(config: Mapping[str, Any]) -> int:
    """Side of the image divided by side of the latent. Each stage except one halves the side."""
    return 2 ** (len(_stages(config)) - 1)


def vae_item_bytes(config: Mapping[str, Any], resolution: int) -> int:
    """Working memory of one more image of `resolution` x `resolution` pixels in a batch, fp32, bytes, within 30 %."""
    stages, kind = _stages(config), config["_class_name"]
    first = int(kind == "AutoencoderDC" and not config["encoder_layers_per_block"][0])  # then it begins at half size
    widest = max(
        (resolution >> index) ** 2 * max(stages[index - 1] if index > first else 0, stages[index])
        for index in range(first, len(stages))
    )
    return int(4 * widest * {"AutoencoderTiny": TINY_MAPS, "AutoencoderDC": DC_MAPS}.get(kind, KL_MAPS))


def vae_parameters(config: Mapping[str, Any]) -> int:
    """Number of parameters of an autoencoder (encoder and decoder)."""
    kinds = {"AutoencoderTiny": _tiny_parameters, "AutoencoderDC": _dc_parameters}
    return kinds.get(config["_class_name"], _kl_parameters)(config)


def _stages(config: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(
        config["block_out_channels" if config["_class_name"] == "AutoencoderKL" else "encoder_block_out_channels"]
    )


def _conv(inputs: int, outputs: int, side: int = 3, bias: bool = True) -> int:
    return side * side * inputs * outputs + (outputs if bias else 0)


def _resnet(inputs: int, outputs: int) -> int:
    shortcut = _conv(inputs, outputs, 1) if inputs != outputs else 0
    return 2 * inputs + _conv(inputs, outputs) + 2 * outputs + _conv(outputs, outputs) + shortcut


def _middle(width: int, attention: bool) -> int:
    return 2 * _resnet(width, width) + (2 * width + 4 * _conv(width, width, 1) if attention else 0)


def _kl_parameters(config: Mapping[str, Any]) -> int:
    widths, layers, z = _stages(config), int(config["layers_per_block"]), int(config["latent_channels"])
    attention = bool(config["mid_block_add_attention"])
    last = len(widths) - 1
    total = _conv(3, widths[0]) + _conv(z, widths[-1]) + 2 * _middle(widths[-1], attention)
    total += 2 * widths[-1] + _conv(widths[-1], 2 * z) + 2 * widths[0] + _conv(widths[0], 3)
    for sides, depth in ((widths, layers), (widths[::-1], layers + 1)):  # the decoder has one more layer per block
        before = sides[0]
        for index, width in enumerate(sides):
            total += _resnet(before, width) + (depth - 1) * _resnet(width, width)
            total += _conv(width, width) if index < last else 0
            before = width
    total += _conv(2 * z, 2 * z, 1) if config["use_quant_conv"] else 0
    total += _conv(z, z, 1) if config["use_post_quant_conv"] else 0
    return total


def _tiny_parameters(config: Mapping[str, Any]) -> int:
    z, total = int(config["latent_channels"]), 0
    for side in ("encoder", "decoder"):
        widths, blocks = config[f"{side}_block_out_channels"], config[f"num_{side}_blocks"]
        last = len(widths) - 1
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            total += count * 3 * _conv(width, width)
            if side == "encoder":
                total += _conv(3, width) if index == 0 else _conv(width, width, bias=False)
            else:
                total += _conv(width, 3) if index == last else _conv(width, width, bias=False)
        total += _conv(widths[-1], z) if side == "encoder" else _conv(z, widths[0])
    return total


def _dc_parameters(config: Mapping[str, Any]) -> int:
    z, total = int(config["latent_channels"]), 0
    # A convolution makes a quarter of the channels, or four times as many, if pixels are unshuffled or shuffled.
    down = 4 if config["downsample_block_type"] == "pixel_unshuffle" else 1
    up = 4 if config["upsample_block_type"] == "pixel_shuffle" else 1
    for side in ("encoder", "decoder"):
        widths, layers = config[f"{side}_block_out_channels"], config[f"{side}_layers_per_block"]
        kinds, scales = config[f"{side}_block_types"], config[f"{side}_qkv_multiscales"]
        kinds = (kinds,) * len(widths) if isinstance(kinds, str) else kinds
        for index, (width, depth) in enumerate(zip(widths, layers, strict=True)):
            vit = kinds[index] == "EfficientViTBlock"
            total += depth * (
                _vit_block(width, config["attention_head_dim"], scales[index]) if vit else _dc_resnet(width)
            )
            if depth and index < len(widths) - 1:
                after = widths[index + 1]
                total += _conv(width, after // down) if side == "encoder" else _conv(after, width * up)
        outer = widths[0] if layers[0] else widths[1]
        if side == "encoder":
            total += _conv(3, outer if layers[0] else outer // down) + _conv(widths[-1], z)
        else:
            total += _conv(z, widths[-1]) + 2 * outer + _conv(outer, 3 if layers[0] else 3 * up)
    return total


def _dc_resnet(width: int) -> int:
    return _conv(width, width) + _conv(width, width, bias=False) + 2 * width


def _vit_block(width: int, head: int, scales: Sequence[int]) -> int:
    """Linear attention of several scales, then a gated convolution of 8 times the width (diffusers: `GLUMBConv`)."""
    inner, hidden = width // head * head, 8 * width
    attention = 3 * width * inner + inner * (1 + len(scales)) * width + 2 * width
    attention += sum(3 * inner * scale**2 + 3 * inner * head for scale in scales)
    return attention + _conv(width, hidden, 1) + 9 * hidden + hidden + hidden // 2 * width + 2 * width


def text_parameters(
    *,
    hidden: int,
    inner: int,
    layers: int,
    vocabulary: int,
    positions: int,
    matrices: int = 2,
    projection: int = 0,
    attention: int | None = None,
) -> int:
    """Number of parameters of a text transformer; exact for CLIP.

    Args:
        hidden, inner, layers: width, width of the feed-forward part, depth.
        vocabulary, positions: entries of the two embedding tables (0 positions if they are relative).
        matrices: number of matrices in the feed-forward part; 3 if it is gated, as in T5 1.1.
        projection: features of the projected pooled state, 0 without one.
        attention: parameters of the attention of a layer; None for four square matrices with biases.
    """
    attention = 4 * (hidden * hidden + hidden) if attention is None else attention
    block = attention + matrices * hidden * inner + inner + hidden + 4 * hidden
    return (vocabulary + positions) * hidden + layers * block + 2 * hidden + hidden * projection


def text_item_bytes(*, hidden: int, inner: int, heads: int, tokens: int, matrices: int = 2) -> int:
    """Working memory of one more caption of `tokens` tokens in a batch, fp32, bytes: an upper bound.

    It counts eight states, states of the feed-forward part, and one matrix of attention weights for models that keep
    it. A feed-forward part has two states; a gated one, with 3 matrices, has five. Measured for CLIP ViT-L/14 at 77
    tokens, batches of 1, 8 and 32: 1.6 to 4.1 MB a caption; it gives 4.1 MB. For 32 tokens of T5 1.1 base 2.2 MB (2.1),
    of layers of Gemma 2 2B 7.6 MB (8.3).
    """
    return 4 * tokens * (8 * hidden + (2 if matrices == 2 else 5) * inner + heads * tokens)
