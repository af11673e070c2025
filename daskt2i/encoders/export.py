"""Writes encoders as parts of a diffusers pipeline folder.

Covers: the autoencoder, with its shift folded into its weights; a CLIP text model, with a tokenizer that cuts to the
stored length; the reason why an encoder cannot be such a part.
Does not cover: the denoiser and the scheduler (`model.pipeline`).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.encoders.latent_scaling import latent_scaling
from daskt2i.encoders.text import TextEncoder
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.encoders.weights import TOKENIZER_FILES, quiet
from daskt2i.types import Runtime

_FP32 = Runtime("cpu", "fp32", 1)


def unfit_image(image: object, pipeline: str) -> str | None:
    """Why an image encoder cannot be part of a pipeline of this class, one clause; None if it can."""
    if not isinstance(image, VaeEncoder):
        return f"the image encoder is a {type(image).__name__}, not a VaeEncoder"
    if (kind := image.kind()) == "AutoencoderDC":
        return f"the image encoder is an {kind}, but a {pipeline} needs an AutoencoderKL or AutoencoderTiny"
    return None


def unfit(image: object, text: object) -> str | None:
    """Why these two encoders cannot be parts of a `StableDiffusionPipeline`, one clause; None if they can."""
    if why := unfit_image(image, "StableDiffusionPipeline"):
        return why
    if not isinstance(text, TextEncoder):
        return f"the text encoder is a {type(text).__name__}, not a TextEncoder"
    about = text.info().attributes
    if about["model_type"] != "clip_text_model":
        return f"the text encoder is of type {about['model_type']}, but a StableDiffusionPipeline needs CLIP"
    if about["layer"] is not None:
        return f"the text states come from layer {about['layer']}, but the pipeline takes the model's output"
    if about.get("instruction"):
        return "captions are read with an instruction before them, but the pipeline reads prompts as they are"
    if about.get("lowercase"):
        return "captions are read in lower case, but the pipeline reads prompts as they are"
    return None


def export_vae(encoder: VaeEncoder, folder: Path, shift: float | None = None) -> Any:
    """Write the autoencoder in fp32. Its latents are those of the denoiser, except for the scaling factor.

    `StableDiffusionPipeline` divides latents by `scaling_factor`. It ignores `shift_factor`, `latents_mean` and
    `latents_std`. So these three are folded into the 1 x 1 convolutions next to the latents and removed from the
    config.

    Args:
        shift: `shift_factor` in the config that is written; None leaves it as it is.

    Returns:
        The model, in evaluation mode.
    """
    vae = encoder.plain(_FP32)
    config = vae.config
    if config["_class_name"] == "AutoencoderKL":
        mean, std, _ = latent_scaling(config, config["latent_channels"])
        if mean.any() or (std != 1).any():
            _fold(vae, mean, std)
    if shift is not None:
        vae.register_to_config(shift_factor=shift)
    with quiet():
        vae.save_pretrained(str(folder), safe_serialization=True)
    _without_origin(folder / "config.json")
    return vae


def _fold(vae: Any, mean: npt.NDArray[np.float32], std: npt.NDArray[np.float32]) -> None:
    """Change the model so that it has latents u = (z - mean) / std instead of z, for each channel.

    The decoder then computes z = std u + mean. The encoder gives (mean_z - mean) / std, and the log variance minus
    2 log std.
    """
    import torch

    channels = vae.config["latent_channels"]
    shift, scale = torch.tensor(mean), torch.tensor(std)
    both = {"quant_conv": 2 * channels, "post_quant_conv": channels}
    for name, size in both.items():
        if getattr(vae, name, None) is None:
            conv = torch.nn.Conv2d(size, size, 1)
            with torch.no_grad():
                conv.weight.copy_(torch.eye(size)[:, :, None, None])
                conv.bias.zero_()  # type: ignore[union-attr]
            setattr(vae, name, conv)
    with torch.no_grad():
        out, back = vae.quant_conv, vae.post_quant_conv
        out.weight[:channels] /= scale[:, None, None, None]
        out.bias[:channels] = (out.bias[:channels] - shift) / scale
        out.bias[channels:] -= 2 * scale.log()
        back.bias += back.weight[:, :, 0, 0] @ shift
        back.weight *= scale[None, :, None, None]
    vae.register_to_config(
        shift_factor=None, latents_mean=None, latents_std=None, use_quant_conv=True, use_post_quant_conv=True
    )


def export_text(encoder: TextEncoder, model: Path, tokenizer: Path, kind: str = "CLIPTextModel") -> None:
    """Write a CLIP text model in fp32 and its tokenizer. The tokenizer pads and cuts to the stored length.

    Args:
        kind: its class; `CLIPTextModelWithProjection` has one more layer, whose weights are written too.

    The weights have the names of published CLIP repositories (`text_model.…`). transformers 5 would write shorter
    names. transformers 4.48 does not know these: it would warn and start from random weights.
    """
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig

    encoder.load(_FP32)
    source = encoder.module
    config = CLIPTextConfig(**{k: v for k, v in source.config.to_dict().items() if k not in _RUNTIME})
    config.architectures = [kind]
    config.save_pretrained(str(model))
    weights = {
        name if name.startswith(_PROJECTION) else f"text_model.{name.removeprefix('text_model.')}": value.contiguous()
        for name, value in source.state_dict().items()
        if not name.endswith("position_ids") and (kind.endswith("Projection") or not name.startswith(_PROJECTION))
    }
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    tokenizer.mkdir(parents=True, exist_ok=True)
    origin = encoder.tokenizer_folder()
    for name in TOKENIZER_FILES:
        for path in origin.glob(name):
            shutil.copyfile(path, tokenizer / path.name)
    label = tokenizer / "tokenizer_config.json"
    said = json.loads(label.read_text(encoding="utf-8"))
    said |= {"model_max_length": encoder.info().attributes["max_tokens"], "tokenizer_class": "CLIPTokenizer"}
    label.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


_PROJECTION = "text_projection"

_RUNTIME = frozenset({"dtype", "torch_dtype", "_name_or_path", "transformers_version", "architectures", "model_type"})
"""Keys that loading a model adds to its config."""


def _without_origin(path: Path) -> None:
    """Remove the origin of the model from its config, because it is a path of this machine."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
