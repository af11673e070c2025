"""Converts a decoded image to 8 bits of RGB or grey.

Covers: every colour mode of Pillow, transparent pixels (they are put on white), deep grey.

Does not cover: the meaning of a colour key (`png`) and of samples (`tiff`). Colour profiles (ICC) are ignored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from daskt2i.errors import Reason, RowRejected
from daskt2i.images.tiff import Samples


def displayable(image: Image.Image, samples: Samples) -> Image.Image:
    """Convert any colour mode to `RGB` or `L` with 8 bits; put transparent pixels on white.

    Raises:
        RowRejected: `unreadable-image` for NaN or infinite samples.
    """
    if image.mode.startswith("I") or image.mode == "F" or (image.mode == "L" and samples.signed):
        return _eight_bits(image, samples)
    if image.has_transparency_data:
        return _over_white(image)
    if image.mode in ("RGB", "L"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
        if converted is not None:
            return converted
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Convert straight or premultiplied alpha, a transparent palette entry or colour key (PNG tRNS) to RGB on white."""
    if image.mode in ("La", "PA"):
        image = image.convert("LA")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _eight_bits(image: Image.Image, samples: Samples) -> Image.Image:
    """Convert deep or signed grey to `L`.

    12-bit samples map 0 … 4095 to 0 … 255, 16-bit samples 0 … 65535, floats 0 … 1. Other data has no defined white:
    integers above 16 bits, negative integers, and floats outside 0 … 1 are stretched from their smallest to their
    largest value.

    Raises:
        RowRejected: `unreadable-image` for NaN or infinite samples.
    """
    deep: npt.NDArray[Any] = np.asarray(image)
    if image.mode == "L":
        deep = deep.view(np.int8)
    elif image.mode == "I" and samples.bits == 32 and not samples.signed:
        deep = deep.view(np.uint32)
    low, high = float(deep.min()), float(deep.max())
    if not np.isfinite([low, high]).all():
        raise RowRejected(Reason.UNREADABLE_IMAGE, "samples that are not finite")
    white = {"F": 1.0, "L": 255.0}.get(image.mode, 4095.0 if samples.bits == 12 else 65535.0)
    if low >= 0 and high <= white:
        low, high = 0.0, white
    scale = 255.0 / (high - low) if high > low else 0.0
    key = image.info.get("transparency")
    grey = np.empty(deep.shape, np.uint8)
    height = max(1, 2**20 // deep.shape[1])  # in strips, because a float64 copy of all pixels takes 8 bytes each
    for top in range(0, deep.shape[0], height):
        strip = deep[top : top + height]
        grey[top : top + height] = np.rint((strip.astype(np.float64) - low) * scale)
        if isinstance(key, int):
            grey[top : top + height][strip == key] = 255
    return Image.fromarray(255 - grey if samples.white_is_zero else grey)
