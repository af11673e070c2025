"""Which text models a pipeline of diffusers has, and how their states are joined.

Covers: Stable Diffusion XL, Stable Diffusion 3 and Flux, as `encode_prompt` of their pipelines makes states.
Does not cover: running the models (`text`).

| kind | `text_states` | `text_pooled` |
|---|---|---|
| `sdxl` | CLIP-L and CLIP-G side by side, both from the last layer but one: 77 x 2048 | CLIP-G, projected: 1280 |
| `sd3` | 77 tokens as in SDXL, filled up with zeros; behind them 256 of T5: 333 x 4096 | both, projected: 2048 |
| `flux` | 512 of T5: 512 x 4096 | CLIP-L: 768 |

T5 has no mask in `sd3` and `flux`. Its tokens read the padding, and the denoiser reads the states of the padding. So
these two store all states. In `sdxl` a token does not depend on the padding behind it, so `pad: length` stores the
states of real tokens alone, and they are those of the pipeline. A pretrained denoiser also read the states of the
padding: give it `pad: full`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """One text model of a pipeline.

    Attributes:
        subfolder: its folder in the pipeline.
        block: states of the same block are joined feature by feature, blocks token by token; None if only its pooled
            state is used.
        model: its class in transformers.
        pooled: whether its pooled state is used.
        options: arguments of its `TextEncoder`.
    """

    subfolder: str
    block: int | None
    model: str
    pooled: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


CLIP, PROJECTED, T5 = "CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"
_LAST_BUT_ONE: Mapping[str, Any] = {"layer": -2}
_ALL: Mapping[str, Any] = {"layer": -2, "pad": "full"}

LAYOUTS: Mapping[str, tuple[Part, ...]] = {
    "sdxl": (
        Part("text_encoder", 0, CLIP, options=_LAST_BUT_ONE),
        Part("text_encoder_2", 0, PROJECTED, True, _LAST_BUT_ONE),
    ),
    "sd3": (
        Part("text_encoder", 0, PROJECTED, True, _ALL),
        Part("text_encoder_2", 0, PROJECTED, True, _ALL),
        Part("text_encoder_3", 1, T5, options={"pad": "unmasked", "max_tokens": 256}),
    ),
    "flux": (
        Part("text_encoder", None, CLIP, True),
        Part("text_encoder_2", 0, T5, options={"pad": "unmasked", "max_tokens": 512}),
    ),
}
"""Kind of pipeline -> its text models, in the order in which states and pooled states are joined."""


def reads_padding(parts: Sequence[Part]) -> bool:
    """Whether states of real tokens depend on the padding, so that all states must be stored."""
    return any(part.options.get("pad") == "unmasked" for part in parts)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the states of a part are in the joined states.

    Attributes:
        tokens, features: the slices.
    """

    tokens: slice
    features: slice


def places(parts: Sequence[Part], shapes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], list[Place | None]]:
    """(tokens, features) of the joined states, and the place of each part; None if its states are not used.

    A block that is narrower than another has zeros behind.

    Args:
        shapes: (tokens, features) of the states of each part.
    """
    found: list[Place | None] = [None] * len(parts)
    first = most = 0
    for block in sorted({part.block for part in parts if part.block is not None}):
        left = length = 0
        for index, (part, (tokens, features)) in enumerate(zip(parts, shapes, strict=True)):
            if part.block == block:
                found[index] = Place(slice(first, first + tokens), slice(left, left + features))
                left, length = left + features, max(length, tokens)
        first, most = first + length, max(most, left)
    return (first, most), found
