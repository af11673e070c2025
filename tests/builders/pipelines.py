"""Tiny pipelines of Stable Diffusion's form in their real format, as a hub would give them: for tests of tuning."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from builders.models import _diffusers

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
