"""Captions to the text states of SDXL, SD 3 or Flux: all text models of the pipeline in one encoder.

Covers: joined states and pooled states as `encode_prompt` of the pipeline makes them, memory and identity of all models
together.
Does not cover: one model (`encoders.text`), which models a pipeline has (`layouts`), the prompt of classifier-free
guidance (the store's empty prompt is the empty text; SDXL's pipeline puts zeros in its place).

The models are loaded together and run one after the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from daskt2i.encoders.joint.layouts import LAYOUTS, Place, places, reads_padding
from daskt2i.encoders.text import TextEncoder
from daskt2i.encoders.weights import WeightsOption, model_name
from daskt2i.errors import ConfigError, ModelError
from daskt2i.types import ArraySpec, EncoderInfo, Runtime

T = TypeVar("T")


class JointTextEncoder:
    """All text models of one pipeline.

    Args:
        model: hub id (`stabilityai/stable-diffusion-xl-base-1.0`) or folder of the whole pipeline.
        kind: `sdxl`, `sd3` or `flux` (see `layouts`).
        revision: branch, tag or commit of the hub id.
        max_tokens: length of T5's part of a slot, for `sd3` and `flux`; None for 256 and 512.
        pad: `length` stores the states of real tokens alone, `full` all states. None: `length` where that is exact
            (`sdxl`), else `full`.
        weights: `pretrained`, or `random` for speed tests (marked in the store).
        seed: seed of the random weights.

    Raises:
        ConfigError: an argument has a wrong value.
    """

    def __init__(
        self,
        model: str,
        kind: Literal["sdxl", "sd3", "flux"],
        revision: str | None = None,
        max_tokens: int | None = None,
        pad: Literal["length", "full"] | None = None,
        weights: WeightsOption = "pretrained",
        seed: int = 0,
    ) -> None:
        if kind not in LAYOUTS:
            raise ConfigError(f"dataset.encoders.text.kind is {kind!r}; give {' or '.join(LAYOUTS)}.")
        if pad not in (None, "length", "full"):
            raise ConfigError(f"dataset.encoders.text.pad is {pad!r}; give length or full.")
        parts = LAYOUTS[kind]
        full = reads_padding(parts)
        if pad == "length" and full:
            raise ConfigError(
                f"dataset.encoders.text.pad is length, but in {kind} the states of a token depend on the padding, so "
                "all of them must be stored. Nothing was started; leave pad out."
            )
        if max_tokens is not None and not full:
            raise ConfigError(
                f"dataset.encoders.text.max_tokens is {max_tokens}, but {kind} has no T5, and its CLIP models read 77 "
                "tokens. Nothing was started; leave max_tokens out."
            )
        self.model = str(model)
        self.kind = kind
        self.pad = pad or ("full" if full else "length")
        self.parts = parts
        self._placed: tuple[tuple[int, int], list[Place | None]] | None = None
        self.encoders: list[TextEncoder] = []
        for part in parts:
            options = {"pad": self.pad, **part.options} if part.block is not None else dict(part.options)
            if "max_tokens" in options:
                options["max_tokens"] = max_tokens or options["max_tokens"]
            self.encoders.append(
                TextEncoder(
                    self.model, subfolder=part.subfolder, revision=revision, weights=weights, seed=seed, **options
                )
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_placed": None}

    def info(self) -> EncoderInfo:
        """What it makes from one caption. It reads only JSON files and file headers.

        Raises:
            ConfigError: max_tokens is too large for the model.
            ModelMissing, ModelError: there is no such pipeline, or its models are not those of `kind`.
        """
        for part, encoder in zip(self.parts, self.encoders, strict=True):
            if (found := encoder.kind()) != part.model:
                raise ModelError(
                    f"The {part.subfolder} of {model_name(self.model)} is a {found}, but in {self.kind} it is a "
                    f"{part.model}. Nothing was started; set dataset.encoders.text.kind to the kind of this pipeline, "
                    "or dataset.encoders.text.model to another one."
                )
        infos = [encoder.info() for encoder in self.encoders]
        (tokens, features), _ = self._layout(infos)
        pooled = self._pooled(infos)
        width = sum(one.attributes["pooled_features"] for one in pooled)
        return EncoderInfo(
            arrays=(
                ArraySpec("text_states", ("token", "feature"), (tokens, features), "float16", "nan", "text states"),
                ArraySpec("text_mask", ("token",), (tokens,), "bool", False, self._meaning()),
                ArraySpec("text_truncated", (), (), "bool", False, "True where no model read the whole caption"),
                ArraySpec("text_pooled", ("pooled_feature",), (width,), "float16", "nan", "pooled states, joined"),
            ),
            weights=_together([one.weights for one in infos]),
            attributes={
                "class": type(self).__name__,
                "kind": self.kind,
                "model": model_name(self.model),
                "model_type": self.kind,
                "tokenizer": model_name(self.model),
                "features": features,
                "max_tokens": tokens,
                "pad": self.pad,
                "layer": None,
                "pooling": " and ".join(str(one.attributes["pooling"]) for one in pooled),
                "pooled_features": width,
                "parts": [dict(one.attributes) for one in infos],
            },
            random_weights=any(one.random_weights for one in infos),
            weight_bytes=sum(one.weight_bytes for one in infos),
            item_bytes=max(one.item_bytes for one in infos),
        )

    def load(self, runtime: Runtime) -> None:
        """Build all models on `runtime.device` in `runtime.precision`, for inference. Errors as in `TextEncoder.load`
        and `info`."""
        self.info()
        for encoder in self.encoders:
            encoder.load(runtime)
        self._placed = self._layout([encoder.info() for encoder in self.encoders])

    def encode(self, items: Sequence[str], batch: int) -> dict[str, npt.NDArray[Any]]:
        """The arrays of `info()` for n captions, in their order.

        `text_states` float16[n, token, feature], `text_mask` bool[n, token], `text_truncated` bool[n], `text_pooled`
        float16[n, feature].

        Raises:
            ModelError: the tokenizers of models whose states lie side by side cut a caption into other tokens.
        """
        if self._placed is None:
            raise RuntimeError("call load before encode")
        (tokens, features), placed = self._placed
        states = np.zeros((len(items), tokens, features), np.float16)
        made = [
            encoder.encode_into(items, batch, None if place is None else states[:, place.tokens, place.features])
            for encoder, place in zip(self.encoders, placed, strict=True)
        ]
        if reads_padding(self.parts):
            mask = np.ones(states.shape[:2], np.bool_)
        else:
            mask = made[0]["text_mask"]
            if any(not np.array_equal(one["text_mask"], mask) for one in made):
                raise ModelError(
                    f"The tokenizers of {model_name(self.model)} cut a caption into different numbers of tokens, so "
                    "the states of its models do not belong together. Nothing of these captions was stored; give "
                    "dataset.encoders.text.model the tokenizers of one pipeline."
                )
        return {
            "text_states": states,
            "text_mask": mask,
            "text_truncated": np.logical_and.reduce([one["text_truncated"] for one in made]),
            "text_pooled": np.concatenate([one["text_pooled"] for one in self._pooled(made)], axis=1),
        }

    def count_tokens(self, captions: Sequence[str]) -> tuple[list[int], int]:
        """Number of tokens of each caption before it is cut, and the number that fits, for the model that reads most.

        Raises:
            ModelMissing, ModelError, ConfigError: as in `load`.
        """
        return self.encoders[-1].count_tokens(captions)

    @property
    def note(self) -> str:
        """Sentences for the user about the loaded models; "" if there are none."""
        return " ".join(dict.fromkeys(encoder.note for encoder in self.encoders if encoder.note))

    def _layout(self, infos: Sequence[EncoderInfo]) -> tuple[tuple[int, int], list[Place | None]]:
        return places(self.parts, [(one.arrays[0].shape[0], one.arrays[0].shape[1]) for one in infos])

    def _pooled(self, of_parts: Sequence[T]) -> list[T]:
        """What belongs to the parts whose pooled state is used."""
        return [one for part, one in zip(self.parts, of_parts, strict=True) if part.pooled]

    def _meaning(self) -> str:
        return "True everywhere: padding is read" if reads_padding(self.parts) else "True for tokens of the caption"


def _together(weights: Sequence[str]) -> str:
    """One name for the weights of several models, of the same kind as theirs (`sha256:`, `seed:0/config:`)."""
    digest = hashlib.sha256("\n".join(weights).encode()).hexdigest()
    seed, slash, _ = weights[0].partition("/config:")
    return f"{seed}{slash}{digest[:16]}" if slash else f"sha256:{digest}"
