"""Recognises the format of an image file by its first bytes.

Covers: JPEG (also the first picture of an MPO), PNG, GIF, WebP, TIFF, BMP, PPM and, if Pillow supports it, AVIF. No
other parser gets the data, because Pillow's EPS reader starts a program.
Does not cover: decoding, limits on what a header says (`read`).
"""

from __future__ import annotations

import io

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    PpmImagePlugin,
    WebPImagePlugin,
)

from daskt2i.errors import Reason, RowRejected
from daskt2i.images.jpeg import Jpeg
from daskt2i.images.png import Png
from daskt2i.images.tiff import Tiff


def open_image(data: bytes) -> ImageFile.ImageFile:
    """Parse the header; decode no pixel. It calls Pillow's classes directly, because `Image.open` tries every parser,
    and gives its own warning about large images.

    Raises:
        RowRejected: `unreadable-image`: the file has none of these formats.
        Exception: Pillow's parsers raise almost anything on a damaged header.
    """
    stream, head = io.BytesIO(data), data[:12]
    if not data:
        raise RowRejected(Reason.UNREADABLE_IMAGE, "the file is empty")
    if head.startswith(b"\xff\xd8\xff"):
        return Jpeg(data)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return Png(data)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return GifImagePlugin.GifImageFile(stream)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile(stream)
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return Tiff(data)
    if head.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile(stream)
    if head[:1] == b"P" and head[1:2] in b"123456Ff" and head[2:3].isspace():
        return PpmImagePlugin.PpmImageFile(stream)
    if head[4:12] in (b"ftypavif", b"ftypavis", b"ftypmif1", b"ftypmsf1"):
        from PIL import AvifImagePlugin  # Pillow has it from 11.3

        return AvifImagePlugin.AvifImageFile(stream)
    raise RowRejected(Reason.UNREADABLE_IMAGE, "not a JPEG, PNG, GIF, WebP, TIFF, BMP, PPM or AVIF file")
