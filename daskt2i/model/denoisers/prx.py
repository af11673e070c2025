"""The transformer of PRX (Photoroom, 2025): diffusers' `PRXTransformer2DModel`.

Time runs from 0 (clean) to 1; the output is noise - latent, as in `model.diffusion`. Latents attend to themselves and
to the text, which no block changes.

Covers: the preset, fitting to a store, the call.
Does not cover: drawing (`sample.pipelines`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daskt2i.model.denoisers.denoiser import Conditions, StoreFacts
from daskt2i.model.denoisers.fitting import built, fitted, require_patches
from daskt2i.model.noise_schedule import STEPS, Objective

if TYPE_CHECKING:
    import torch

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "prx-small": {"depth": 12, "hidden_size": 384, "num_heads": 6, "axes_dim": (32, 32), "mlp_ratio": 3.5}
}
"""Arguments of `PRXTransformer2DModel`, as wide and as deep as DiT-S."""

_ZEROS = ("modulation.lin", "final_layer.linear", "adaLN_modulation.1")


class PRX:
    """The kind of `PRXTransformer2DModel`."""

    class_path = "diffusers.PRXTransformer2DModel"
    pipeline = "PRXPipeline"
    presets: Mapping[str, int] = {"prx-small": 41_000_000}
    objectives: tuple[Objective, ...] = ("flow",)

    def config(
        self, preset: str | None, changes: Mapping[str, Any], facts: StoreFacts, least: int = 0
    ) -> dict[str, Any]:
        """See `DenoiserKind.config`. The model has no table of positions, so it takes all sizes of latents."""
        needed = {"in_channels": facts.latent_shapes[0][0], "context_in_dim": facts.features}
        config = fitted((preset, PRESETS), changes, needed, {})
        require_patches(config.setdefault("patch_size", 2), facts.latent_shapes)
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
        found: torch.Tensor = model(
            hidden_states=inputs,
            timestep=times / STEPS,
            encoder_hidden_states=conditions.states,
            attention_mask=conditions.mask,
            return_dict=False,
        )[0]
        return found
