"""The transformer of Lumina-Image 2.0: diffusers' `Lumina2Transformer2DModel` (Qin et al. 2025, arXiv:2503.21758).

Here time runs from 0 (noise) to 1 (clean), and the output is latent - noise. `predict` turns both into those of
`model.diffusion`. Text and latents are one sequence; each caption takes as many places as its mask says.

Covers: the preset, fitting to a store, the call.
Does not cover: drawing (`sample.pipelines`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daskt2i.errors import ConfigError
from daskt2i.model.denoisers.denoiser import Conditions, StoreFacts
from daskt2i.model.denoisers.fitting import built, fitted, require_patches
from daskt2i.model.noise_schedule import STEPS, Objective

if TYPE_CHECKING:
    import torch

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "lumina2-small": {
        "hidden_size": 384,
        "num_layers": 12,
        "num_refiner_layers": 2,
        "num_attention_heads": 6,
        "num_kv_heads": 2,
        "multiple_of": 64,
        "axes_dim_rope": (16, 24, 24),
    }
}
"""Arguments of `Lumina2Transformer2DModel`, as wide and as deep as DiT-S."""

_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 2304,
    "num_attention_heads": 24,
    "axes_dim_rope": (32, 32, 32),
    "axes_lens": (300, 512, 512),
}
"""Those of diffusers that are compared here."""

_ZEROS = ("norm1.linear", "norm_out.linear_1", "norm_out.linear_2")


class Lumina2:
    """The kind of `Lumina2Transformer2DModel`."""

    class_path = "diffusers.Lumina2Transformer2DModel"
    pipeline = "Lumina2Pipeline"
    presets: Mapping[str, int] = {"lumina2-small": 44_000_000}
    objectives: tuple[Objective, ...] = ("flow",)

    def config(
        self, preset: str | None, changes: Mapping[str, Any], facts: StoreFacts, least: int = 0
    ) -> dict[str, Any]:
        """See `DenoiserKind.config`. The tables of positions are made long enough for all captions and latents."""
        channels = facts.latent_shapes[0][0]
        side = max(max(height, width) for _, height, width in facts.latent_shapes)
        needed = {"in_channels": channels, "out_channels": channels, "cap_feat_dim": facts.features}
        config = {**_DEFAULTS, **fitted((preset, PRESETS), changes, needed, {"sample_size": side})}
        patch = config.setdefault("patch_size", 2)
        require_patches(patch, facts.latent_shapes)
        head, axes = config["hidden_size"] // config["num_attention_heads"], config["axes_dim_rope"]
        if sum(axes) != head:
            raise ConfigError(
                f"axes_dim_rope is {', '.join(map(str, axes))} in train.model.config, but a head has {head} numbers "
                "(hidden_size / num_attention_heads). Nothing was started; give three even numbers whose sum is "
                f"{head}."
            )
        shortest = (facts.tokens + 1, side // patch, side // patch)
        config["axes_lens"] = tuple(map(max, config["axes_lens"], shortest))
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
        """See `DenoiserKind.predict`. If padding counts as text, all states do."""
        states, mask = conditions.states, conditions.mask
        found: torch.Tensor = model(
            hidden_states=inputs.contiguous(),
            timestep=1 - times / STEPS,
            encoder_hidden_states=states,
            encoder_attention_mask=states.new_ones(states.shape[:2]).bool() if mask is None else mask,
            return_dict=False,
        )[0]
        return -found
