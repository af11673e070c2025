"""Decodes the bytes of an image file into upright RGB uint8 pictures, by default one square.

Covers: limits, resize and crop, for the formats of `formats`. The limits are checked on the header, before a pixel is
decoded. A truncated file is rejected.

Does not cover: where the bytes come from (`sources`), the value range of a model (`encoders`), orientation and colour
(`orientation`, `colour`), which part of an image is shown (`framing`). Colour profiles (ICC) are ignored: pixels count
as sRGB, as in COCO and in the training of the encoders. Some damage is not detected, because no decoder reports it,
such as flipped bits in the data of a JPEG: `jpeg`, `png`, `tiff` and docs/decisions/0010-faults-pictures.md list it.

The steps in order: decode, put transparent pixels on white, scale the centred square of the source, or another part of
it, to the target with an antialiased bicubic filter, turn upright. Scaling the part with `resize(box=…)` equals scaling
the whole image and then cropping, because the filter still uses the neighbours outside the box. Bicubic has less
ringing at hard edges than Lanczos. It is also the usual filter for FID (Parmar et al. 2022, "On Aliased Resizing"), so
training pictures and reference pictures get the same filter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile

from daskt2i.errors import ConfigError, Reason, RowRejected
from daskt2i.images.buckets import Size
from daskt2i.images.colour import displayable
from daskt2i.images.formats import open_image
from daskt2i.images.framing import Framing, square
from daskt2i.images.jpeg import Jpeg
from daskt2i.images.orientation import orientation
from daskt2i.images.tiff import Samples, Tiff
from daskt2i.types import Box, Pixels

TRANSFORM: dict[str, str | int] = {"resize": "bicubic-antialiased", "crop": "centre", "version": 1}
"""What `read` does to a picture. It is part of the fingerprint. Raise `version` with every change of a pixel.

It was not raised where rare files had wrong pictures: docs/decisions/0010-faults-pictures.md.
"""

DRAFT_MARGIN = 2
"""A JPEG is decoded at 1/2, 1/4 or 1/8 only if each side then has at least this many times the pixels of the target, or
of the largest target.

Measured on 80 COCO photographs against full decoding: 46.2 dB or more at 64 and 128 px (mean 52.5 dB at 64). A
photograph of 640 x 480 takes 4.0 ms instead of 5.7 ms at 64 px. At 256 px these photographs are decoded in full.
"""

_ORIENTATION = 274
"""Tag of TIFF and EXIF."""

_ON_ITS_SIDE = range(5, 9)
"""Orientations whose stored width is the upright height."""

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
        pixels: `uint8[height, width, 3]`, upright RGB, in the first size.
        source_size: (width, height) of the upright source image in pixels.
        crop_box: the part of the upright source image that the pictures show.
        more: the same part in the other sizes.
    """

    pixels: Pixels
    source_size: tuple[int, int]
    crop_box: Box
    more: tuple[Pixels, ...] = ()


def read(data: bytes, resolution: int, limits: Limits) -> DecodedImage:
    """Decode an image file into a square picture. Deterministic; smaller images are scaled up.

    Args:
        data: the whole file. Bytes after the end of the image are ignored.
        resolution: side of the result in pixels.

    Raises: as `read_framed`.
    """
    return read_framed(data, square(resolution), limits)


