"""How the folder of each class of diffusers' pipelines looks.

Covers: the folder of the denoiser, the scheduler, the parts without content, the text models that a pipeline reads
prompts with, whether encoders can be its parts.
Does not cover: writing it (`pipeline`), drawing with it (`sample.pipelines`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daskt2i.encoders import export
from daskt2i.encoders.joint import export as joint

DPM, FLOW_EULER = "DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True, slots=True)
class TextParts:
    """The text models of a pipeline folder.

    Attributes:
        unfit: why an image encoder and a text encoder cannot be parts of it, one clause; None if they can.
        write: writes the text encoder into the folder.
        index: their entries of model_index.json.
    """

    unfit: Callable[[object, object], str | None]
    write: Callable[[Any, Path], None]
    index: Mapping[str, list[str]]


def _write_clip(encoder: Any, folder: Path) -> None:
    export.export_text(encoder, folder / "text_encoder", folder / "tokenizer")


_MODEL, _TOKENIZER = ["transformers", "CLIPTextModel"], ["transformers", "CLIPTokenizer"]

ONE_CLIP = TextParts(export.unfit, _write_clip, {"text_encoder": _MODEL, "tokenizer": _TOKENIZER})
TWO_CLIPS = TextParts(
    joint.unfit,
    joint.export_texts,
    {
        "text_encoder": _MODEL,
        "tokenizer": _TOKENIZER,
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": _TOKENIZER,
    },
)


@dataclass(frozen=True, slots=True)
class PipelineForm:
    """The folder of a class of pipelines.

    Attributes:
        denoiser: the argument of the pipeline that is the denoiser, and the name of its folder.
        text: the text models in its folder.
        clip: whether the pipeline reads prompts through these text models. If not, the folder has them and their
            tokenizers too, but the index does not name them: the pipeline takes text states.
        index: entries of model_index.json besides the parts.
        without: arguments of `from_pretrained`: parts that diffusers asks for though they are not there, and parts that
            are not used.
        scheduler: class of its scheduler.
        alone: why it cannot hold our encoders, one clause: the folder has the denoiser and the scheduler, and `sample`
            draws through the encoders of the workflow. None if it can.
    """

    denoiser: str
    text: TextParts = ONE_CLIP
    clip: bool = False
    index: Mapping[str, Any] = field(default_factory=dict)
    without: Mapping[str, Any] = field(default_factory=lambda: dict.fromkeys(("text_encoder", "tokenizer")))
    scheduler: str = DPM
    alone: str | None = None

    def unfit(self, image: object, text: object) -> str | None:
        """Why these encoders cannot be parts of the folder, one clause; None if they can."""
        return self.text.unfit(image, text) or self.alone


FORMS: Mapping[str, PipelineForm] = {
    "StableDiffusionPipeline": PipelineForm(
        "unet",
        clip=True,
        index={
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
        },
        # A published pipeline may have a checker, which would draw black pictures.
        without=dict.fromkeys(("safety_checker", "feature_extractor")),
    ),
    "StableDiffusionXLPipeline": PipelineForm(
        "unet",
        TWO_CLIPS,
        clip=True,
        index={
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            # Pictures are guided away from the states of "", which a training without a caption gets; not from zeros.
            "force_zeros_for_empty_prompt": False,
        },
        without={"feature_extractor": None, "image_encoder": None, "add_watermarker": False},
    ),
    "PixArtSigmaPipeline": PipelineForm("transformer"),
    "PixArtAlphaPipeline": PipelineForm("transformer"),
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
