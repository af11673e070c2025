"""A whole run, which encodes, trains and draws: its plan, its result, and what it could not do at its end.

Covers: prompts that are missing, encoders that cannot draw, a model that does not fit the latents, too few rows.
Does not cover: the stages, in which order they run (`daskt2i.run`), what encoding needs (`encode.prepare`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from daskt2i.encode.prepare import EncodePlan
from daskt2i.encode.summary import EncodeResult
from daskt2i.encoders import export
from daskt2i.errors import ConfigError
from daskt2i.model.denoiser import unet_config
from daskt2i.protocols import ImageEncoder, TextEncoder
from daskt2i.sample.driver import SampleResult
from daskt2i.train.driver import TrainResult
from daskt2i.train.plan import TrainPlan
from daskt2i.types import EncoderInfo
from daskt2i.view import Section, View, Viewed

_NOTHING = "Nothing was started"


@dataclass(frozen=True, slots=True, repr=False)
class RunResult(Viewed):
    """What `run_all` did: the result of each stage."""

    encode: EncodeResult
    train: TrainResult
    sample: SampleResult

    def to_json(self) -> dict[str, Any]:
        """The object that `run --json` prints."""
        return {"encode": self.encode.to_json(), "train": self.train.to_json(), "sample": self.sample.to_json()}

    def view(self) -> View:
        """The pictures; what was encoded and trained is folded."""
        drawn, earlier = self.sample.view(), (self.encode.view(), self.train.view())
        return replace(drawn, sections=tuple(Section(one.title, one.rows) for one in earlier))


@dataclass(frozen=True, slots=True, repr=False)
class RunPlan(Viewed):
    """What `run_all` would do."""

    encode: EncodePlan
    train: TrainPlan

    def to_json(self) -> dict[str, Any]:
        """The object that `run --dry-run --json` prints: that of the encode."""
        return self.encode.to_json()

    def view(self) -> View:
        """The encode and, after it, the training."""
        before, after = self.encode.view(), self.train.view()
        return replace(before, rows=(*before.rows, *((f"train: {name}", value) for name, value in after.rows)))


def check_whole_run(plan: EncodePlan) -> None:
    """Refuse a run whose training or drawing would fail after hours of encoding. Imports no torch.

    Raises:
        ConfigError: it has no prompts, its encoders cannot draw, its model does not fit, or too few rows are left.
    """
    workflow = plan.workflow
    if not workflow.sample.prompts:
        raise ConfigError(
            f"The run would end with nothing to draw: sample.prompts is empty. {_NOTHING}; set sample.prompts, or run "
            "encode and train alone."
        )
    if plan.random_weights:
        raise ConfigError(
            f"The encoders of {workflow.name} have random weights, which are for speed tests: a model that is trained "
            f"on them draws noise. {_NOTHING}; use pretrained encoders, or run encode alone."
        )
    encoders = workflow.dataset.encoders
    image: ImageEncoder = encoders.image.build(ImageEncoder, "dataset.encoders.image")
    text: TextEncoder = encoders.text.build(TextEncoder, "dataset.encoders.text")
    if why := export.unfit(image, text):
        raise ConfigError(
            f"The run could not draw at its end: {why}. {_NOTHING}; use other encoders, or run encode and train alone."
        )
    train = workflow.train
    unet_config(train.model.preset, train.model.config, _latent_shape(plan.image_info), _features(plan.text_info))
    if plan.source_info.rows <= train.validation:
        raise ConfigError(
            f"train.validation is {train.validation}, and the source has {plan.source_info.rows:,} rows, so nothing "
            f"would be left to train on. {_NOTHING}; make train.validation smaller, or encode more rows."
        )


def _latent_shape(info: EncoderInfo) -> tuple[int, int, int]:
    channels, height, width = next(array.shape for array in info.arrays if array.name == "latent_mean")
    return channels, height, width


def _features(info: EncoderInfo) -> int:
    return int(next(array.shape for array in info.arrays if array.name == "text_states")[-1])
