"""The settings of pictures: which part of an image is encoded, in which sizes.

Covers: name, type, limits, default and meaning of each setting below `dataset.image`; which of them a fingerprint has.
Does not cover: buckets and crops themselves (`images`). See docs/how-to/shapes.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from daskt2i.config.strict import Strict

_Side = Annotated[int, Field(ge=8, le=8192)]


def _area(value: str) -> str:
    """Width x height, as it was given.

    Raises:
        ValueError: it is no such text.
    """
    width, _, height = value.strip().partition("x")
    if not (width.isdecimal() and height.isdecimal() and 8 <= int(width) <= 8192 and 8 <= int(height) <= 8192):
        raise ValueError(f" is {value!r}; give width x height in pixels, such as 512x512")
    return value


class BucketSettings(Strict):
    """Sizes of about equal area, for images of any ratio.

    Attributes:
        area: width x height whose product no bucket exceeds, pixels.
        step: sides of buckets are multiples of it, pixels: the reduction of the image encoder, or a multiple.
        max_ratio: longer side / shorter side of a bucket is at most this.
        upscale: whether a smaller image is scaled up to the bucket of its ratio. Else it gets a smaller bucket.
    """

    area: Annotated[str, AfterValidator(_area)] = "512x512"
    step: int = Field(64, ge=8, le=8192)
    max_ratio: float = Field(2.0, ge=1, le=64)
    upscale: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of `area`, pixels."""
        width, _, height = self.area.strip().partition("x")
        return int(width), int(height)

    @model_validator(mode="after")
    def _fits(self) -> BucketSettings:
        if self.step > self.side:
            raise ValueError(
                f" has a step of {self.step} pixels, so no bucket fits into the area {self.area}; make step smaller"
            )
        return self

    @property
    def side(self) -> int:
        """Side of the largest square bucket, pixels."""
        width, height = self.size
        return math.isqrt(width * height) // self.step * self.step or math.isqrt(width * height)


class ImageSettings(Strict):
    """How pictures are read.

    Attributes:
        resolution: side of the encoded square, pixels.
        resolutions: sides of several squares that are made of one crop, in place of `resolution`; null for one.
        buckets: sizes for images of any ratio, in place of `resolution`; null for squares.
        crop: which part of the image is shown: its `centre`, a `random` part, or the part that draws `attention`.
        seed: seed of random crops. Seed and id of an image determine its crop.
        flip: whether the mirrored picture is encoded too, as a second latent.
        min_side: an image whose shorter side has fewer source pixels is rejected.
        max_pixels: an image whose width x height is larger is rejected before it is decoded.
    """

    resolution: _Side = 256
    resolutions: tuple[_Side, ...] | None = Field(None, min_length=1, max_length=8)
    buckets: BucketSettings | None = None
    crop: Literal["centre", "random", "attention"] = "centre"
    seed: int = Field(0, ge=0)
    flip: bool = False
    min_side: int = Field(32, ge=1)
    max_pixels: int = Field(67_108_864, ge=1)

    @model_validator(mode="after")
    def _agree(self) -> ImageSettings:
        if self.resolutions is not None and self.buckets is not None:
            raise ValueError(
                " has both resolutions and buckets; give one of them, because a bucket has one size for each row"
            )
        if self.resolutions is not None and len(set(self.resolutions)) != len(self.resolutions):
            raise ValueError(f".resolutions names a size twice (given: {list(self.resolutions)}); give each once")
        return self

    @property
    def side(self) -> int:
        """Side of the largest square that is encoded, pixels. Encoders are asked about it."""
        if self.buckets is not None:
            return self.buckets.side
        return max(self.resolutions or (self.resolution,))

    def identity(self, transform: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, for the fingerprint. Those of this version only where they differ from earlier behaviour.

        Args:
            transform: what is done to a picture without further settings; a crop that is set replaces its crop.
        """
        found = self.model_dump(mode="json", include={"resolution", "min_side", "max_pixels"})
        if self.buckets is not None or self.resolutions is not None:
            del found["resolution"]
        if self.buckets is not None:
            found["buckets"] = self.buckets.model_dump(mode="json")
        if self.resolutions is not None:
            found["resolutions"] = sorted(self.resolutions)
        if self.flip:
            found["flip"] = True
        if self.crop == "random":
            found["seed"] = self.seed
        return {**found, **transform, **({"crop": self.crop} if self.crop != "centre" else {})}
