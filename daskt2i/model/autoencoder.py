"""The autoencoder that `train-vae` trains: a diffusers `AutoencoderKL`, new or pretrained, and its folder.

Covers: the config of a new one, loading a pretrained one, encode and decode as one module, writing the folder.
Does not cover: the loss (`autoencoder_loss`), the training (`train.autoencoder_rank`), encoding a data set with it
(`encoders.vae`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daskt2i.encoders.vae import VaeEncoder
from daskt2i.encoders.weights import quiet
from daskt2i.errors import ConfigError
from daskt2i.store.artifacts.finished import VAE_FOLDER
from daskt2i.store.artifacts.publish import publishing
from daskt2i.store.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

FOLDER = VAE_FOLDER.name
"""The folder of the trained autoencoder, inside the run folder."""

SMALL: Mapping[str, Any] = {
    "block_out_channels": (16, 32, 64),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
}
"""The config of a new model, which `vae.config` changes. It is the architecture of the demo's model, with reduction 4.

It has no attention, so its cost per pixel and its quality do not depend on the size of the picture.
"""


class PretrainedAutoencoder(VaeEncoder):
    """The autoencoder that `vae.model` names."""

    setting = "vae.model"

    def latent(self, resolution: int) -> tuple[int, int]:
        """Read channels and reduction from config.json; the weights are not loaded.

        Raises:
            ConfigError: the model is no AutoencoderKL, or the resolution does not fit it.
            ModelMissing, ModelError: there is no such model.
        """
        about = self.info(resolution).attributes
        if about["class"] != "AutoencoderKL":
            raise ConfigError(
                f"vae.model is {self.model}, a model of class {about['class']}, but train-vae needs an AutoencoderKL. "
                "Set vae.model to an AutoencoderKL, or to null for a new model."
            )
        return int(about["latent_channels"]), int(about["reduction"])

    def model_to_train(self) -> Any:
        """Load the model with fp32 weights, on the CPU.

        Raises:
            ModelMissing, ModelError: there is no such model, or its files do not fit together.
        """
        import torch

        return self._pretrained(torch.float32)


def new_config(changes: Mapping[str, Any], resolution: int) -> dict[str, Any]:
    """Arguments of a new `AutoencoderKL`: `SMALL` with the changes, and the block types filled in.

    Args:
        changes: `vae.config`, arguments of diffusers; keys that start with `_`, as in a config.json, are ignored.
        resolution: side of the pictures in pixels.

    Raises:
        ConfigError: the config is not for RGB pictures, or its list of widths is wrong.
    """
    config = {**SMALL, **{key: value for key, value in changes.items() if not key.startswith("_")}}
    widths = config["block_out_channels"]
    if not isinstance(widths, list | tuple) or not widths:
        raise ConfigError(f"vae.config.block_out_channels is {widths!r}; it must be a list such as [16, 32, 64].")
    if config.get("in_channels", 3) != 3 or config.get("out_channels", 3) != 3:
        raise ConfigError(
            "vae.config sets in_channels or out_channels to another number than 3, but pictures are RGB. Remove both."
        )
    config.setdefault("down_block_types", ("DownEncoderBlock2D",) * len(widths))
    config.setdefault("up_block_types", ("UpDecoderBlock2D",) * len(widths))
    return config | {"sample_size": resolution}


def latent_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Channels and reduction of a new model. Each stage except the last halves the sides."""
    return int(config["latent_channels"]), 2 ** (len(config["block_out_channels"]) - 1)


def new(config: Mapping[str, Any], seed: int) -> Any:
    """Build a model with fresh weights. The same seed gives the same weights.

    Raises:
        ConfigError: diffusers rejects the config.
    """
    import torch
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return AutoencoderKL(**config)
        except (TypeError, ValueError, KeyError, IndexError, RuntimeError, ZeroDivisionError) as error:
            raise ConfigError(f"diffusers rejects vae.config: {error}") from error


def reconstruct(vae: Any) -> nn.Module:
    """A module that encodes, draws a latent and decodes in one `forward`, as DDP needs. Its `vae` is the model."""
    from torch import Tensor, nn

    class ThereAndBack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, pixels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
            """Pictures (-1 to 1) -> decoded pictures, posterior mean and logvar (fp32). Without noise: the mean."""
            found = self.vae.encode(pixels).latent_dist
            posterior = type(found)(found.parameters.float())  # exp(logvar / 2) loses bits under autocast
            latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
            return self.vae.decode(latents).sample, posterior.mean, posterior.logvar

        def enable_gradient_checkpointing(self) -> None:
            self.vae.enable_gradient_checkpointing()

    return ThereAndBack()


def save(vae: Any, folder: RunFolder, label: Mapping[str, Any]) -> str:
    """Write `vae/` into the run folder, and return its address. It becomes visible in one step.

    Args:
        label: JSON values for `daskt2i.json`.

    Raises:
        StoreFull, StoreError: the folder cannot be written; the former one is unchanged.
    """
    with publishing(folder, VAE_FOLDER) as new:
        with quiet():
            vae.save_pretrained(new.place, safe_serialization=True)
        path = new.place / VAE_FOLDER.index
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # the source of a fine-tuned model can be a path of this machine
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        new.label.update(label)
    return folder.address(FOLDER)
