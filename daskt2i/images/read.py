"""Decodes the bytes of an image file into an upright RGB uint8 square.

Covers: limits, resize and crop, for the formats of `formats`. The limits are checked on the header, before a pixel is
decoded. A truncated file is rejected.

Does not cover: where the bytes come from (`sources`), the value range of a model (`encoders`), orientation and colour
(`orientation`, `colour`). Colour profiles (ICC) are ignored: pixels count as sRGB, as in COCO and in the training of
the encoders. Some damage is not detected, because no decoder reports it, such as flipped bits in the data of a JPEG:
`jpeg`, `png`, `tiff` and docs/decisions/0010-faults-pictures.md list it.

The steps in order: decode, put transparent pixels on white, scale the centred square of the source to the target with
an antialiased bicubic filter, turn upright. Scaling the square with `resize(box=…)` equals scaling the whole image and
then cropping, because the filter still uses the neighbours outside the box. Bicubic has less ringing at hard edges than
Lanczos. It is also the usual filter for FID (Parmar et al. 2022, "On Aliased Resizing"), so training pictures and
reference pictures get the same filter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile

from daskt2i.errors import ConfigError, Reason, RowRejected
from daskt2i.images.colour import displayable
from daskt2i.images.formats import open_image
from daskt2i.images.jpeg import Jpeg
from daskt2i.images.orientation import orientation
from daskt2i.images.tiff import Samples, Tiff
from daskt2i.types import Box, Pixels

TRANSFORM: dict[str, str | int] = {"resize": "bicubic-antialiased", "crop": "centre", "version": 1}
"""What `read` does to a picture. It is part of the fingerprint. Raise `version` with every change of a pixel.

It was not raised where rare files had wrong pictures: docs/decisions/0010-faults-pictures.md.
"""

DRAFT_MARGIN = 2
"""A JPEG is decoded at 1/2, 1/4 or 1/8 only if its shorter side then has at least this many times the target's pixels.

Measured on 80 COCO photographs against full decoding: 46.2 dB or more at 64 and 128 px (mean 52.5 dB at 64). A
photograph of 640 x 480 takes 4.0 ms instead of 5.7 ms at 64 px. At 256 px these photographs are decoded in full.
"""

_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the size of an image.

    Attributes:
        min_side: smallest length of the shorter side, pixels.
        max_pixels: largest width x height. Decoding takes about 4 bytes a pixel, or 8 if the picture is not plain RGB
            or grey: 256 to 512 MiB at the default. For TIFF, GIF and WebP, Pillow's own limit holds too.
    """

    min_side: int = 32
    max_pixels: int = 2**26


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        pixels: `uint8[resolution, resolution, 3]`, upright RGB.
        source_size: (width, height) of the upright source image in pixels.
        crop_box: the part of the upright source image that `pixels` shows.
    """

    pixels: Pixels
    source_size: tuple[int, int]
    crop_box: Box


def read(data: bytes, resolution: int, limits: Limits) -> DecodedImage:
    """Decode an image file into a square picture. Deterministic; smaller images are scaled up.

    Args:
        data: the whole file. Bytes after the end of the image are ignored.
        resolution: side of the result in pixels.

    Raises:
        RowRejected: `unreadable-image`, `image-too-small` or `image-too-large`.
        ConfigError: Pillow is set to accept truncated files.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ConfigError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True in this process, so truncated files would count as whole "
            "pictures. No image was decoded; set it to False and run it again."
        )
    try:
        return _read(data, resolution, limits)
    except (RowRejected, MemoryError, KeyboardInterrupt):  # `Interrupted` is a KeyboardInterrupt and an Exception
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RowRejected(Reason.IMAGE_TOO_LARGE, str(error)) from error
    except Exception as error:  # Pillow's parsers raise almost anything on hostile bytes
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RowRejected(Reason.UNREADABLE_IMAGE, detail) from error


def _read(data: bytes, resolution: int, limits: Limits) -> DecodedImage:
    image = open_image(data)
    size = image.size
    _check(size, limits)
    if isinstance(image, Jpeg):
        _draft(image, resolution)
        image.load()
    else:
        image.load()
        if image.size != size:  # Pillow turns a TIFF upright itself; a GIF frame may be larger than its screen
            size = image.size
            _check(size, limits)
    turn = 1 if isinstance(image, Tiff) else orientation(image.info)

    upright = (size[1], size[0]) if turn >= 5 else size
    box = centre_box(upright)
    left, top, right, bottom = _stored_box(box, upright, turn)
    across, down = image.width / size[0], image.height / size[1]
    if isinstance(image, Jpeg) and image.decoderconfig:
        across = down = 1 / image.decoderconfig[0]  # the last pixel of a draft may cover less than a whole step
    small = displayable(image, image.samples if isinstance(image, Tiff) else Samples()).resize(
        (resolution, resolution),
        Image.Resampling.BICUBIC,
        box=(left * across, top * down, right * across, bottom * down),
    )
    if turn in _TO_UPRIGHT:
        small = small.transpose(_TO_UPRIGHT[turn])
    return DecodedImage(np.array(small.convert("RGB")), upright, box)


def centre_box(size: tuple[int, int]) -> Box:
    """The largest centred square of an image of (width, height) pixels. An odd pixel is left out right or below."""
    width, height = size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _check(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise RowRejected(Reason.IMAGE_TOO_LARGE, f"{width} x {height} pixels > {limits.max_pixels}")
    if min(size) < limits.min_side:
        raise RowRejected(Reason.IMAGE_TOO_SMALL, f"shorter side {min(size)} < {limits.min_side}")


def _draft(image: Jpeg, resolution: int) -> None:
    """Decode at reduced scale if the shorter side stays `DRAFT_MARGIN` times the target: it is faster."""
    side = resolution * DRAFT_MARGIN
    if min(image.size) >= 2 * side:
        image.draft(image.mode, (side, side))


def _stored_box(box: Box, upright: tuple[int, int], orientation: int) -> Box:
    """A box of the upright image, in the coordinates of the stored image."""
    left, top, right, bottom = box
    width, height = upright
    if orientation in (2, 3, 6, 7):  # the upright x axis runs against its stored axis
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if orientation >= 5 else (left, top, right, bottom)
