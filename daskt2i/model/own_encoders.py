"""Encoders that diffusers cannot load: a denoiser draws through their own `encode` and `decode`.

Covers: whether such encoders can draw; comparing encoders with those of a store; states of prompts, and pictures of
final latents.
Does not cover: encoders that diffusers can load (`encoders.export`), sampling (`sample.painter`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.config.settings import DatasetSettings
from daskt2i.config.workflow_file import differences
from daskt2i.encoders import export
from daskt2i.encoders.latent_scaling import latent_scaling
from daskt2i.errors import FingerprintMismatch, ModelError
from daskt2i.model.pipeline_forms import PipelineForm
from daskt2i.protocols import ImageEncoder, TextEncoder
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Pixels, Runtime


def built(dataset: DatasetSettings) -> tuple[ImageEncoder, TextEncoder]:
    """The image encoder and the text encoder of the settings, without their weights."""
    image: ImageEncoder = dataset.encoders.image.build(ImageEncoder, "dataset.encoders.image")
    text: TextEncoder = dataset.encoders.text.build(TextEncoder, "dataset.encoders.text")
    return image, text


def cannot_draw(dataset: DatasetSettings) -> str | None:
    """Why latents of these encoders cannot become pictures, one clause; None if they can. It loads no weights.

    An encoder without a decoder returns None, whatever it is asked. So it is asked for no picture at all.
    """
    image, text = built(dataset)
    if export.unfit(image, text) is None:
        return None
    arrays = {one.name: np.zeros((0, *one.shape), one.dtype) for one in image.info(dataset.image.side).arrays}
    try:
        made = image.decode(arrays)
    except Exception:  # without weights a decoder may fail in any way
        return None
    return f"{type(image).__name__}.decode returns no pictures" if made is None else None


def how_drawn(dataset: DatasetSettings, form: PipelineForm) -> str:
    """How pictures will be drawn, for a plan; "" if by a pipeline that diffusers can load.

    Args:
        form: of the pipeline that draws with the denoiser.
    """
    why = form.unfit(*built(dataset))
    if why is None:
        return ""
    if none := cannot_draw(dataset):
        return f"none: {none}"
    return f"through the encoders of the workflow; diffusers cannot load the pipeline ({why})"


def require_same_encoders(dataset: DatasetSettings, stored: Mapping[str, Any], folder: RunFolder) -> None:
    """Compare encoders with those of a store: a denoiser understands only what the same encoders make.

    The engine does not count: an encode chooses it by itself, and engines differ by rounding alone.

    Args:
        stored: the result of `about_store`.

    Raises:
        FingerprintMismatch: they differ.
    """
    image, text = built(dataset)
    mine = {
        "image": {**dataset.encoders.image.identity(), "weights": image.info(dataset.image.side).weights},
        "text": {**dataset.encoders.text.identity(), "weights": text.info().weights},
    }
    theirs = stored["identity"]["encoders"]
    engine = {name: value for name, value in theirs["image"].items() if name == "engine"}
    mine["image"] = {**mine["image"], **engine}
    if differ := differences(theirs, mine, "dataset.encoders."):
        raise FingerprintMismatch(
            f"The store in {folder} was made with other encoders than those of this workflow: {'; '.join(differ)}. "
            "Nothing was started. Use the workflow and settings of the encode (workflow, settings)."
        )


class OwnEncoders:
    """The encoders of the settings, loaded, to draw with a denoiser.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.
        threads: number of torch threads.
    """

    def __init__(self, dataset: DatasetSettings, device: str, threads: int) -> None:
        self._image, self._text = built(dataset)
        self._side = dataset.image.side
        self._info = self._image.info(self._side)
        self._cut: dict[str, bool] = {}
        self._made: tuple[tuple[str, ...], Mapping[str, npt.NDArray[Any]]] = ((), {})
        for encoder in (self._image, self._text):
            encoder.load(Runtime(device, "fp32", threads))

    def states(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Text states `float32[n, token, feature]` and mask `bool[n, token]`, as `encode` stores those of captions."""
        made = self._text.encode(list(texts), max(1, len(texts)))
        self._made = (tuple(texts), made)
        if "text_truncated" in made:
            self._cut.update(zip(texts, map(bool, made["text_truncated"]), strict=True))
        return made["text_states"].astype(np.float32), made["text_mask"].astype(np.bool_)

    def pooled(self, texts: Sequence[str]) -> npt.NDArray[np.float32] | None:
        """Pooled states `float32[n, feature]` of the texts whose states were made last; None without any."""
        of, made = self._made
        assert of == tuple(texts)
        return made["text_pooled"].astype(np.float32) if "text_pooled" in made else None

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text, whose states were made before, is longer than what the text encoder reads."""
        return [self._cut.get(text, False) for text in texts]

    @property
    def reduction(self) -> int:
        """Pixels of a picture for each value of a latent, along a side."""
        latent = next(one for one in self._info.arrays if one.name.startswith("latent_mean"))
        return round(self._side / max(latent.shape[1:]))

    def pictures(self, latents: npt.NDArray[np.float32]) -> Pixels:
        """The pictures of final latents `float32[n, c, y, x]`, `uint8[n, height, width, 3]`.

        The decoder gets them as a store holds them: raw, without the denoiser's scale, with zeros in all other arrays.

        Raises:
            ModelError: the encoder decodes to no pictures.
        """
        mean, std, factor = latent_scaling(self._info.attributes, latents.shape[1])
        raw = np.nan_to_num(latents) / np.float32(factor) * std[:, None, None] + mean[:, None, None]
        arrays = {one.name: np.zeros((len(raw), *one.shape), one.dtype) for one in self._info.arrays}
        arrays["latent_mean"] = raw.astype(arrays["latent_mean"].dtype)
        made = self._image.decode(arrays)
        if made is None:
            raise ModelError(
                f"{type(self._image).__name__}.decode returned no pictures, so nothing was drawn. The model is "
                "unchanged; give the class a decode method that returns uint8[n, height, width, 3]."
            )
        return made
