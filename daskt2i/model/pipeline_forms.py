"""How the folder of each class of diffusers' pipelines looks.

Covers: the folder of the denoiser, the scheduler, the parts without content, whether the pipeline reads prompts.
Does not cover: writing it (`pipeline`), drawing with it (`sample.pipelines`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DPM, FLOW_EULER = "DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True, slots=True)
class PipelineForm:
    """The folder of a class of pipelines.

    Attributes:
        denoiser: the argument of the pipeline that is the denoiser, and the name of its folder.
        clip: whether the pipeline reads prompts through one CLIP text model, as ours. If not, the folder has the text
            model and its tokenizer too, but the index does not name them: the pipeline takes text states.
        index: entries of model_index.json besides the parts.
        scheduler: class of its scheduler.
        alone: why it cannot hold our encoders, one clause: the folder has the denoiser and the scheduler, and `sample`
            draws through the encoders of the workflow. None if it can.
    """

    denoiser: str
    clip: bool = False
    index: Mapping[str, Any] = field(default_factory=dict)
    scheduler: str = DPM
    alone: str | None = None


FORMS: Mapping[str, PipelineForm] = {
    "StableDiffusionPipeline": PipelineForm(
        "unet",
        True,
        {
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
        },
    ),
    "PixArtSigmaPipeline": PipelineForm("transformer"),
    "StableDiffusion3Pipeline": PipelineForm(
        "transformer",
        scheduler=FLOW_EULER,
        alone="a StableDiffusion3Pipeline has two CLIP models and T5, which make its pooled states",
    ),
    "Lumina2Pipeline": PipelineForm("transformer", scheduler=FLOW_EULER),
    "SanaPipeline": PipelineForm("transformer", alone="a SanaPipeline has an AutoencoderDC and Gemma"),
    "PRXPipeline": PipelineForm("transformer", scheduler=FLOW_EULER),
}
"""Name of a pipeline of diffusers -> the form of its folder."""

ALONE = PipelineForm("denoiser")
"""The folder of a denoiser whose pipeline daskt2i does not know."""


def form_of(pipeline: str) -> PipelineForm:
    """The form of a class of pipelines."""
    return FORMS.get(pipeline, ALONE)