def read_framed(data: bytes, framing: Framing, limits: Limits, number: int = 0) -> DecodedImage:
    """Decode an image file once, and make a picture of each size from one part of it. Deterministic.

    Args:
        data: the whole file. Bytes after the end of the image are ignored.
        framing: which part, and which sizes.
        number: the number of the image, for a random part.

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
        return _read(data, framing, limits, number)
    except (RowRejected, MemoryError, KeyboardInterrupt):  # `Interrupted` is a KeyboardInterrupt and an Exception
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RowRejected(Reason.IMAGE_TOO_LARGE, str(error)) from error
    except Exception as error:  # Pillow's parsers raise almost anything on hostile bytes
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RowRejected(Reason.UNREADABLE_IMAGE, detail) from error


def upright_size(data: bytes, limits: Limits) -> Size:
    """Width and height of the upright image, from the header of its file: no pixel is decoded.

    The size of a damaged or an unusual file (a GIF frame larger than its screen) may be another when it is decoded.

    Raises:
        RowRejected: `unreadable-image`, `image-too-small` or `image-too-large`.
    """
    try:
        image = open_image(data)
        _check(image.size, limits)
        turn = image.tag_v2.get(_ORIENTATION, 1) if isinstance(image, Tiff) else orientation(image.info)
    except (RowRejected, MemoryError):
        raise
    except Exception as error:  # Pillow's parsers raise almost anything on hostile bytes
        raise RowRejected(
            Reason.UNREADABLE_IMAGE, " ".join(f"{type(error).__name__}: {error}".split())[:200]
        ) from error
    width, height = image.size
    return (height, width) if turn in _ON_ITS_SIDE else (width, height)


def _read(data: bytes, framing: Framing, limits: Limits, number: int) -> DecodedImage:
    image = open_image(data)
    size = image.size
    _check(size, limits)
    if isinstance(image, Jpeg):
        _draft(image, framing.sizes, orientation(image.info))
        image.load()
    else:
        image.load()
        if image.size != size:  # Pillow turns a TIFF upright itself; a GIF frame may be larger than its screen
            size = image.size
            _check(size, limits)
    turn = 1 if isinstance(image, Tiff) else orientation(image.info)

    upright = (size[1], size[0]) if turn in _ON_ITS_SIDE else size
    plain = displayable(image, image.samples if isinstance(image, Tiff) else Samples())
    box = framing.box(upright, number, lambda: _turned(plain, turn))
    if not framing.upscale and (short := _too_small(box, framing.sizes)):
        raise RowRejected(Reason.IMAGE_TOO_SMALL, short)
    left, top, right, bottom = _stored_box(box, upright, turn)
    across, down = image.width / size[0], image.height / size[1]
    if isinstance(image, Jpeg) and image.decoderconfig:
        across = down = 1 / image.decoderconfig[0]  # the last pixel of a draft may cover less than a whole step
    place = (left * across, top * down, right * across, bottom * down)
    first, *more = (
        np.array(_turned(plain.resize(_stored(one, turn), Image.Resampling.BICUBIC, box=place), turn).convert("RGB"))
        for one in framing.sizes
    )
    return DecodedImage(first, upright, box, tuple(more))


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """The upright image."""
    return image.transpose(_TO_UPRIGHT[orientation]) if orientation in _TO_UPRIGHT else image


def _stored(size: Size, orientation: int) -> Size:
    """A size of the upright image, as it is before the image is turned."""
    return (size[1], size[0]) if orientation in _ON_ITS_SIDE else size


def _too_small(box: Box, sizes: tuple[Size, ...]) -> str:
    """A clause about a part that would have to be scaled up; "" for none."""
    width, height = box[2] - box[0], box[3] - box[1]
    lacking = [size for size in sizes if width < size[0] or height < size[1]]
    return f"a part of {width} x {height} pixels for {lacking[0][0]} x {lacking[0][1]}" if lacking else ""


def _check(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise RowRejected(Reason.IMAGE_TOO_LARGE, f"{width} x {height} pixels > {limits.max_pixels}")
    if min(size) < limits.min_side:
        raise RowRejected(Reason.IMAGE_TOO_SMALL, f"shorter side {min(size)} < {limits.min_side}")


def _draft(image: Jpeg, sizes: tuple[Size, ...], orientation: int) -> None:
    """Decode at reduced scale if each side stays `DRAFT_MARGIN` times the largest target: it is faster."""
    width, height = (
        DRAFT_MARGIN * max(sides) for sides in zip(*(_stored(one, orientation) for one in sizes), strict=True)
    )
    if image.width >= 2 * width and image.height >= 2 * height:
        image.draft(image.mode, (width, height))


def _stored_box(box: Box, upright: tuple[int, int], orientation: int) -> Box:
    """A box of the upright image, in the coordinates of the stored image."""
    left, top, right, bottom = box
    width, height = upright
    if orientation in (2, 3, 6, 7):  # the upright x axis runs against its stored axis
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if orientation >= 5 else (left, top, right, bottom)
