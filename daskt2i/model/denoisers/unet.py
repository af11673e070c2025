"""The U-Net of Stable Diffusion: a diffusers `UNet2DConditionModel`, from a preset or from a config in the workflow.

Covers: the presets, fitting them to the latents and text states of a store, refusing sizes that cannot work, the call.
Does not cover: the objective (`model.diffusion`), the training loop (`train.loop`), the trained pipeline
(`model.pipeline`), masked pooling (`masked_unet`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daskt2i.config.training.denoiser import UNET
from daskt2i.errors import ConfigError
from daskt2i.model.denoisers.denoiser import POOLED, SIZES, Conditions, StoreFacts
from daskt2i.model.denoisers.masked_unet import masked_unet
from daskt2i.model.noise_schedule import Objective

if TYPE_CHECKING:
    import torch

_DOWN, _UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # 4 M parameters. Only the smallest size has attention: at the other sizes it costs a fifth of the samples per
    # second. The whole prompt also scales and shifts every block, through the time embedding. So the model learns
    # colours in half the samples (docs/benchmarks/demo.md). StableDiffusionPipeline needs no other input for it.
    "demo": {
        "block_out_channels": (32, 64, 128),
        "down_block_types": ("DownBlock2D", "DownBlock2D", _DOWN),
        "up_block_types": (_UP, "UpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "norm_num_groups": 16,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
        "resnet_time_scale_shift": "scale_shift",
    },
    "sd15-small": {
        "block_out_channels": (192, 384, 768, 768),
        "down_block_types": (_DOWN, _DOWN, _DOWN, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", _UP, _UP, _UP),
        "layers_per_block": 1,
        "attention_head_dim": 8,
        "norm_num_groups": 32,
    },
    # 860 M parameters: the UNet of Stable Diffusion 1.5 (its unet/config.json on the hub).
    "sd15": {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (_DOWN, _DOWN, _DOWN, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", _UP, _UP, _UP),
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "norm_num_groups": 32,
    },
}
"""Arguments of `UNet2DConditionModel`. There, `attention_head_dim` is the number of heads, by an old error."""

PARAMETERS: Mapping[str, int] = {"demo": 4_100_000, "sd15-small": 212_000_000, "sd15": 860_000_000}
"""Approximate number of parameters of each preset, for the plan. The length of a text state changes it a little."""

_TIME_IDS = 6
"""Numbers that SDXL's UNet is told of a picture."""

_FITTED = ("sample_size", "in_channels", "out_channels", "cross_attention_dim")


