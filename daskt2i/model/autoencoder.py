"""The autoencoder that is fitted: a diffusers `AutoencoderKL`, new or given, and the folder that it becomes.

Covers: the config of a new one, loading one to go on from, there and back as one module, writing the folder.
Does not cover: what it is fitted to (`autoencoder_loss`, `train.autoencoder_rank`), encoding a data set with it
(`encoders.vae`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskt2i.encoders.vae import VaeEncoder
from daskt2i.errors import ConfigError
from daskt2i.store.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

FOLDER = "vae"
"""Where the autoencoder lies at the end, below the run folder."""

SMALL: Mapping[str, Any] = {
    "block_out_channels": (16, 32, 64),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
}
"""What a new model is where `vae.config` does not say otherwise: the architecture of the demo's, reduction 4.

Without attention its cost and its quality do not depend on the size of the picture.
"""


class PretrainedAutoencoder(VaeEncoder):
    """The autoencoder that `vae.model` names."""

    setting = "vae.model"

    def latent(self, resolution: int) -> tuple[int, int]:
        """Channels and reduction, from config.json alone.

        Raises:
            ConfigError: no AutoencoderKL, or a resolution that does not fit it.
            ModelMissing, ModelError: no such model.
        """
        about = self.info(resolution).attributes
        if about["class"] != "AutoencoderKL":
            raise ConfigError(
                f"vae.model is {self.model}, a model of class {about['class']}; train-vae fits an AutoencoderKL. Name "
                "one, or null for a new one."
            )
        return int(about["latent_channels"]), int(about["reduction"])

    def model_to_train(self) -> Any:
        """Its weights in fp32, on the CPU.

        Raises:
            ModelMissing, ModelError: no such model, or files that do not fit it.
        """
        import torch

        return self._pretrained(torch.float32)


def new_config(changes: Mapping[str, Any], resolution: int) -> dict[str, Any]:
    """Arguments of a new `AutoencoderKL`: `SMALL`, changed by diffusers' own arguments, the kinds of blocks filled in.

    Args:
        changes: `vae.config`; keys that start with `_`, as in a config.json, do not count.
        resolution: side of the pictures in pixels.

    Raises:
        ConfigError: not a model for RGB pictures.
    """
    config = {**SMALL, **{key: value for key, value in changes.items() if not key.startswith("_")}}
    widths = config["block_out_channels"]
    if not isinstance(widths, list | tuple) or not widths:
        raise ConfigError(f"vae.config.block_out_channels is {widths!r}; it must be a list such as [16, 32, 64].")
    if config.get("in_channels", 3) != 3 or config.get("out_channels", 3) != 3:
        raise ConfigError("vae.config asks for other than 3 channels in and out, but pictures are RGB; leave them out.")
    config.setdefault("down_block_types", ("DownEncoderBlock2D",) * len(widths))
    config.setdefault("up_block_types", ("UpDecoderBlock2D",) * len(widths))
    return config | {"sample_size": resolution}


def latent_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Channels and reduction of a new model: each stage but one halves the sides."""
    return int(config["latent_channels"]), 2 ** (len(config["block_out_channels"]) - 1)


def new(config: Mapping[str, Any], seed: int) -> Any:
    """A model with fresh weights; the same for the same seed.

    Raises:
        ConfigError: diffusers does not take the config.
    """
    import torch
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return AutoencoderKL(**config)
        except (TypeError, ValueError, KeyError, IndexError, RuntimeError, ZeroDivisionError) as error:
            raise ConfigError(f"diffusers does not take this vae.config: {error}") from error


def reconstruct(vae: Any) -> nn.Module:
    """Encode, draw, decode in one `forward`: what DDP wraps must be called as a whole. The model is its `vae`."""
    from torch import Tensor, nn

    class ThereAndBack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, pixels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
            """Pictures -1 to 1 -> those that come back, mean and logvar of the posterior (fp32). No noise: its mean."""
            found = self.vae.encode(pixels).latent_dist
            posterior = type(found)(found.parameters.float())  # exp(logvar / 2) loses bits under autocast
            latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
            return self.vae.decode(latents).sample, posterior.mean, posterior.logvar

        def enable_gradient_checkpointing(self) -> None:
            self.vae.enable_gradient_checkpointing()

    return ThereAndBack()


def save(vae: Any, folder: RunFolder) -> str:
    """Write `vae/`, config.json last; where it lies.

    Raises:
        StoreFull, StoreError: it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="daskt2i-") as place:
        vae.save_pretrained(place, safe_serialization=True)
        label = Path(place) / "config.json"
        for path in sorted(Path(place).iterdir()):
            if path != label:
                with path.open("rb") as weights, folder.writing(f"{FOLDER}/{path.name}") as file:
                    shutil.copyfileobj(weights, file)
        config = json.loads(label.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # where a fine-tuned model came from: a path of this machine
        folder.write(f"{FOLDER}/{label.name}", (json.dumps(config, indent=2) + "\n").encode())
    return folder.address(FOLDER)
