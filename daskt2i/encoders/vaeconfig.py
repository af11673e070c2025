"""Kind and sizes of an image autoencoder, from its config.json. It imports no diffusers.

Covers: `AutoencoderKL` (Stable Diffusion, SDXL, SD 3, Flux, REPA-E), `AutoencoderTiny` (the TAESD family) and
`AutoencoderDC` (SANA); which arrays each makes, and what a trainer needs to know of them.
Does not cover: running the model (`vae`), parameters and memory (`footprint`), scaling latents (`latent_scaling`).

| class | arrays | reduction | scaling and shift |
|---|---|---|---|
| `AutoencoderKL` | mean and std of the posterior | 8 as a rule | `scaling_factor`, `shift_factor` of the config |
| `AutoencoderTiny` | the latent | 8 as a rule | 1 and 0: it was trained to give scaled latents |
| `AutoencoderDC` | the latent | 32 or 64 | `scaling_factor` of the config, no shift |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daskt2i.encoders import footprint
from daskt2i.errors import ModelError
from daskt2i.types import ArraySpec

_WIDTHS, _LAYERS = (128, 256, 512, 512, 1024, 1024), (3, 3, 3, 3, 3, 3)
_SCALES: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "AutoencoderKL": {
        "in_channels": 3, "out_channels": 3, "block_out_channels": (64,), "layers_per_block": 1, "latent_channels": 4,
        "scaling_factor": 0.18215, "shift_factor": None, "use_quant_conv": True, "use_post_quant_conv": True,
        "mid_block_add_attention": True, "latents_mean": None, "latents_std": None,
    },
    "AutoencoderTiny": {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "encoder_block_out_channels": (64, 64, 64, 64),
        "decoder_block_out_channels": (64, 64, 64, 64), "num_encoder_blocks": (1, 3, 3, 3),
        "num_decoder_blocks": (3, 3, 3, 1), "scaling_factor": 1.0, "shift_factor": 0.0,
    },
    "AutoencoderDC": {
        "in_channels": 3, "latent_channels": 32, "attention_head_dim": 32,
        "encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock",
        "encoder_block_out_channels": _WIDTHS, "decoder_block_out_channels": _WIDTHS,
        "encoder_layers_per_block": (2, 2, 2, 3, 3, 3), "decoder_layers_per_block": _LAYERS,
        "encoder_qkv_multiscales": _SCALES, "decoder_qkv_multiscales": _SCALES,
        "downsample_block_type": "pixel_unshuffle", "upsample_block_type": "pixel_shuffle", "scaling_factor": 1.0,
    },
}  # fmt: skip
"""Defaults of diffusers for keys that an older config.json lacks (a test compares them with diffusers' signatures)."""

_NOTES = {
    "AutoencoderTiny": "as encode gives them; the model was trained to give scaled latents",
    "AutoencoderDC": "as encode gives them; a denoiser gets latent * scaling_factor",
}


def checked(config: Mapping[str, Any], name: str, setting: str) -> dict[str, Any]:
    """The config with the defaults of its class.

    Args:
        config: the content of config.json.
        name: name of the model; `setting`: the setting that names it. Both are for messages.

    Raises:
        ModelError: it is not one of these autoencoders, or it is not for RGB pictures.
    """
    kind = config.get("_class_name")
    if kind is None or kind not in DEFAULTS:
        found = kind or config.get("model_type") or "no diffusers model"
        raise ModelError(
            f"VaeEncoder cannot use {name}: its config.json says {found}. "
            f"Set {setting} to an {' or '.join(DEFAULTS)}, or write an encoder class."
        )
    whole = {**DEFAULTS[kind], **config}
    if whole["in_channels"] != 3 or whole.get("out_channels", 3) != 3:
        raise ModelError(
            f"VaeEncoder cannot use {name}: it is not for RGB pictures "
            f"(in_channels or out_channels is not 3). Set {setting} to another model."
        )
    return whole


def has_posterior(config: Mapping[str, Any]) -> bool:
    """Whether `encode` of the model gives a distribution. Other models give one latent."""
    return bool(config["_class_name"] == "AutoencoderKL")


def upcasts(config: Mapping[str, Any]) -> bool:
    """Whether the model computes in fp32 where a run has fp16, as diffusers' pipelines do it.

    The first VAE of SDXL overflows in fp16, and its config.json says `force_upcast`. A config without this key (Stable
    Diffusion 1.5) does not ask for it, although the default of diffusers is True.
    """
    return bool(has_posterior(config) and config.get("force_upcast"))


def arrays(config: Mapping[str, Any], resolution: int) -> tuple[ArraySpec, ...]:
    """The arrays of pictures of `resolution` x `resolution` pixels."""
    side = resolution // footprint.vae_reduction(config)
    shape = (int(config["latent_channels"]), side, side)
    meaning = {"latent_mean": "the latent as the model gives it; there is no posterior"}
    if has_posterior(config):
        meaning = {
            "latent_mean": "mean of the posterior, raw",
            "latent_std": "standard deviation of the posterior, raw",
        }
    return tuple(ArraySpec(key, ("channel", "y", "x"), shape, "float16", "nan", text) for key, text in meaning.items())


def attributes(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a trainer needs to use the latents, as JSON values."""
    kind = str(config["_class_name"])
    plain = "as encode gives them; a denoiser gets (latent - shift_factor) * scaling_factor"
    found: dict[str, Any] = {
        "class": kind,
        "model": name,
        "reduction": footprint.vae_reduction(config),
        "latent_channels": int(config["latent_channels"]),
        "scaling_factor": float(config["scaling_factor"]),
        "shift_factor": float(config.get("shift_factor") or 0.0),
        "latent_values": "raw",
        "latent_values_note": _NOTES.get(kind, plain),
    }
    return found | {key: config[key] for key in ("latents_mean", "latents_std") if config.get(key) is not None}