class UNet:
    """The kind of `UNet2DConditionModel`."""

    class_path = UNET
    pipeline = "StableDiffusionPipeline"
    presets = PARAMETERS
    objectives: tuple[Objective, ...] = ("flow", "v", "epsilon")

    def config(
        self, preset: str | None, changes: Mapping[str, Any], facts: StoreFacts, least: int = 0
    ) -> dict[str, Any]:
        """See `DenoiserKind.config`. The model takes all sizes of latents, and draws the most frequent.

        Raises:
            ConfigError: see `unet_config`.
        """
        features, pooled = facts.features, facts.pooled
        first, *_ = (unet_config(preset, changes, shape, features, least, pooled) for shape in facts.latent_shapes)
        return first

    def takes(self, preset: str | None, changes: Mapping[str, Any]) -> frozenset[str]:
        """See `DenoiserKind.takes`: nothing."""
        return frozenset()

    def build(self, config: Mapping[str, Any], seed: int) -> torch.nn.Module:
        """See `build`."""
        return build(config, seed)

    def predict(
        self, model: torch.nn.Module, inputs: torch.Tensor, times: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        """See `DenoiserKind.predict`."""
        return _called(model, inputs, times, conditions)


class SizedUNet(UNet):
    """The kind of SDXL's U-Net: the same class with `addition_embed_type: text_time`. It is told pooled text, sizes and
    crops, and another pipeline draws with it."""

    pipeline = "StableDiffusionXLPipeline"

    def takes(self, preset: str | None, changes: Mapping[str, Any]) -> frozenset[str]:
        """See `DenoiserKind.takes`: all."""
        return frozenset({POOLED, SIZES})

    def predict(
        self, model: torch.nn.Module, inputs: torch.Tensor, times: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        """See `DenoiserKind.predict`."""
        told = {"text_embeds": conditions.pooled, "time_ids": conditions.sizes}
        return _called(model, inputs, times, conditions, added_cond_kwargs=told)


def _called(
    model: torch.nn.Module, inputs: torch.Tensor, times: torch.Tensor, conditions: Conditions, **told: Any
) -> torch.Tensor:
    import torch

    found: torch.Tensor = model(
        inputs.contiguous(memory_format=torch.channels_last),
        times,
        conditions.states,
        encoder_attention_mask=conditions.mask,
        **told,
        return_dict=False,
    )[0]
    return found


def unet_config(
    preset: str | None,
    changes: Mapping[str, Any],
    latent_shape: tuple[int, int, int],
    features: int,
    least: int = 0,
    pooled: int = 0,
) -> dict[str, Any]:
    """Arguments of `UNet2DConditionModel` for the latents and text states of a store.

    Args:
        preset: one of `PRESETS`, or None if `changes` is the whole config.
        changes: arguments of diffusers; they override the preset.
        latent_shape: (channels, height, width) of a latent.
        features: length of a text state.
        least: fewest samples that the model gets at once; 0 if that is not known.
        pooled: length of a pooled text state of the store; 0 if it has none.

    Raises:
        ConfigError: there is no such preset, the model is told pooled text that the store does not have, the config
            sets an argument that must fit the store, the latents cannot be halved once for each level, or the model
            gets one sample at a time, and its lowest level has one number in each group.
    """
    if preset is not None and preset not in PRESETS:
        raise ConfigError(
            f"train.model.preset is {preset!r}; it can be {', '.join(PRESETS)}, or null with a whole "
            "train.model.config."
        )
    channels, height, width = latent_shape
    side: int | tuple[int, int] = height if height == width else (height, width)
    fitted = dict(zip(_FITTED, (side, channels, channels, features), strict=True))
    given = {key: value for key, value in changes.items() if not key.startswith("_")}  # _class_name and the like
    if wrong := [key for key in _FITTED if key in given and given[key] != fitted[key]]:
        raise ConfigError(
            f"train.model.config sets {', '.join(f'{key}={given[key]}' for key in wrong)}, but the store needs "
            f"{', '.join(f'{key}={fitted[key]}' for key in wrong)}. Remove {', '.join(wrong)} from train.model.config."
        )
    config = {**(PRESETS[preset] if preset else {}), **given, **fitted}
    if takes_sizes(changes, preset):
        if not pooled:
            raise ConfigError(
                "train.model.config sets addition_embed_type=text_time, as SDXL's UNet has it, but the store has no "
                "text_pooled. Remove it there, or encode with a text encoder that makes pooled states into another "
                "run folder (out)."
            )
        wide = config.setdefault("addition_time_embed_dim", 256)
        config["projection_class_embeddings_input_dim"] = _TIME_IDS * wide + pooled
    levels = len(config.get("block_out_channels", (320, 640, 1280, 1280)))
    halved = 2 ** (levels - 1)
    if height % halved or width % halved:
        raise ConfigError(
            f"The denoiser has {levels} levels and halves its input {levels - 1} times, but latents are "
            f"{height} x {width}. Use a model with fewer levels, or sizes of pictures (dataset.image) whose latents "
            f"have sides that are multiples of {halved}."
        )
    # The blocks of the lowest level get the channels of the level before, too.
    channels_there = tuple(config.get("block_out_channels", (320,)))[-2:]
    groups = config.get("norm_num_groups", 32)
    if least == 1 and height == width == halved and groups in channels_there:
        raise ConfigError(
            f"The lowest level of the denoiser is 1 x 1 with {groups} channels in {groups} groups, and it gets one "
            "sample at a time, which torch cannot normalise. Use a smaller norm_num_groups in train.model.config, a "
            "model with fewer levels, or a larger dataset.image.resolution "
            f"(latents are {height} x {width})."
        )
    return config


def build(config: Mapping[str, Any], seed: int) -> torch.nn.Module:
    """Build the model with fresh weights, in channels_last, ready to train. The same seed gives the same weights.

    The last convolution of each residual block and of the model starts at zero, so each block starts as an identity.
    The code of Dhariwal and Nichol 2021 (arXiv:2105.05233) does so; diffusers does not. Attention keeps its weights:
    with zeros there too, the model took longer to follow prompts.

    Raises:
        ConfigError: diffusers rejects the config.
    """
    import torch

    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        unet = masked_unet()(**config)
    except (TypeError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"diffusers rejects train.model.config: {error}") from error
    finally:
        torch.set_rng_state(state)
    _begin_as_identities(unet)
    return unet.train().to(memory_format=torch.channels_last)


def pools_text(config: Mapping[str, Any], preset: str | None = None) -> bool:
    """Whether a UNet of this preset and these changes adds the pooled prompt to its time embedding."""
    return {**(PRESETS[preset] if preset else {}), **config}.get("addition_embed_type") == "text"


def takes_sizes(config: Mapping[str, Any], preset: str | None = None) -> bool:
    """Whether a UNet of this preset and these changes is told sizes, crops and pooled text, as SDXL's. A preset that is
    not there is refused by `unet_config`."""
    return {**PRESETS.get(preset or "", {}), **config}.get("addition_embed_type") == "text_time"


def _begin_as_identities(unet: torch.nn.Module) -> None:
    from diffusers.models.resnet import ResnetBlock2D
    from torch.nn.init import zeros_

    for block in unet.modules():
        if isinstance(block, ResnetBlock2D):
            zeros_(block.conv2.weight)
            zeros_(block.conv2.bias)
    zeros_(unet.conv_out.weight)  # type: ignore[arg-type,union-attr]
    zeros_(unet.conv_out.bias)  # type: ignore[arg-type,union-attr]
