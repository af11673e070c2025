"""The classes of diffusers' pipelines whose denoiser can be tuned, and what each needs of a store.

Covers: a line for each class; the text encoder that is made of a pipeline, to compare it with that of a store.
Does not cover: finding a pipeline (`pipeline_folder`), comparing it with a store (`fit`, `same_encoders`).

| class | its text encoder | what a store needs |
|---|---|---|
| `StableDiffusionPipeline` | one CLIP model | |
| `StableDiffusionXLPipeline` | two CLIP models, joined | pooled states, `JointTextEncoder` of kind `sdxl` |
| `StableDiffusion3Pipeline` | two CLIP models and T5, joined | pooled states, `JointTextEncoder` of kind `sd3` |
| `PixArtSigmaPipeline`, `PixArtAlphaPipeline` | T5 | |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from daskt2i.config.training.denoiser import UNET
from daskt2i.encoders.joint.text import JointTextEncoder
from daskt2i.encoders.text import TextEncoder
from daskt2i.model.pipeline_forms import form_of
from daskt2i.protocols import TextEncoder as AnyTextEncoder

SETTING = "train.pretrained.model"

_SIZES_OF_UNET = ("sample_size", "in_channels", "out_channels", "cross_attention_dim")


class _PipelineText(TextEncoder):
    setting = SETTING


def _one_model(model: str, revision: str | None, like: AnyTextEncoder) -> AnyTextEncoder:
    """The text model of a pipeline. How captions are read is that of the store, which is no part of the weights."""
    names = ("max_tokens", "pad", "layer", "instruction", "lowercase") if isinstance(like, TextEncoder) else ()
    return _PipelineText(model, "text_encoder", revision=revision, **{name: getattr(like, name) for name in names})


def _joined(kind: Literal["sdxl", "sd3"], model: str, revision: str | None, like: AnyTextEncoder) -> AnyTextEncoder:
    """All text models of a pipeline."""
    return JointTextEncoder(
        model, kind, revision, pad=like.pad if isinstance(like, JointTextEncoder) and like.kind == kind else None
    )


@dataclass(frozen=True, slots=True)
class Tunable:
    """A class of pipelines.

    Attributes:
        denoiser: class of its denoiser, as in `train.model.class`.
        form: the class of pipelines that its tuned folder has.
        features: key of the denoiser's config: length of a text state.
        pooled: length of a pooled text state that a config asks for; 0 for none.
        sizes: keys of the config that the store decides.
        text: makes its text encoder, from its name, its revision and the text encoder of the store.
        one_length: whether the store has as many tokens as its tokenizer gives.
        masks: whether the published models were trained without padding.
        refused: why a denoiser with this config cannot be tuned, one clause; "" if it can.
        text_parts: folders of its text models.
    """

    denoiser: str
    form: str
    features: str
    pooled: Callable[[Mapping[str, Any]], int] = lambda config: 0
    sizes: tuple[str, ...] = ()
    text: Callable[[str, str | None, AnyTextEncoder], AnyTextEncoder] = _one_model
    one_length: bool = False
    masks: bool = False
    refused: Callable[[Mapping[str, Any]], str] = lambda config: ""
    text_parts: tuple[str, ...] = ("text_encoder",)

    @property
    def part(self) -> str:
        """The folder of its denoiser."""
        return form_of(self.form).denoiser


def _pooled_of_sdxl(config: Mapping[str, Any]) -> int:
    """SDXL's U-Net gets the pooled state beside six numbers, each as `addition_time_embed_dim` numbers."""
    return int(config.get("projection_class_embeddings_input_dim", 0)) - 6 * int(
        config.get("addition_time_embed_dim", 0)
    )


def _pooled_of_sd3(config: Mapping[str, Any]) -> int:
    return int(config.get("pooled_projection_dim", 0))


def _told_sizes(config: Mapping[str, Any]) -> str:
    """PixArt-alpha of 1024 pixels gets size and ratio. diffusers takes a side of 128 for it if the config is silent."""
    told = config.get("use_additional_conditions")
    return (
        "its denoiser is told sizes of pictures" if (config.get("sample_size") == 128 if told is None else told) else ""
    )


_PIXART = Tunable(
    "diffusers.PixArtTransformer2DModel", "PixArtSigmaPipeline", "caption_channels", masks=True, refused=_told_sizes
)

TUNABLES: Mapping[str, Tunable] = {
    "StableDiffusionPipeline": Tunable(
        UNET, "StableDiffusionPipeline", "cross_attention_dim", sizes=_SIZES_OF_UNET, one_length=True
    ),
    "StableDiffusionXLPipeline": Tunable(
        UNET,
        "StableDiffusionXLPipeline",
        "cross_attention_dim",
        _pooled_of_sdxl,
        (*_SIZES_OF_UNET, "projection_class_embeddings_input_dim"),
        partial(_joined, "sdxl"),
        one_length=True,
        text_parts=("text_encoder", "text_encoder_2"),
    ),
    "StableDiffusion3Pipeline": Tunable(
        "diffusers.SD3Transformer2DModel",
        "StableDiffusion3Pipeline",
        "joint_attention_dim",
        _pooled_of_sd3,
        text=partial(_joined, "sd3"),
        text_parts=("text_encoder", "text_encoder_2", "text_encoder_3"),
    ),
    "PixArtSigmaPipeline": _PIXART,
    "PixArtAlphaPipeline": _PIXART,
}
"""Class of a pipeline that can be tuned -> what is to know of it."""
