"""The settings of the denoiser: `train:` of a workflow file.

Covers: name, type, limits, default and meaning of each.
Does not cover: those that it shares with the autoencoder (`optimiser`), the models (`model`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from daskt2i.config.strict import Strict
from daskt2i.config.training.optimiser import OptimiserSettings


class ModelSettings(Strict):
    """The denoiser: a preset of `model.PRESETS`, a diffusers UNet2DConditionModel config, or both."""

    preset: str | None = "demo"
    config: dict[str, Any] = Field(default_factory=dict)


class TrainSettings(OptimiserSettings):
    """A text-to-image denoiser on the latents of the store.

    Attributes:
        objective: `flow` (rectified flow, logit-normal times), `v` (zero terminal SNR) or `epsilon`.
        snr_gamma: min-SNR weight of `v` and `epsilon` (Hang et al. 2023, arXiv:2303.09556); null for none.
        shift: of flow's times: `t -> s t / (1 + (s - 1) t)`; more than 1 for larger latents (arXiv:2403.03206, 5.3.2).
        caption_dropout: share of captions replaced by the empty prompt. Guidance needs it.
        caption_weights: how often each caption slot of a row is drawn, one number a slot; null: all equally often.
        posterior: `sample` draws from the VAE's posterior each time, `mean` takes its mean.
        shuffle_window: number of shards whose rows are shuffled together.
        where, view: an expression that keeps rows, and the size of their latents (`512x448`); null: the default ones.
    """

    model: ModelSettings = ModelSettings()
    objective: Literal["flow", "v", "epsilon"] = "flow"
    snr_gamma: float | None = Field(5.0, gt=0)
    shift: float = Field(1.0, gt=0)
    caption_dropout: float = Field(0.1, ge=0, le=1)
    caption_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    posterior: Literal["sample", "mean"] = "sample"
    shuffle_window: int = Field(8, ge=1)
    where: str | None = None
    view: str | None = None
