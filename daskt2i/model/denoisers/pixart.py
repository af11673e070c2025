"""PixArt: a diffusers `PixArtTransformer2DModel`, a transformer over patches with cross attention to the text.

Covers: the presets, fitting it to a store, its call. (Chen et al. 2023, arXiv:2310.00426; Sigma: arXiv:2403.04692.)
Does not cover: the objective (`model.diffusion`), its pipeline (`sample.pipelines.pixart`).

PixArt's published models also predict a variance, in as many channels again. Its pipeline leaves these out, and so does
training. `PixArtSigmaPipeline` tells the model no sizes of pictures, so it is trained without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daskt2i.errors import ConfigError
from daskt2i.model.denoisers.denoiser import Conditions, StoreFacts
from daskt2i.model.denoisers.fitting import fitted, fresh, require_patches
from daskt2i.model.noise_schedule import Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "pixart-small": {"num_attention_heads": 6, "attention_head_dim": 64, "num_layers": 12, "cross_attention_dim": 384},
    # The transformer of PixArt-alpha and PixArt-sigma, XL/2 (transformer/config.json on the hub).
    "pixart-xl2": {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "cross_attention_dim": 1152},
}
"""Arguments of `PixArtTransformer2DModel`."""


class PixArt:
    """The kind of `PixArtTransformer2DModel`."""

    class_path = "diffusers.PixArtTransformer2DModel"
    pipeline = "PixArtSigmaPipeline"
    presets: Mapping[str, int] = {"pixart-small": 30_000_000, "pixart-xl2": 611_000_000}
    objectives: tuple[Objective, ...] = ("flow", "v", "epsilon")

    def config(
        self, preset: str | None, changes: Mapping[str, Any], facts: StoreFacts, least: int = 0
    ) -> dict[str, Any]:
        """See `DenoiserKind.config`. The model takes all sizes of latents.

        Raises:
            ConfigError: there is no such preset, an argument contradicts the store, latents cannot be cut into patches,
                or the model would be told sizes of pictures.
        """
        channels = facts.latent_shapes[0][0]
        side = max(max(height, width) for _, height, width in facts.latent_shapes)
        learned = changes.get("out_channels") == 2 * channels
        config = fitted(
            (preset, PRESETS),
            changes,
            {"in_channels": channels, "caption_channels": facts.features},
            {"sample_size": side, "out_channels": 2 * channels if learned else channels},
        )
        if config.setdefault("use_additional_conditions", False):
            raise ConfigError(
                "train.model.config sets use_additional_conditions, but PixArtSigmaPipeline tells the model no sizes "
                "of pictures. Nothing was started; set train.model.config.use_additional_conditions to false."
            )
        if not preset and "cross_attention_dim" not in config:
            heads, wide = config.get("num_attention_heads", 16), config.get("attention_head_dim", 72)
            config["cross_attention_dim"] = heads * wide
        require_patches(config.get("patch_size", 2), facts.latent_shapes)
        return config

    def takes(self, preset: str | None, changes: Mapping[str, Any]) -> frozenset[str]:
        """See `DenoiserKind.takes`: nothing."""
        return frozenset()

    def build(self, config: Mapping[str, Any], seed: int) -> nn.Module:
        """See `DenoiserKind.build`. As in the code of DiT, the last layer starts at zero.

        Raises:
            ConfigError: diffusers rejects the config.
        """
        from diffusers import PixArtTransformer2DModel
        from torch.nn.init import zeros_

        model = fresh(PixArtTransformer2DModel, config, seed)
        zeros_(model.proj_out.weight)
        zeros_(model.proj_out.bias)
        return model

    def predict(self, model: nn.Module, inputs: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """See `DenoiserKind.predict`."""
        found: Tensor = model(
            inputs,
            encoder_hidden_states=conditions.states,
            timestep=times,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            encoder_attention_mask=conditions.mask,
            return_dict=False,
        )[0]
        return found[:, : inputs.shape[1]]
