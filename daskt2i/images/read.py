"""Decodes the bytes of an image file into an upright RGB uint8 square.

Covers: limits, colour modes, orientation, resize and crop, for the formats of `formats`. The limits are checked on the
header, before a pixel is decoded. A truncated file is rejected.

Does not cover: where the bytes come from (`sources`), the value range of a model (`encoders`). Colour profiles (ICC)
are ignored: pixels count as sRGB, as in COCO and in the training of the encoders. Orientation is read only from EXIF.
Some damage is not detected, because no decoder reports it: flipped bits in the data of a JPEG, a progressive JPEG
without its last scans.

The steps in order: decode, put transparent pixels on white, scale the centred square of the source to the target with
an antialiased bicubic filter, turn upright. Scaling the square with `resize(box=…)` equals scaling the whole image and
then cropping, because the filter still uses the neighbours outside the box. Bicubic has less ringing at hard edges than
Lanczos. It is also the usual filter for FID (Parmar et al. 2022, "On Aliased Resizing"), so training pictures and
reference pictures get the same filter.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, JpegImagePlugin, TiffImagePlugin

from daskt2i.errors import ConfigError, Reason, RowRejected
from daskt2i.images.formats import Jpeg, open_image
from daskt2i.types import Box, Pixels

TRANSFORM: dict[str, str | int] = {"resize": "bicubic-antialiased", "crop": "centre", "version": 1}
"""What `read` does to a picture. It is part of the fingerprint. Raise `version` with every change of a pixel."""

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
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        _draft(image, resolution)
        image.load()
        _refuse_grey_tail(data, image)
    else:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _refuse_missing_strips(image)
        image.load()
        if image.size != size:  # Pillow turns a TIFF upright itself; a GIF frame may be larger than its screen
            size = image.size
            _check(size, limits)
    orientation = 1 if isinstance(image, TiffImagePlugin.TiffImageFile) else _orientation(image.info.get("exif"))

    upright = (size[1], size[0]) if orientation >= 5 else size
    box = centre_box(upright)
    left, top, right, bottom = _stored_box(box, upright, orientation)
    across, down = image.width / size[0], image.height / size[1]
    if isinstance(image, JpegImagePlugin.JpegImageFile) and image.decoderconfig:
        across = down = 1 / image.decoderconfig[0]  # the last pixel of a draft may cover less than a whole step
    small = _displayable(image).resize(
        (resolution, resolution),
        Image.Resampling.BICUBIC,
        box=(left * across, top * down, right * across, bottom * down),
    )
    if orientation in _TO_UPRIGHT:
        small = small.transpose(_TO_UPRIGHT[orientation])
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


def _draft(image: JpegImagePlugin.JpegImageFile, resolution: int) -> None:
    """Decode at reduced scale if the shorter side stays `DRAFT_MARGIN` times the target: it is faster."""
    side = resolution * DRAFT_MARGIN
    if min(image.size) >= 2 * side:
        image.draft(image.mode, (side, side))


def _refuse_grey_tail(data: bytes, image: Image.Image) -> None:
    """Reject a JPEG whose last rows are missing. libjpeg fills them with mid-grey and reports it only in its log.

    If the last pixel has this grey, the picture is decoded again with extra bytes before the end marker. A whole
    picture ignores them. An unfinished picture decodes them as its next blocks.

    Raises:
        RowRejected: `unreadable-image`.
    """
    corner = image.getpixel((image.width - 1, image.height - 1))
    if any(value not in (127, 128) for value in (corner if isinstance(corner, tuple) else (corner,))):
        return
    end = data.rfind(b"\xff\xd9")
    again = Jpeg(io.BytesIO(data[:end] + b"\x55" * 256 + data[end:]))
    if isinstance(image, JpegImagePlugin.JpegImageFile) and image.decoderconfig:
        again.draft(again.mode, image.size)
    again.load()
    if again.size == image.size and again.tobytes() != image.tobytes():
        raise RowRejected(Reason.UNREADABLE_IMAGE, "the image ends before its last row")


def _refuse_missing_strips(image: TiffImagePlugin.TiffImageFile) -> None:
    """Reject a TIFF that lists too few strips or tiles for its size. Pillow would leave the rest black.

    Raises:
        RowRejected: `unreadable-image`.
    """
    there = 0
    for tile in image.tile:
        left, top, right, bottom = tile[1] or (0, 0, 0, 0)
        there += (right - left) * (bottom - top)
    if there < image.width * image.height:
        raise RowRejected(Reason.UNREADABLE_IMAGE, "the file holds fewer rows than its header says")


def _orientation(exif: bytes | None) -> int:
    """Tag 0x0112 of the first directory (EXIF 2.3, 4.6.4), 1 to 8; 1 if it is absent or damaged."""
    if not isinstance(exif, bytes):
        return 1
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == 0x0112 and kind in (3, 4):
                (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), exif, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _stored_box(box: Box, upright: tuple[int, int], orientation: int) -> Box:
    """A box of the upright image, in the coordinates of the stored image."""
    left, top, right, bottom = box
    width, height = upright
    if orientation in (2, 3, 6, 7):  # the upright x axis runs against its stored axis
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if orientation >= 5 else (left, top, right, bottom)


def _displayable(image: Image.Image) -> Image.Image:
    """Convert any colour mode to `RGB` or `L` with 8 bits; put transparent pixels on white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image)
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
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in key)  # 16 bits a channel: Pillow keeps the upper 8
    if image.mode in ("La", "PA"):
        image = image.convert("LA")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert deep grey to `L`.

    16-bit samples map 0 … 65535 to 0 … 255, floats map 0 … 1. Other data has no defined white: integers above 16 bits
    and floats outside 0 … 1 are stretched from their smallest to their largest value.

    Raises:
        RowRejected: `unreadable-image` for NaN or infinite samples.
    """
    deep: npt.NDArray[Any] = np.asarray(image)
    low, high = float(deep.min()), float(deep.max())
    if not np.isfinite([low, high]).all():
        raise RowRejected(Reason.UNREADABLE_IMAGE, "samples that are not finite")
    white = 1.0 if image.mode == "F" else 65535.0
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
    return Image.fromarray(grey)
