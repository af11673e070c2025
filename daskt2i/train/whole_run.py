"""A whole run, which encodes, trains, draws and measures: its plan, its result, and checks before it starts.

Covers: refusing missing prompts, encoders that cannot decode, a model that does not fit the latents.
Does not cover: the stages and their order (`session.stages`), the needs of encoding (`encode.prepare`) and of figures
(`evaluation.figures.prepare`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from daskt2i.encode.prepare import EncodePlan
from daskt2i.encode.summary import EncodeResult
from daskt2i.errors import ConfigError
from daskt2i.model.denoisers.denoiser import StoreFacts
from daskt2i.model.own_encoders import cannot_draw
from daskt2i.sample.driver import SampleResult, requests_for
from daskt2i.train.driver import TrainResult
from daskt2i.train.plan import TrainPlan
from daskt2i.train.samples import check_model
from daskt2i.types import EncoderInfo
from daskt2i.view import Section, View, Viewed

_NOTHING = "Nothing was started"

HELDOUT_PROMPTS = 8
"""Number of captions of validation rows that a run draws if the workflow has no prompts."""

_SHOWN_PROMPTS = 16
"""Prompts that a plan shows; a notebook or a terminal has no room for hundreds."""


class Measured(Protocol):
    """The result of a stage that measures pictures."""

    def to_json(self) -> dict[str, Any]:
        """An object for `run --json`."""
        ...

    def view(self) -> View:
        """The figures."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class RunResult(Viewed):
    """The result of `run_all`: the result of each stage.

    Attributes:
        evaluate: the figures of `evaluate.metrics`; None if the workflow names none.
    """

    encode: EncodeResult
    train: TrainResult
    sample: SampleResult
    evaluate: Measured | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that `run --json` prints."""
        found = {"encode": self.encode.to_json(), "train": self.train.to_json(), "sample": self.sample.to_json()}
        return found if self.evaluate is None else {**found, "evaluate": self.evaluate.to_json()}

    def view(self) -> View:
        """The pictures and the figures. The results of encoding and training are folded."""
        drawn, earlier = self.sample.view(), (self.encode.view(), self.train.view())
        figures = () if self.evaluate is None else self.evaluate.view().rows
        sections = tuple(Section(one.title, one.rows) for one in earlier)
        return replace(drawn, rows=(*drawn.rows, *figures), sections=sections)


@dataclass(frozen=True, slots=True, repr=False)
class RunPlan(Viewed):
    """The plan of `run_all`."""

    encode: EncodePlan
    train: TrainPlan

    @property
    def script(self) -> str:
        """The job script or the manifest of the workers; "" if they need none."""
        return self.encode.script

    def to_json(self) -> dict[str, Any]:
        """The object that `run --dry-run --json` prints: the plan of encoding, in `train` that of training, and in
        `sample` that of drawing, and in `evaluate` the figures, if the workflow names some."""
        draw = self.encode.workflow.sample.model_dump(include={"prompts", "seed", "steps", "guidance", "sampler"})
        found = {**self.encode.to_json(), "train": self.train.to_json(), "sample": draw}
        measure = self.encode.workflow.evaluate
        asked = {"metrics", "samples", "reference", "weights"}
        return {**found, "evaluate": measure.model_dump(include=asked)} if measure.metrics else found

    def view(self) -> View:
        """The plan of the encode, then the plans of the training and of the drawing."""
        before = self.encode.view()
        rows = list(before.rows)
        stages = {"train": self.train.view(), "draw": self.draw_view(), "measure": self.measure_view()}
        for stage, after in stages.items():
            rows += [(f"{stage}: {name}", value) for name, value in after.rows if name != "run folder"]
        return replace(before, rows=tuple(rows))

    def draw_view(self) -> View:
        """The prompts that will be drawn, and how."""
        how = self.encode.workflow.sample
        count = len(how.prompts) or min(HELDOUT_PROMPTS, self.encode.workflow.train.validation)
        ways = f"{how.steps} steps of {how.sampler}, guidance {how.guidance:g}, seed {how.seed}"
        rows = [("pictures", f"{count:,}: {ways}")]
        rows += [(f"prompt {number}", prompt) for number, prompt in enumerate(how.prompts[:_SHOWN_PROMPTS], 1)]
        if not how.prompts:
            rows.append(("prompts", "captions of validation rows, which the model does not learn"))
        if count > _SHOWN_PROMPTS:
            rows.append(("", f"and {count - _SHOWN_PROMPTS:,} more"))
        return View("Then draw", tuple(rows))

    def measure_view(self) -> View:
        """The figures at the end; no rows if the workflow names none."""
        wanted = self.encode.workflow.evaluate
        if not wanted.metrics:
            return View("Then measure", ())
        count = wanted.samples or wanted.prompts * wanted.seeds
        rows = [("figures", f"{', '.join(wanted.metrics)} over {count:,} drawn pictures")]
        if set(wanted.metrics) - {"judge", "clip"}:
            rows.append(("compared with", wanted.reference or "the images of this run"))
        rows += [("weights", model) for model in wanted.weights]
        return View("Then measure", tuple(rows))


def check_whole_run(plan: EncodePlan) -> None:
    """Refuse a run whose training or drawing would fail after hours of encoding. Imports no torch.

    Raises:
        ConfigError: there is nothing to draw, or it cannot be drawn; the encoders cannot decode; the model does not
            fit.
    """
    workflow = plan.workflow
    if not workflow.sample.prompts and not workflow.train.validation:
        raise ConfigError(
            "The run could not draw pictures after the training: sample.prompts is empty, and without train.validation "
            f"there are no captions that the model did not learn. {_NOTHING}; set sample.prompts or train.validation "
            "(settings), or only encode and train."
        )
    if workflow.sample.prompts:
        requests_for(workflow.sample.prompts, workflow.sample.seed)  # raises now, not after the training
    if plan.random_weights:
        raise ConfigError(
            f"The encoders of {workflow.name} have random weights, which are for speed tests. A model that is trained "
            f"with them draws only noise. {_NOTHING}; use pretrained encoders, or only encode."
        )
    if why := cannot_draw(workflow.dataset):
        raise ConfigError(
            f"The run could not draw pictures after the training: {why}. {_NOTHING}; use other encoders, or only "
            "encode and train."
        )
    train = workflow.train
    check_model(train, planned_facts(plan, train.view), train.batch)


def planned_facts(plan: EncodePlan, view: str | None) -> StoreFacts:
    """What the store of this plan will give a denoiser."""
    text = plan.text_info
    sides = {array.name: array.shape[-1] for array in text.arrays if array.shape}
    attributes = text.attributes
    return StoreFacts(
        tuple(sorted(_latent_shapes(plan.image_info, view))),
        int(sides.get("text_states") or attributes["features"]),  # no array if training encodes the captions
        int(attributes.get("max_tokens", 0)),
        int(sides.get("text_pooled", 0)),
        attributes.get("pad") != "full",
        encoders=tuple(str(part.get("class", "")) for part in attributes.get("parts", (attributes,))),
    )


def _latent_shapes(info: EncoderInfo, view: str | None) -> set[tuple[int, int, int]]:
    """The sizes of latents that training may read: of one view, or of all."""
    names = ("latent_mean", "latent_mean_") if view is None else (f"latent_mean_{view}",) * 2
    shapes = [array.shape for array in info.arrays if array.name == names[0] or array.name.startswith(names[1])]
    return {(channels, height, width) for channels, height, width in shapes}
