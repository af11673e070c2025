"""The settings of an optimisation, which `train:` and `vae:` share.

Covers: name, type, limits, default and meaning of each.
Does not cover: what is trained (`denoiser`, `autoencoder`), the optimisation itself (`train.optimisation`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from daskt2i.config.strict import Strict

_Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimiserSettings(Strict):
    """How weights are trained. Every setting here but `emas` and `export_ema` changes the loss curve.

    Attributes:
        steps: number of optimiser steps.
        batch: samples in one step, over all ranks together.
        optimiser: `adamw`, or `muon`. Muon is used for the matrices inside the model, and AdamW for the rest. Muon does
            more work in a step, which the ranks share. With large batches it needs fewer steps.
        learning_rate: peak of the schedule.
        warmup: steps in which the rate rises to the peak.
        schedule: after the warm-up. `cosine`: along a half cosine to `final_rate` times the peak. `constant`: the peak.
            `wsd`: the peak, and in the last steps down to `final_rate` times the peak (arXiv:2404.06395).
        decay: share of all steps in which `wsd` falls; `decay_shape` along a line (`linear`) or along 1 - sqrt of the
            share that is done (`sqrt`, arXiv:2405.18392).
        on_spike: what is done about a step whose loss or gradient norm is more than `spike_factor` times the median of
            the steps before. `note` tells it, `skip` does not take the step, `stop` ends the training with an error.
        max_grad_norm: the gradient is clipped to this norm; null does not clip.
        ema: decay of the moving average of the weights. The trained model is this average; 0 for no average. The first
            steps decay faster, with `(1 + step) / (10 + step)`.
        emas: decays of further averages, which are kept in checkpoints and validated beside `ema`; null for none.
        export_ema: which average the trained model gets: null for that of `ema`, one of the decays of `ema` and `emas`,
            or `best`: the one with the lowest held-out loss at the end. It changes no loss.
        validation: number of validation rows. Training never uses them.
        seed: seed of weights, order, captions and noise.
    """

    steps: int = Field(1000, ge=1)
    batch: int = Field(64, ge=1)
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(1e-4, gt=0)
    warmup: int = Field(100, ge=0)
    final_rate: float = Field(0.0, ge=0, le=1)
    schedule: Literal["cosine", "constant", "wsd"] = "cosine"
    decay: float = Field(0.2, gt=0, le=1)
    decay_shape: Literal["linear", "sqrt"] = "sqrt"
    betas: tuple[_Decay, _Decay] = (0.9, 0.99)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float | None = Field(1.0, gt=0)
    on_spike: Literal["note", "skip", "stop"] = "note"
    spike_factor: float = Field(10.0, gt=1, allow_inf_nan=False)
    ema: float = Field(0.999, ge=0, lt=1)
    emas: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = Field(None, min_length=1)
    export_ema: Literal["best"] | Annotated[float, Field(ge=0, lt=1)] | None = None
    validation: int = Field(64, ge=0)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _exports_what_is_kept(self) -> OptimiserSettings:
        kept = (self.ema, *self.further_emas())
        if isinstance(self.export_ema, float) and self.export_ema not in kept:
            raise ValueError(
                f"no average with the decay {self.export_ema:g} is kept for export_ema: it can be best or "
                f"{' or '.join(f'{decay:g}' for decay in kept)}, which are ema and emas"
            )
        if self.export_ema == "best" and not self.validation:
            raise ValueError("export_ema: best compares held-out losses, so validation must be 1 or more")
        return self

    def further_emas(self) -> tuple[float, ...]:
        """Each decay of `emas` once, without that of `ema`, which is kept anyway."""
        return tuple(dict.fromkeys(decay for decay in self.emas or () if decay != self.ema))
