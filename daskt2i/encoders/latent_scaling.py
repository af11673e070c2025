"""How a VAE's raw latents become those that a denoiser sees: `final = (raw - mean) / std * scaling_factor`.

Covers: reading mean, std and factor from a VAE's config, as diffusers does. Training and export both ask here.
Does not cover: doing it (`loader.shards` to arrays, `export` by folding mean and std into the VAE).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def latent_scaling(config: Mapping[str, Any], channels: int) -> tuple[Floats, Floats, float]:
    """Mean and standard deviation of each channel, `float32[channels]` each, and the factor for all.

    `latents_mean` and `latents_std` where the config has both, else `shift_factor` and 1.

    Args:
        config: of the VAE, or what a store keeps of it.
    """
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        mean, std = config.get("shift_factor") or 0.0, 1.0
    whole = (channels,)
    return (
        np.broadcast_to(np.array(mean, np.float32).reshape(-1), whole),
        np.broadcast_to(np.array(std, np.float32).reshape(-1), whole),
        float(config.get("scaling_factor", 1.0)),
    )
