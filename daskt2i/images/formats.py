"""Which image formats are read, told apart by the first bytes of a file and by nothing else.

Covers: JPEG (also the first picture of an MPO), PNG, GIF, WebP, TIFF, BMP, PPM and, where Pillow has it, AVIF. No other
parser ever sees the data: Pillow's EPS reader starts a program.
Does not cover: decoding and what a header says (`read`).
"""

from __future__ import annotations

import io

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from daskt2i.errors import Reason, RowRejected


class Jpeg(JpegImagePlugin.JpegImageFile):
    """Leaves EXIF alone: opening would parse all of it for a resolution in dpi and warn of whatever is odd there."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


def open_image(data: bytes) -> ImageFile.ImageFile:
    """The header, parsed; no pixel is decoded. Pillow's classes are called directly: `Image.open` tries every parser
    there is, and would warn of large images by itself.

    Raises:
        RowRejected: `unreadable-image`: of none of these formats.
        Exception: Pillow's parsers raise almost anything on a damaged header.
    """
    stream, head = io.BytesIO(data), data[:12]
    if not data:
        raise RowRejected(Reason.UNREADABLE_IMAGE, "the file is empty")
    if head.startswith(b"\xff\xd8\xff"):
        return Jpeg(stream)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile(stream)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return GifImagePlugin.GifImageFile(stream)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile(stream)
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffImagePlugin.TiffImageFile(stream)
    if head.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile(stream)
    if head[:1] == b"P" and head[1:2] in b"123456Ff" and head[2:3].isspace():
        return PpmImagePlugin.PpmImageFile(stream)
    if head[4:12] in (b"ftypavif", b"ftypavis", b"ftypmif1", b"ftypmsf1"):
        from PIL import AvifImagePlugin  # Pillow has it from 11.3

        return AvifImagePlugin.AvifImageFile(stream)
    raise RowRejected(Reason.UNREADABLE_IMAGE, "not a JPEG, PNG, GIF, WebP, TIFF, BMP, PPM or AVIF file")
