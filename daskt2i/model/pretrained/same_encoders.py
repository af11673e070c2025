"""Whether the encoders of a store are those of a pretrained pipeline: its denoiser understands no others.

Encoders with the same hashes of weights are the same. With other hashes they may still be: a copy in fp16, a file that
another version wrote, a VAE of which only the decoder was trained on (sd-vae-ft-mse). So both then encode the same
pictures and sentences, and what the denoiser would get is compared.

Covers: this comparison, for VAE and text encoder.
Does not cover: sizes (`fit`), whether the workflow's encoders are those of the store (`own_encoders`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.config.settings import DatasetSettings
from daskt2i.encoders.latent_scaling import latent_scaling
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.encoders.weights import model_name
from daskt2i.errors import FingerprintMismatch
from daskt2i.model.own_encoders import built
from daskt2i.model.pretrained.pipeline_folder import PretrainedPipeline
from daskt2i.model.pretrained.tunables import SETTING
from daskt2i.protocols import ImageEncoder
from daskt2i.protocols import TextEncoder as AnyTextEncoder
from daskt2i.types import Runtime

FAR = 0.02
"""Root mean square difference, in standard deviations of the values, from which on encoders differ. Weights in fp16
give less than 0.001."""

SENTENCES = ("", "a red circle", "two cats and a dog on a blue square")


class _PipelineVae(VaeEncoder):
    setting = SETTING


def require_same(given: PretrainedPipeline, dataset: DatasetSettings, stored: Mapping[str, Any]) -> tuple[str, ...]:
    """Compare the encoders of a store with those of a pipeline. It loads models only if their hashes differ.

    Args:
        dataset: section of the workflow, whose encoders are those of the store.
        stored: the result of `about_store`.

    Returns:
        a note for each encoder that has other files, but gives the same.

    Raises:
        FingerprintMismatch: an encoder differs.
        ModelMissing, ModelError: the pipeline lacks one.
    """
    image, text = built(dataset)
    asked = given.given.model, given.given.revision
    vae = _PipelineVae(asked[0], "vae", asked[1], engine="torch")
    words = given.kind.text(*asked, text)
    side, identity = dataset.image.side, stored["identity"]["encoders"]
    notes = []
    if vae.info(side).weights != identity["image"].get("weights"):
        name = stored["image_encoder"].get("model", type(image).__name__)
        notes.append(_verdict("VAE", given, "image", str(name), _latent_distance(image, vae, side)))
    if words.info().weights != identity["text"].get("weights"):
        name = stored["text_encoder"].get("model", type(text).__name__)
        notes.append(_verdict("text encoder", given, "text", str(name), _text_distance(text, words)))
    return tuple(notes)


def _verdict(what: str, given: PretrainedPipeline, key: str, name: str, far: float) -> str:
    part = model_name(given.given.model, "vae" if key == "image" else "text_encoder")
    if far < FAR:
        return f"The {what} of the store, {name}, has other files than {part}, but encodes alike."
    raise FingerprintMismatch(
        f"The store was encoded with the {what} {name}, but the pipeline has another one, {part}: what they make of "
        f"the same input differs by {far:.0%} of its spread. Nothing was started. Encode with the encoder of the "
        f"pipeline (dataset.encoders.{key}) into another run folder (out), or give another pipeline ({SETTING})."
    )


def _latent_distance(image: ImageEncoder, vae: VaeEncoder, side: int) -> float:
    """How far final latents of the same picture differ."""
    runtime = Runtime("cpu", "fp32", 1)
    down, across = np.mgrid[0:side, 0:side] / max(1, side - 1)
    waves = [np.sin(down * 9), np.cos(across * 7 + down), down * across]
    picture = ((np.stack(waves, 2) + 1) * 127.5).astype(np.uint8)[None]
    made = []
    for one in (image, vae):
        one.load(runtime)
        latents = one.encode(picture, 1)["latent_mean"].astype(np.float64)
        mean, std, factor = latent_scaling(one.info(side).attributes, latents.shape[1])
        made.append((latents - mean[:, None, None]) / std[:, None, None] * factor)
    return _distance(*made)


def _text_distance(text: AnyTextEncoder, words: AnyTextEncoder) -> float:
    """How far the states of the same sentences differ, where they hold text, and their pooled states."""
    runtime, made, masks, pooled = Runtime("cpu", "fp32", 1), [], [], []
    for one in (text, words):
        one.load(runtime)
        found = one.encode(list(SENTENCES), len(SENTENCES))
        made.append(found["text_states"].astype(np.float64))
        masks.append(found["text_mask"])
        pooled.append(found.get("text_pooled", np.zeros(0)).astype(np.float64))
    if made[0].shape != made[1].shape or not np.array_equal(masks[0], masks[1]):  # other tokens
        return 1.0
    return max(_distance(made[0][masks[0]], made[1][masks[0]]), _distance(*pooled) if pooled[0].size else 0.0)


def _distance(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    if one.shape != other.shape:
        return 1.0
    far = np.sqrt(np.mean((one - other) ** 2)) / max(float(one.std()), 1e-12)
    return float(far) if np.isfinite(far) else 1.0
