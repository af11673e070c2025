"""Writes the two text models of SDXL as parts of a pipeline folder.

Covers: both CLIP models with their tokenizers; the reason why encoders cannot be parts of a StableDiffusionXLPipeline.
Does not cover: one CLIP model, the autoencoder (`encoders.export`).
"""

from __future__ import annotations

from pathlib import Path

from daskt2i.encoders.export import export_text, unfit_image
from daskt2i.encoders.joint.text import JointTextEncoder


def unfit(image: object, text: object) -> str | None:
    """Why these two encoders cannot be parts of a `StableDiffusionXLPipeline`, one clause; None if they can."""
    if why := unfit_image(image, "StableDiffusionXLPipeline"):
        return why
    kind = text.kind if isinstance(text, JointTextEncoder) else None
    if kind == "sdxl":
        return None
    name = f"{type(text).__name__}{f' of kind {kind}' if kind else ''}"
    return f"the text encoder is a {name}, but a StableDiffusionXLPipeline needs a JointTextEncoder of kind sdxl"


def export_texts(encoder: JointTextEncoder, folder: Path) -> None:
    """Write `text_encoder`, `text_encoder_2`, `tokenizer` and `tokenizer_2` into a pipeline folder."""
    for part, one in zip(encoder.parts, encoder.encoders, strict=True):
        export_text(
            one, folder / part.subfolder, folder / part.subfolder.replace("text_encoder", "tokenizer"), part.model
        )
