"""The settings of tuning: `train.pretrained` of a workflow file.

Covers: name, type, limits, default and meaning of each.
Does not cover: reading the pipeline, what is trained of it (`model.pretrained`).
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from daskt2i.config.strict import Strict

Method = Literal["full", "lora", "layers"]


class LoraSettings(Strict):
    """A low-rank adapter (LoRA, arXiv:2106.09685). The defaults are those of diffusers' training scripts.

    Attributes:
        rank: of the two matrices of a layer.
        alpha: the change of a layer is scaled by `alpha / rank`; null for the rank, so for no scale.
        dropout: share of the inputs of the adapter that are set to zero in training.
        target_modules: layers that get an adapter, by the end of their names.
    """

    rank: int = Field(4, ge=1)
    alpha: float | None = Field(None, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: list[str] = Field(["to_q", "to_k", "to_v", "to_out.0"], min_length=1)

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class PretrainedSettings(Strict):
    """A pipeline of diffusers whose denoiser is tuned.

    Attributes:
        model: folder or hub id of the pipeline. Its weights are part of the identity of the training; its place is not.
        revision: branch, tag or commit of a hub id.
        method: `full` trains all weights, `lora` a low-rank adapter, `layers` the weights that `layers` names.
        lora: of method `lora`.
        layers: of method `layers`: patterns of weight names, with `*` for any text: `*.attn2.*`.
    """

    model: str = Field(min_length=1)
    revision: str | None = None
    method: Method = "full"
    lora: LoraSettings = LoraSettings()  # type: ignore[call-arg]
    layers: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _layers_belong_to_their_method(self) -> Self:
        if (self.method == "layers") != bool(self.layers):
            raise ValueError("method layers and a list of layers belong together")
        return self
