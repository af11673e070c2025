"""The part of an image that a picture shows: its ratio, its place, and the sizes that are made of it.

Covers: the largest part of a ratio, its place in the centre, at random, or where the attention is.
Does not cover: decoding and scaling (`read`), which ratio an image gets (`buckets`), what draws attention
(`attention`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from daskt2i.images.attention import busiest_place
from daskt2i.images.buckets import Size, largest_crop
from daskt2i.types import Box

Crop = Literal["centre", "random", "attention"]

_MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Framing:
    """Which part of an image is shown, and in which sizes.

    Attributes:
        sizes: width and height of each picture that is made of the part, pixels. They have one ratio.
        crop: where the part lies. It is as large as the ratio allows.
        seed: seed of random places.
        upscale: whether the part may have fewer pixels than a picture.
    """

    sizes: tuple[Size, ...]
    crop: Crop = "centre"
    seed: int = 0
    upscale: bool = True

    def box(self, image: Size, number: int, small: Callable[[], Image.Image]) -> Box:
        """The part of an upright image.

        Args:
            image: width and height, pixels.
            number: the number of the image, for a random place.
            small: makes the upright picture in any size, to look for attention.
        """
        width, height = largest_crop(image, self.sizes[0])
        free = image[0] - width, image[1] - height
        if self.crop == "random":
            left, top = random_place(free, self.seed, number)
        elif self.crop == "attention" and any(free):
            across, down = busiest_place(small(), image, (width, height))
            left = min(free[0], max(0, round(across * image[0] - width / 2)))
            top = min(free[1], max(0, round(down * image[1] - height / 2)))
        else:
            return centre_box(image, self.sizes[0])
        return left, top, left + width, top + height


def centre_box(image: Size, shape: Size = (1, 1)) -> Box:
    """The largest centred part of an image with the ratio of `shape`. An odd pixel is left out right or below."""
    width, height = largest_crop(image, shape)
    left, top = (image[0] - width) // 2, (image[1] - height) // 2
    return left, top, left + width, top + height


def square(side: int) -> Framing:
    """The largest centred square, scaled to `side` x `side` pixels. Smaller images are scaled up."""
    return Framing(((side, side),))


def random_place(free: tuple[int, int], seed: int, number: int) -> tuple[int, int]:
    """Left and top from 0 to `free`. Seed and number of the image alone determine it (Philox, Salmon et al. 2011)."""
    key = np.array([seed & _MASK, number & _MASK], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    left, top = generator.integers(0, np.array(free) + 1)
    return int(left), int(top)
