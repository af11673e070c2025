"""The transformer of SANA: diffusers' `SanaTransformer2DModel` (Xie et al. 2024, arXiv:2410.10629), linear attention.

Time runs from 0 (clean) to 1000, times `timestep_scale` of the config; the output is noise - latent, as in
`model.diffusion`.

Covers: the preset, fitting to a store, the call.
Does not cover: drawing (`sample.pipelines`), SANA-Sprint, which is distilled and told the guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daskt2i.errors import ConfigError
from daskt2i.model.denoisers.denoiser import Conditions, StoreFacts
from daskt2i.model.denoisers.fitting import built, fitted, require_patches
from daskt2i.model.noise_schedule import Objective

if TYPE_CHECKING:
    import torch

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "sana-small": {
        "num_layers": 12,
        "num_attention_heads": 12,
        "attention_head_dim": 32,
        "num_cross_attention_heads": 6,
        "cross_attention_head_dim": 64,
        "cross_attention_dim": 384,
        "patch_size": 1,
    }
}
"""Arguments of `SanaTransformer2DModel`, as wide and as deep as DiT-S."""

_ZEROS = ("attn2.to_out.0", "proj_out")
"""PixArt's model, from which SANA's was made, begins so (arXiv:2310.00426): cross attention and the output at zero."""


class Sana:
    """The kind of `SanaTransformer2DModel`."""

    class_path = "diffusers.SanaTransformer2DModel"
    pipeline = "SanaPipeline"
    presets: Mapping[str, int] = {"sana-small": 29_000_000}
    objectives: tuple[Objective, ...] = ("flow",)

    def config(
        self, preset: str | None, changes: Mapping[str, Any], facts: StoreFacts, least: int = 0
    ) -> dict[str, Any]:
        """See `DenoiserKind.config`."""
        if changes.get("guidance_embeds"):
            raise ConfigError(
                "train.model.config sets guidance_embeds, as SANA-Sprint does, but SanaPipeline draws without it. "
                "Nothing was started; remove guidance_embeds from train.model.config."
            )
        channels = facts.latent_shapes[0][0]
        side = max(max(height, width) for _, height, width in facts.latent_shapes)
        needed = {"in_channels": channels, "out_channels": channels, "caption_channels": facts.features}
        config = fitted((preset, PRESETS), changes, needed, {"sample_size": side})
        require_patches(config.setdefault("patch_size", 1), facts.latent_shapes)
        return config

    def takes(self, preset: str | None, changes: Mapping[str, Any]) -> frozenset[str]:
        """See `DenoiserKind.takes`."""
        return frozenset()

    def build(self, config: Mapping[str, Any], seed: int) -> torch.nn.Module:
        """See `DenoiserKind.build`."""
        return built(self, config, seed, _ZEROS)

    def predict(
        self, model: torch.nn.Module, inputs: torch.Tensor, times: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        """See `DenoiserKind.predict`."""
        plain: Any = getattr(model, "module", model)  # of DDP
        found: torch.Tensor = model(
            hidden_states=inputs,
            encoder_hidden_states=conditions.states,
            timestep=times * plain.config.timestep_scale,
            encoder_attention_mask=conditions.mask,
            return_dict=False,
        )[0]
        return found
