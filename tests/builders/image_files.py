"""Image files for tests: through Pillow, and by hand where Pillow cannot write them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def blobs(width: int = 24, height: int = 24, seed: int = 0) -> Image.Image:
    """A smooth coloured picture without symmetry and without black."""
    few = np.random.default_rng(seed).integers(40, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(few).resize((width, height), Image.Resampling.BILINEAR)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG, with its CRC."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(size: int, depth: int, kind: int, rows: bytes, extra: bytes = b"", interlaced: bool = False) -> bytes:
    """A square PNG from its rows with their filter bytes; `extra` are chunks before the pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, depth, kind, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def interlaced(image: Image.Image) -> bytes:
    """A square RGB image as an interlaced PNG."""
    samples = np.asarray(image)
    rows = b"".join(
        b"\0" + row.tobytes() for x, y, across, down in ADAM7 for row in samples[y::down, x::across] if row.size
    )
    return png(image.width, 8, 2, rows, interlaced=True)


def with_chunks(data: bytes, *chunks: bytes, end: bool = False) -> bytes:
    """A PNG with more chunks before, or behind, its pixels."""
    at = data.rindex(b"IEND") - 4 if end else data.index(b"IDAT") - 4
    return data[:at] + b"".join(chunks) + data[at:]


def with_segments(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more segments (marker, body) at its begin."""
    more = b"".join(b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return data[:2] + more + data[2:]


def tiff(size: int, bits: int, white: int, samples: bytes, form: int = 1, order: str = "<", *extra: tuple) -> bytes:
    """A square grey TIFF in one strip.

    Args:
        white: PhotometricInterpretation: 0 if white is zero, else 1.
        form: SampleFormat: 1 unsigned, 2 signed, 3 float.
        extra: more entries: tag, kind, count, value or offset.
    """
    entries = [(256, 4, 1, size), (257, 4, 1, size), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, white)]
    entries += [(277, 3, 1, 1), (278, 4, 1, size), (279, 4, 1, len(samples)), (339, 3, 1, form), *extra]
    offset = 14 + 12 * (len(entries) + 1)
    directory = b""
    for tag, kind, count, value in sorted([*entries, (273, 4, 1, offset)]):
        directory += struct.pack(order + "HHI", tag, kind, count)
        directory += struct.pack(order + ("HH" if kind == 3 else "I"), *((value, 0) if kind == 3 else (value,)))
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "IH", 8, len(entries) + 1) + directory + bytes(4) + samples


def exif(entries: list[tuple[int, int, int, bytes]], order: str = ">") -> bytes:
    """EXIF with entries (tag, kind, count, the four bytes of the value), without its `Exif` prefix."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3].ljust(4, b"\0")[:4] for entry in entries)
    return head + body + bytes(4)
