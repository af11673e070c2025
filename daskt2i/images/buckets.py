"""Aspect buckets: the sizes of picture that a store has, and which of them a source image gets.

Covers: the sizes of equal area, the choice for one image, images that are smaller than their bucket.
Does not cover: the crop (`framing`), the rows of a store in the order of their buckets (`facts.bucketed`).

The sizes are those of NovelAI (Aspect Ratio Bucketing, 2022) as kohya's sd-scripts and the training of SDXL use them
(arXiv:2307.01952, appendix I): for each width that is a multiple of `step`, the largest height that keeps the area. An
image gets the bucket with the nearest ratio of width to height. If it has fewer pixels than this bucket, it gets a
smaller one, as with kohya's `bucket_no_upscale`: its own sides, rounded down to multiples of `step`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Size = tuple[int, int]
"""Width and height, pixels."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How buckets are made.

    Attributes:
        area: width and height whose product no bucket exceeds.
        step: sides are multiples of it, pixels.
        max_ratio: longer side / shorter side is at most this.
        upscale: whether an image may be scaled up to its bucket.
    """

    area: Size
    step: int
    max_ratio: float
    upscale: bool = False

    def sizes(self) -> tuple[Size, ...]:
        """The buckets of images that are large enough, by width; none if `step` is too large for the area."""
        pixels = self.area[0] * self.area[1]
        found = set()
        for width in range(self.step, math.isqrt(pixels) + 1, self.step):
            height = pixels // width // self.step * self.step
            if height <= width * self.max_ratio:
                found |= {(width, height), (height, width)}
        return tuple(sorted(found))

    def bucket_of(self, image: Size, sizes: Sequence[Size]) -> Size | None:
        """The bucket of an upright image; None if it is smaller than a bucket of `step` pixels.

        Args:
            sizes: `sizes()`.
        """
        width, height = image
        # Of two buckets that are equally near, the larger one.
        near = min(sizes, key=lambda size: (_apart(image, size), -size[0] * size[1], size))
        if self.upscale or (near[0] <= width and near[1] <= height):
            return near
        pixels = self.area[0] * self.area[1]
        shrink = min(1.0, math.sqrt(pixels / (width * height)))
        across, down = (self._floor(side * shrink) for side in image)
        across = min(across, self._floor(down * self.max_ratio))
        down = min(down, self._floor(across * self.max_ratio))
        return (across, down) if min(across, down) else None

    def _floor(self, side: float) -> int:
        return int(side + 1e-6) // self.step * self.step


def _apart(one: Size, other: Size) -> float:
    """How different two ratios are: the logarithm treats wide and high images alike."""
    return round(abs(math.log(one[0] * other[1] / (one[1] * other[0]))), 9)


def wasted(image: Size, crop: Size) -> float:
    """The share of the pixels of an image that a crop of the ratio of `crop` leaves out, 0 to 1."""
    width, height = largest_crop(image, crop)
    return 1.0 - width * height / (image[0] * image[1])


def largest_crop(image: Size, shape: Size) -> Size:
    """The largest part of an image that has the ratio of `shape`, whole pixels: it has the image's width or height."""
    width, height = image
    if width * shape[1] >= height * shape[0]:
        return min(width, max(1, round(height * shape[0] / shape[1]))), height
    return width, min(height, max(1, round(width * shape[1] / shape[0])))


def in_order(sizes: Iterable[Size]) -> list[Size]:
    """Each bucket once, in the order in which a store has them."""
    return sorted(set(sizes))
