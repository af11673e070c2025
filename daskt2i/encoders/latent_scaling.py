"""Scaling of raw VAE latents for the denoiser: `final = (raw - mean) / std * scaling_factor`.

Covers: reading mean, std and factor from a VAE's config, as diffusers does. Training and export both use it.
Does not cover: applying them (`loader.shards` applies them to arrays, `export` folds mean and std into the VAE).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def latent_scaling(config: Mapping[str, Any], channels: int) -> tuple[Floats, Floats, float]:
    """Mean and standard deviation of each channel, `float32[channels]` each, and the factor of all channels.

    They are `latents_mean` and `latents_std` if the config has both, else `shift_factor` and 1.

    Args:
        config: the config of the VAE, or the part of it that a store keeps.
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
