"""The settings of the autoencoder: `vae:` of a workflow file.

Covers: name, type, limits, default and meaning of each.
Does not cover: those that it shares with the denoiser (`optimiser`), the model (`model.autoencoder`).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from daskt2i.config.strict import Strict
from daskt2i.config.training.optimiser import OptimiserSettings


class VaeLossSettings(Strict):
    """Weights of the loss terms: absolute error, squared error, differences between neighbouring pixels, KL."""

    l1: float = Field(1.0, ge=0)
    l2: float = Field(2.0, ge=0)
    edges: float = Field(0.5, ge=0)
    kl: float = Field(3e-5, ge=0)


class VaeSettings(OptimiserSettings):
    """An AutoencoderKL on the images of the source, for `train-vae`.

    Attributes:
        model: folder or hub id of the model to fine-tune; null starts from random weights.
        config: diffusers AutoencoderKL config of a new model. It has no effect on fine-tuning.
        crop: side of the random crops to train on, pixels; null for whole images.
        flip: whether to mirror images at random.
    """

    model: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    crop: int | None = Field(None, ge=8)
    flip: bool = True
    loss: VaeLossSettings = VaeLossSettings()  # type: ignore[call-arg]
