"""The settings of the denoiser: `train:` of a workflow file.

Covers: name, type, limits, default and meaning of each.
Does not cover: those that it shares with the autoencoder (`optimiser`), the models (`model`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from daskt2i.config.strict import Strict
from daskt2i.config.training.optimiser import OptimiserSettings
from daskt2i.config.training.pretrained import PretrainedSettings

UNET = "diffusers.UNet2DConditionModel"
"""The class of the denoiser unless `train.model.class` names another one."""

OWN_DENOISERS = ("diffusers.", "daskt2i.model.denoisers.uvit.")
"""Begins of `class` that a run folder's own settings may name: they are looked up in a table, and not imported by what
the setting says."""


class ModelSettings(Strict):
    """The denoiser: a preset of its class, a config of its class, or both.

    Attributes:
        class_path: `class` in a workflow: a class of `model.denoisers.kinds`; null is diffusers' UNet2DConditionModel.
        preset: a preset of the class; the U-Net's default is `demo`, that of others null.
        config: arguments of the class, as in a config.json; they override the preset.
    """

    class_path: str | None = Field(None, alias="class")
    preset: str | None = "demo"
    config: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _without_presets_of_others(cls, data: Any) -> Any:
        """The default preset is one of the U-Net."""
        if isinstance(data, Mapping) and "preset" not in data:
            named = data.get("class", data.get("class_path"))
            return {**data, "preset": None} if named not in (None, UNET) else data
        return data

    @field_validator("class_path")
    @classmethod
    def _one_word_for_the_default(cls, value: str | None) -> str | None:
        """A training that names the default class is the same training as one that names none."""
        return None if value == UNET else value

    @model_serializer(mode="wrap")
    def _without_the_default(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The default class is not written: identities and files of a U-Net are those of older versions."""
        found: dict[str, Any] = write(self)
        return {name: value for name, value in found.items() if name not in ("class", "class_path") or value}


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
        times: how flow's times are drawn; null is logit-normal with mean 0 and std 1. `v` and `epsilon` do not use it.
        caption_dropout: share of captions replaced by the empty prompt. Guidance needs it.
        caption_weights: how often each caption slot of a row is drawn, one number a slot; null: all equally often.
        posterior: `sample` draws from the VAE's posterior each time, `mean` takes its mean.
        shuffle_window: number of shards whose rows are shuffled together.
        where, view: an expression that keeps rows, and the size of their latents (`512x448`); null: the default ones.
        pretrained: the pipeline whose denoiser is tuned; null: a new denoiser. Its objective and its denoiser take the
            place of `objective` and `model`.
    """

    model: ModelSettings = ModelSettings.model_validate({})
    objective: Literal["flow", "v", "epsilon"] = "flow"
    snr_gamma: float | None = Field(5.0, gt=0)
    shift: float = Field(1.0, gt=0)
    times: TimeSettings | None = None
    caption_dropout: float = Field(0.1, ge=0, le=1)
    caption_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    posterior: Literal["sample", "mean"] = "sample"
    shuffle_window: int = Field(8, ge=1)
    where: str | None = None
    view: str | None = None
    pretrained: PretrainedSettings | None = None
