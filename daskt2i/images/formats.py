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
        return GifImagePlugin.GifImageFile(io.BytesIO(_first_frame(data)))
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile(stream)
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return Tiff(data)
    if head.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile(stream)
    if head[:1] == b"P" and head[1:2] in b"123456Ff" and head[2:3].isspace():
        return PpmImagePlugin.PpmImageFile(stream)
    if head[4:12] in (b"ftypavif", b"ftypavis", b"ftypmif1", b"ftypmsf1"):
        return _avif(data)
    raise RowRejected(Reason.UNREADABLE_IMAGE, "not a JPEG, PNG, GIF, WebP, TIFF, BMP, PPM or AVIF file")


def _first_frame(data: bytes) -> bytes:
    """A GIF up to the end of its first frame. If data of this frame is missing, Pillow would decode what follows."""
    position = 13 + _colours(data, 10)
    while data[position : position + 1] in (b"!", b","):
        is_frame = data[position] == ord(",")
        position += 11 + _colours(data, position + 9) if is_frame else 2  # a frame has one byte before its data
        while size := data[position] if position < len(data) else 0:
            position += 1 + size
        position += 1
        if is_frame and position <= len(data):
            return data[:position] + b";"
    return data


def _colours(data: bytes, at: int) -> int:
    """The length of the colour table that the flags at `at` announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _avif(data: bytes) -> ImageFile.ImageFile:
    """Pillow refuses an AVIF with damaged EXIF. Then the list of items gets another name for it, and none is found."""
    from PIL import AvifImagePlugin  # Pillow has it from 11.3

    try:
        return AvifImagePlugin.AvifImageFile(io.BytesIO(data))
    except Exception:
        head, name, rest = data.partition(b"mdat")
        if b"Exif" not in head:
            raise
        return AvifImagePlugin.AvifImageFile(io.BytesIO(head.replace(b"Exif", b"none") + name + rest))
