"""The settings of pictures: `sample:` and `evaluate:` of a workflow file.

Covers: name, type, limits, default and meaning of each.
Does not cover: drawing and measuring (`sample`).
"""

from __future__ import annotations

from pydantic import Field

from daskt2i.config.samplers import Sampler
from daskt2i.config.strict import Strict


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
    """

    prompts: int = Field(64, ge=1)
    seeds: int = Field(4, ge=1)
    clip_model: str | None = None
