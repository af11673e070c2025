"""Small transformers of diffusers, and the loss of a plain loop for each of them."""

from __future__ import annotations

from typing import Any

import torch

from daskt2i.model.denoisers.denoiser import Conditions

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "SD3Transformer2DModel": {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2},
    "Lumina2Transformer2DModel": {
        "hidden_size": 48,
        "num_layers": 2,
        "num_refiner_layers": 1,
        "num_attention_heads": 2,
        "num_kv_heads": 1,
        "multiple_of": 16,
        "axes_dim_rope": [8, 8, 8],
    },
    "SanaTransformer2DModel": {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 16,
        "cross_attention_dim": 32,
    },
    "PRXTransformer2DModel": {"hidden_size": 32, "num_heads": 2, "depth": 2, "axes_dim": [8, 8]},
}
"""Class of diffusers -> arguments of a model with few numbers."""

PUBLISHED: list[tuple[str, dict[str, Any]]] = [
    (
        "SD3Transformer2DModel",
        {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 24,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 16,
            "pos_embed_max_size": 192,
            "dual_attention_layers": [0],
            "qk_norm": "rms_norm",
        },
    ),
    (
        "Lumina2Transformer2DModel",
        {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": None,
            "hidden_size": 48,
            "num_layers": 2,
            "num_refiner_layers": 2,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "multiple_of": 16,
            "ffn_dim_multiplier": None,
            "norm_eps": 1e-05,
            "scaling_factor": 1.0,
            "axes_dim_rope": [8, 8, 8],
            "axes_lens": [300, 512, 512],
            "cap_feat_dim": 24,
        },
    ),
    (
        "SanaTransformer2DModel",
        {
            "in_channels": 32,
            "out_channels": 32,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 2,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 16,
            "cross_attention_dim": 32,
            "caption_channels": 24,
            "mlp_ratio": 2.5,
            "dropout": 0.0,
            "attention_bias": False,
            "sample_size": 32,
            "patch_size": 1,
            "norm_elementwise_affine": False,
            "norm_eps": 1e-06,
            "interpolation_scale": None,
            "qk_norm": "rms_norm_across_heads",
        },
    ),
    (
        "PRXTransformer2DModel",
        {
            "in_channels": 16,
            "patch_size": 2,
            "context_in_dim": 24,
            "hidden_size": 32,
            "mlp_ratio": 3.5,
            "num_heads": 2,
            "depth": 2,
            "axes_dim": [8, 8],
            "theta": 10000,
        },
    ),
]
"""The keys that config.json of published models have, with small widths."""


def disturbed(model: Any) -> Any:
    """The model with other weights: a fresh one predicts zero, whatever it is told."""
    state = torch.random.get_rng_state()
    torch.manual_seed(7)
    with torch.no_grad():
        for values in model.parameters():
            values += 0.1 * torch.randn_like(values)
    torch.random.set_rng_state(state)
    return model


def plain_loss(
    model: Any,
    latents: torch.Tensor,
    noise: torch.Tensor,
    normal: torch.Tensor,
    shift: float,
    told: Conditions,
) -> torch.Tensor:
    """The flow loss of a batch as a reader of the papers would write it."""
    sigma = 1 / (1 + torch.exp(-normal))
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    mixed = latents + sigma.reshape(-1, 1, 1, 1) * (noise - latents)
    mask = torch.ones(told.states.shape[:2]) if told.mask is None else told.mask
    match type(model).__name__:
        case "SD3Transformer2DModel":
            velocity = model(mixed, told.states, told.pooled, sigma * 1000).sample
        case "Lumina2Transformer2DModel":  # its time runs the other way, and so does what it says
            velocity = -model(mixed, 1 - sigma, told.states, mask).sample
        case "SanaTransformer2DModel":
            velocity = model(mixed, told.states, sigma * 1000, encoder_attention_mask=mask).sample
        case "PRXTransformer2DModel":
            velocity = model(mixed, sigma, told.states, mask).sample
        case name:
            raise ValueError(name)
    return ((velocity - (noise - latents)) ** 2).mean()
