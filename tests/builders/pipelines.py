"""Tiny pipelines of Stable Diffusion's form in their real format, as a hub would give them: for tests of tuning."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from builders.models import _diffusers, _pipeline, _text_part, sd3_folder, sdxl_folder, t5_folder

UNET = {
    "sample_size": 16, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 128, "layers_per_block": 1,
    "block_out_channels": (16, 32), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 4, "norm_num_groups": 8,
}  # fmt: skip
"""The denoiser of the demo's latents and text states, very small."""

PNDM = {
    "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
}  # fmt: skip
"""The scheduler of Stable Diffusion 1.5, as published."""


def sd_folder(folder: Path, scheduler: dict[str, Any] = PNDM, seed: int = 0, **unet: Any) -> Path:
    """A pipeline with the demo's encoders and a fresh denoiser.

    Args:
        unet: changes of `UNET`.
    """
    import daskt2i

    shipped = Path(daskt2i.__file__).parent / "demo"
    shutil.copytree(shipped / "vae", folder / "vae")
    shutil.copytree(shipped / "text", folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    for path in (folder / "text_encoder").iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            shutil.move(path, folder / "tokenizer" / path.name)
    label = folder / "tokenizer" / "tokenizer_config.json"
    label.write_text(json.dumps(json.loads(label.read_text()) | {"model_max_length": 26}))
    _diffusers(folder / "unet", "UNet2DConditionModel", {**UNET, **unet}, seed)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


XL = {
    "sample_size": 16, "cross_attention_dim": 40, "layers_per_block": 1, "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "norm_num_groups": 8, "attention_head_dim": 4,
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 20,
}  # fmt: skip
"""SDXL's denoiser for the states of `models.sdxl_folder`, very small."""

PIXART = {
    "sample_size": 16, "in_channels": 4, "out_channels": 8, "caption_channels": 16, "num_attention_heads": 2,
    "attention_head_dim": 16, "num_layers": 2, "cross_attention_dim": 32, "use_additional_conditions": False,
}  # fmt: skip
"""PixArt's denoiser for the states of `models.t5_folder`. As published, it predicts a variance too."""

SD3 = {
    "sample_size": 16, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 48, "caption_projection_dim": 32, "pooled_projection_dim": 32,
    "pos_embed_max_size": 24,
}  # fmt: skip
"""Stable Diffusion 3's denoiser for the states of `models.sd3_folder`."""

EULER = {
    "_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "interpolation_type": "linear", "prediction_type": "epsilon", "timestep_spacing": "leading", "steps_offset": 1,
}  # fmt: skip
"""The scheduler of SDXL, as published."""

DPM = {
    "_class_name": "DPMSolverMultistepScheduler", "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001,
    "prediction_type": "epsilon", "num_train_timesteps": 1000,
}  # fmt: skip
"""The scheduler of PixArt."""

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
"""The scheduler of Stable Diffusion 3."""


def xl_pipeline(folder: Path, seed: int = 0) -> Path:
    """A whole StableDiffusionXLPipeline with the demo's VAE."""
    clip = {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    clip |= {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
    clip |= {"tokenizer_2": ["transformers", "CLIPTokenizer"]}
    return _with_parts(sdxl_folder(folder), ("unet", "UNet2DConditionModel", XL), EULER, clip, seed)


def sd3_pipeline(folder: Path, seed: int = 0) -> Path:
    """A whole StableDiffusion3Pipeline with the demo's VAE."""
    text: dict[str, list[Any]] = {"text_encoder_3": ["transformers", "T5EncoderModel"]}
    text["tokenizer_3"] = ["transformers", "T5TokenizerFast"]
    for number in ("", "_2"):
        text[f"text_encoder{number}"] = ["transformers", "CLIPTextModelWithProjection"]
        text[f"tokenizer{number}"] = ["transformers", "CLIPTokenizer"]
    _with_parts(sd3_folder(folder), ("transformer", "SD3Transformer2DModel", SD3), FLOW, text, seed)
    config = folder / "vae" / "config.json"  # its pipeline adds the shift, also if there is none
    config.write_text(json.dumps(json.loads(config.read_text()) | {"shift_factor": 0.0}))
    return folder


def pixart_pipeline(folder: Path, seed: int = 0) -> Path:
    """A whole PixArtSigmaPipeline with the demo's VAE."""
    _text_part(folder, "", t5_folder(folder / "text_encoder"))
    _pipeline(folder, "PixArtSigmaPipeline")
    text = {"text_encoder": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "T5TokenizerFast"]}
    return _with_parts(folder, ("transformer", "PixArtTransformer2DModel", PIXART), DPM, text, seed)


def _with_parts(
    folder: Path, denoiser: tuple[str, str, dict[str, Any]], scheduler: dict[str, Any], text: dict[str, Any], seed: int
) -> Path:
    """Add denoiser, scheduler and VAE to the text part of a pipeline."""
    import daskt2i

    part, kind, config = denoiser
    _diffusers(folder / part, kind, config, seed)
    shutil.copytree(Path(daskt2i.__file__).parent / "demo" / "vae", folder / "vae")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    label = folder / "model_index.json"
    index = json.loads(label.read_text()) | {"_diffusers_version": "0.30.0", part: ["diffusers", kind], **text}
    index |= {"scheduler": ["diffusers", scheduler["_class_name"]], "vae": ["diffusers", "AutoencoderKL"]}
    label.write_text(json.dumps(index))
    return folder
