"""The transformer of Stable Diffusion 3: diffusers' `SD3Transformer2DModel` (Esser et al. 2024, arXiv:2403.03206).

It gets text states and the pooled state of the caption. Time runs from 0 (clean) to 1000, and the output is noise -
latent, as in `model.diffusion`. It has no mask, so padding counts as text.

Covers: the preset, fitting to a store, the call.
Does not cover: drawing (`sample.pipelines`), text states as the pretrained pipeline makes them (`encoders.joint`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daskt2i.errors import ConfigError
from daskt2i.model.denoisers.denoiser import POOLED, Conditions, StoreFacts
from daskt2i.model.denoisers.fitting import built, fitted, require_patches
from daskt2i.model.noise_schedule import Objective

if TYPE_CHECKING:
    import torch

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "sd3-small": {"num_layers": 12, "num_attention_heads": 6, "attention_head_dim": 64, "qk_norm": "rms_norm"}
}
"""Arguments of `SD3Transformer2DModel`, as wide and as deep as DiT-S."""

_ZEROS = ("norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out")


class SD3:
    """The kind of `SD3Transformer2DModel`."""

    class_path = "diffusers.SD3Transformer2DModel"
    pipeline = "StableDiffusion3Pipeline"
    presets: Mapping[str, int] = {"sd3-small": 63_000_000}
    objectives: tuple[Objective, ...] = ("flow",)

    def config(
        self, preset: str | None, changes: Mapping[str, Any], facts: StoreFacts, least: int = 0
    ) -> dict[str, Any]:
        """See `DenoiserKind.config`. The table of positions is made long enough for all sizes of latents."""
        if not facts.pooled:
            raise ConfigError(
                "SD3Transformer2DModel is told the pooled state of a caption, but the store has no text_pooled. "
                "Nothing was started; encode with a text encoder that makes pooled states into another run folder "
                "(out), or set another train.model.class."
            )
        if facts.masked:
            raise ConfigError(
                "SD3Transformer2DModel has no mask for padding, but the store holds captions without padding (pad: "
                "length). Nothing was started; encode with dataset.encoders.text.pad=full into another run folder "
                "(out), or set another train.model.class."
            )
        channels = facts.latent_shapes[0][0]
        side = max(max(height, width) for _, height, width in facts.latent_shapes)
        needed = {
            "in_channels": channels,
            "out_channels": channels,
            "joint_attention_dim": facts.features,
            "pooled_projection_dim": facts.pooled,
        }
        config = fitted((preset, PRESETS), changes, needed, {"sample_size": side})
        patch = config.setdefault("patch_size", 2)
        require_patches(patch, facts.latent_shapes)
        config.setdefault(
            "caption_projection_dim", config.get("num_attention_heads", 18) * config.get("attention_head_dim", 64)
        )
        config["pos_embed_max_size"] = max(config.get("pos_embed_max_size", 0), side // patch)
        return config

    def takes(self, preset: str | None, changes: Mapping[str, Any]) -> frozenset[str]:
        """See `DenoiserKind.takes`: the pooled state."""
        return frozenset({POOLED})

    def build(self, config: Mapping[str, Any], seed: int) -> torch.nn.Module:
        """See `DenoiserKind.build`."""
        return built(self, config, seed, _ZEROS)

    def predict(
        self, model: torch.nn.Module, inputs: torch.Tensor, times: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        """See `DenoiserKind.predict`."""
        found: torch.Tensor = model(
            hidden_states=inputs,
            timestep=times,
            encoder_hidden_states=conditions.states,
            pooled_projections=conditions.pooled,
            return_dict=False,
        )[0]
        return found
