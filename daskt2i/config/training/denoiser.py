"""The settings of the denoiser: `train:` of a workflow file.

Covers: name, type, limits, default and meaning of each.
Does not cover: those that it shares with the autoencoder (`optimiser`), the models (`model`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from daskt2i.config.strict import Strict
from daskt2i.config.training.optimiser import OptimiserSettings


class ModelSettings(Strict):
    """The denoiser: a preset of `model.PRESETS`, a diffusers UNet2DConditionModel config, or both."""

    preset: str | None = "demo"
    config: dict[str, Any] = Field(default_factory=dict)


class TimeSettings(Strict):
    """How the times of flow are drawn, before `train.shift` (arXiv:2403.03206, 3.1).

    Attributes:
        kind: `logit_normal` (most in the middle), `uniform`, or `mode` (most where `scale` puts them).
        mean, std: of `logit_normal`, in logits. A mean above 0 gives noisier times; a larger std gives more times at
            both ends.
        scale: of `mode`; above 0 most times are in the middle, below 0 at both ends.
    """

    kind: Literal["logit_normal", "uniform", "mode"] = "logit_normal"
    mean: float = 0.0
    std: float = Field(1.0, gt=0)
    # With a larger scale some times would be drawn twice: the map from uniform numbers would go back.
    scale: float = Field(1.29, ge=-1, le=1.75)


class TrainSettings(OptimiserSettings):
    """A text-to-image denoiser on the latents of the store.

    Attributes:
        objective: `flow` (rectified flow, logit-normal times), `v` (zero terminal SNR) or `epsilon`.
        snr_gamma: min-SNR weight of `v` and `epsilon` (Hang et al. 2023, arXiv:2303.09556); null for none.
        shift: of flow's times: `t -> s t / (1 + (s - 1) t)`; more than 1 for larger latents (arXiv:2403.03206, 5.3.2).
        times: how flow's times are drawn; null is logit-normal with mean 0 and std 1.
        caption_dropout: share of captions replaced by the empty prompt. Guidance needs it.
        posterior: `sample` draws from the VAE's posterior each time, `mean` takes its mean.
        shuffle_window: number of shards whose rows are shuffled together.
        where, view: an expression that keeps rows, and the size of their latents (`512x448`); null: the default ones.
    """

    model: ModelSettings = ModelSettings()
    objective: Literal["flow", "v", "epsilon"] = "flow"
    snr_gamma: float | None = Field(5.0, gt=0)
    shift: float = Field(1.0, gt=0)
    times: TimeSettings | None = None
    caption_dropout: float = Field(0.1, ge=0, le=1)
    posterior: Literal["sample", "mean"] = "sample"
    shuffle_window: int = Field(8, ge=1)
    where: str | None = None
    view: str | None = None

    @model_validator(mode="after")
    def _agree(self) -> TrainSettings:
        if self.times is not None and self.objective != "flow":
            raise ValueError(
                f" has times, which only the objective flow draws so; with objective={self.objective} leave times out "
                "(null)"
            )
        return self
