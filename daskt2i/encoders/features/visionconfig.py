"""Kind and sizes of a vision transformer, from its config.json. It imports no transformers.

Covers: SigLIP (alone, or inside a whole repository), DINOv2 with and without registers; the pixels that each expects;
number of parameters and working memory.
Does not cover: running the model (`vision`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daskt2i.errors import ConfigError, ModelError

Three = tuple[float, float, float]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

KINDS: Mapping[str, tuple[str, tuple[Three, Three]]] = {
    "dinov2": ("Dinov2Model", _IMAGENET),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", _IMAGENET),
    "siglip_vision_model": ("SiglipVisionModel", _HALF),
    "siglip": ("SiglipVisionModel", _HALF),
}
"""`model_type` -> class in transformers; mean and std of its pixels from 0 to 1, if the folder does not say them."""

DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224,
}  # fmt: skip
"""Defaults of transformers for keys that a config of any kind may lack (a test compares them)."""

MAPS = 1.4
"""Memory of one more picture in a batch, as a multiple of ten states and two of the feed-forward part.

Measured (resident size, torch 2.13, 1 thread, base models): DINOv2 at 252 px 28 MB a picture, SigLIP at 224 px 8 MB. It
gives 28 and 17 MB."""


@dataclass(frozen=True, slots=True)
class VisionShape:
    """One vision transformer.

    Attributes:
        kind: class in transformers that builds it.
        config: the config of the vision part.
        hidden, inner, layers: width, width of the feed-forward part, depth.
        image: side of the pictures for which its positions were trained, pixels.
        patch: side of a patch, pixels.
        first: number of tokens before those of the patches.
        mean, std: of pixel values from 0 to 1; the model gets `(value - mean) / std`.
        prefix: prefix of its tensors in the weight files; "" if all tensors belong to it.
    """

    kind: str
    config: Mapping[str, Any]
    hidden: int
    inner: int
    layers: int
    image: int
    patch: int
    first: int
    mean: Three
    std: Three
    prefix: str = ""

    @property
    def is_siglip(self) -> bool:
        """Whether it is SigLIP: it has a trained pooling, and its positions fit one size of picture."""
        return self.kind.startswith("Siglip")

    def side(self, resolution: int, asked: int | None) -> int:
        """Side of the pictures that the model gets, pixels.

        Args:
            resolution: side of the pictures of the data set.
            asked: the argument of the encoder; None for SigLIP's own size, or the largest one for DINOv2 that is not
                larger than the pictures.

        Raises:
            ConfigError: it is not a multiple of the patch.
        """
        found = asked or (self.image if self.is_siglip else max(self.patch, resolution // self.patch * self.patch))
        if found % self.patch:
            lower = found // self.patch * self.patch
            good = " or ".join(str(n) for n in (lower, lower + self.patch) if n)
            raise ConfigError(
                f"dataset.encoders.image.side is {found}, but a patch has {self.patch} pixels. Nothing was started; "
                f"use {good}."
            )
        return found

    def item_bytes(self, side: int) -> int:
        """Working memory of one more picture in a batch, fp32, bytes."""
        tokens = (side // self.patch) ** 2 + self.first
        return int(4 * (MAPS * tokens * (10 * self.hidden + 2 * self.inner) + 2 * 3 * side**2))

    def parameters(self) -> int:
        """Number of parameters; exact."""
        h, inner = self.hidden, self.inner
        total = 3 * self.patch**2 * h + h + (self.image // self.patch) ** 2 * h
        block = 4 * (h * h + h) + 4 * h
        linear = 2 * h * inner + inner + h
        if self.is_siglip:
            pooling = h + 4 * (h * h + h) + 2 * h + linear
            return total + self.layers * (block + linear) + 2 * h + pooling * bool(self.config["vision_use_head"])
        if self.config.get("use_swiglu_ffn"):
            linear += h * inner + inner
        masked = bool(self.config.get("use_mask_token", True))
        # Class token with its position, registers, mask token; each layer scales its two parts.
        return total + (1 + self.first + masked) * h + self.layers * (block + linear + 2 * h) + 2 * h


def vision_shape(config: Mapping[str, Any], processor: Mapping[str, Any], name: str, setting: str) -> VisionShape:
    """Read a config.

    Args:
        config: the content of config.json.
        processor: the content of preprocessor_config.json; empty if there is none.
        name: name of the model; `setting`: the setting that names it. Both are for messages.

    Raises:
        ModelError: it is not one of these models.
    """
    model_type = str(config.get("model_type") or "")
    if model_type not in KINDS:
        found = model_type or config.get("_class_name") or "no transformers model"
        raise ModelError(
            f"VisionEncoder cannot use {name}: its config.json says {found}. Set {setting} to a SigLIP or DINOv2 "
            "model, or write an encoder class."
        )
    kind, (mean, std) = KINDS[model_type]
    whole = model_type == "siglip"
    siglip = kind == "SiglipVisionModel"
    own = dict(config.get("vision_config") or {}) if whole else dict(config)
    own = {**DEFAULTS, "patch_size": 16 if siglip else 14, "vision_use_head": True, **own}
    hidden = int(own["hidden_size"])
    inner = int(own.get("intermediate_size", 3072) if siglip else hidden * own.get("mlp_ratio", 4))
    if own.get("use_swiglu_ffn"):  # two thirds, as a multiple of 8
        inner = (int(inner * 2 / 3) + 7) // 8 * 8
    registers = int(own.get("num_register_tokens", 4)) if "registers" in model_type else 0
    return VisionShape(
        kind=kind,
        config={**own, "model_type": "siglip_vision_model"} if siglip else own,
        hidden=hidden,
        inner=inner,
        layers=int(own["num_hidden_layers"]),
        image=_side(own["image_size"]),
        patch=_side(own["patch_size"]),
        first=0 if siglip else 1 + registers,
        mean=_three(processor.get("image_mean"), mean),
        std=_three(processor.get("image_std"), std),
        prefix="vision_model." if whole else "",
    )


def _side(value: Any) -> int:
    return int(value[0] if isinstance(value, list | tuple) else value)


def _three(value: Any, otherwise: Three) -> Three:
    if isinstance(value, list | tuple) and len(value) == 3:
        return float(value[0]), float(value[1]), float(value[2])
    return otherwise
