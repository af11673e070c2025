"""The settings of pictures: `sample:` and `evaluate:` of a workflow file.

Covers: name, type, limits, default and meaning of each.
Does not cover: drawing and measuring (`sample`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from daskt2i.config.samplers import Sampler
from daskt2i.config.strict import Strict

Metric = Literal["judge", "fid", "kid", "cmmd", "clip", "precision"]
"""A figure of `evaluate`. `precision` is precision and recall."""


class SampleSettings(Strict):
    """Pictures from prompts.

    Attributes:
        prompts: the prompts to draw if the caller gives none.
        steps: number of steps of the sampler.
        guidance: weight of the prompt against the empty prompt; 1 for no guidance.
        sampler: a name of `samplers.SAMPLERS`.
        batch: pictures in one batch.
    """

    prompts: list[str] = Field(default_factory=list)
    seed: int = Field(0, ge=0)
    steps: int = Field(20, ge=1)
    guidance: float = Field(3.0, ge=0)
    sampler: Sampler = "dpm++"
    batch: int = Field(16, ge=1)


class EvaluateSettings(Strict):
    """How prompt fidelity is measured.

    Attributes:
        prompts: number of unseen prompts.
        seeds: number of pictures of each prompt.
        clip_model: hub id or folder of a CLIP model, for photographs; null for drawn scenes, which need no model.
        metrics: figures to measure; empty: the judge for drawn scenes, CLIP scores with a `clip_model`.
        reference: a place of pictures to compare with, or a file of their statistics; null: the run's own images.
        reference_captions: the caption file of that place, if it has one; prompts come from its captions.
        weights: folders or hub ids of models that make features of pictures.
        samples: number of drawn pictures that are compared; null: `prompts` x `seeds`.
        few_samples: whether FID is measured with fewer pictures than it has features. It means little then.
        keep_pictures: whether the drawn pictures are kept as PNG files.
        published: figure -> name -> value, printed beside the figure.
    """

    prompts: int = Field(64, ge=1)
    seeds: int = Field(4, ge=1)
    clip_model: str | None = None
    metrics: list[Metric] = Field(default_factory=list)
    reference: str | None = None
    reference_captions: str | None = None
    weights: list[str] = Field(default_factory=list)
    samples: int | None = Field(None, ge=1)
    few_samples: bool = False
    keep_pictures: bool = False
    published: dict[str, dict[str, float]] = Field(default_factory=dict)
