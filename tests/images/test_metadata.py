"""Metadata that no picture needs decides about no row: it may be huge, damaged, or lie about its length."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
from builders.image_files import blobs, chunk, exif, png, saved, tiff, with_chunks, with_segments
from PIL import Image, features

from daskt2i.images import read as images

LIMITS = images.Limits(min_side=1)
LONG = 1_500_000


def pixels(data: bytes, side: int = 24) -> np.ndarray:
    return images.read(data, side, LIMITS).pixels


CHUNKS = {
    "long text": chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a" * LONG)),
    "long international text": chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"a" * LONG)),
    "much text": chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a" * 2**20)) * 70,
    "long profile": chunk(b"iCCP", b"ICC\0\0" + zlib.compress(os.urandom(LONG))),
    "damaged profile": chunk(b"iCCP", b"ICC"),
    "profile of an unknown compression": chunk(b"iCCP", b"ICC\0\7abc"),
    "damaged text": chunk(b"zTXt", b"Raw profile type exif\0\0no zlib"),
    "long EXIF text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"a" * 2**25)),
    "damaged EXIF": chunk(b"eXIf", b"no directory"),
    "wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"!",
    "short physical size": chunk(b"pHYs", b"\0"),
    "short gamma": chunk(b"gAMA", b""),
    "animation that is not there": chunk(b"acTL", struct.pack(">II", 9, 0)),
    "damaged frame": chunk(b"fcTL", b"\0"),
}


@pytest.mark.parametrize("end", [False, True], ids=["before the pixels", "behind the pixels"])
@pytest.mark.parametrize("name", CHUNKS)
def test_a_png_is_accepted_with_any_metadata(name: str, end: bool) -> None:
    data = saved(blobs())
    assert np.array_equal(pixels(with_chunks(data, CHUNKS[name], end=end)), pixels(data))


SEGMENTS = {
    "short JFIF": (0xE0, b"JFIF"),
    "damaged EXIF": (0xE1, b"Exif\0\0no directory"),
    "damaged profile": (0xE2, b"ICC_PROFILE\0"),
    "damaged index of pictures": (0xE2, b"MPF\0xx"),
    "damaged FlashPix": (0xE2, b"FPXR\0"),
    "damaged Photoshop data": (0xED, b"Photoshop 3.0\x008BIM\3\xed\1"),
    "short Adobe data": (0xEE, b"Adobe"),
    "empty comment": (0xFE, b""),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_jpeg_is_accepted_with_any_metadata(name: str) -> None:
    data = saved(blobs(), "JPEG")
    assert np.array_equal(pixels(with_segments(data, SEGMENTS[name])), pixels(data))


ENTRIES = {
    "EXIF outside the file": (34665, 4, 1, 99_999_999),
    "EXIF in the header": (34665, 4, 1, 3),
    "profile outside the file": (34675, 7, 99_999, 99_999_999),
    "description outside the file": (270, 2, 99_999, 99_999_999),
    "resolution outside the file": (282, 5, 1, 99_999_999),
    "XMP outside the file": (700, 7, 99_999, 99_999_999),
}


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.filterwarnings("error")
def test_a_tiff_is_accepted_with_any_metadata(name: str) -> None:
    samples = blobs(32, 32).convert("L").tobytes()
    data = tiff(32, 8, 1, samples, 1, "<", ENTRIES[name])
    assert np.array_equal(pixels(data, 32), pixels(tiff(32, 8, 1, samples), 32))


def test_a_webp_and_an_avif_are_accepted_with_damaged_exif() -> None:
    webp = saved(blobs(), "WEBP", exif=b"Exif\0\0no directory", icc_profile=b"no profile", xmp=b"no XMP")
    assert np.array_equal(pixels(webp), pixels(saved(blobs(), "WEBP")))
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    maker = Image.Exif()
    maker[0x010F] = "maker"
    data = saved(blobs(), "AVIF", exif=maker)
    assert b"MM\0*" in data
    assert np.array_equal(pixels(data.replace(b"MM\0*", b"XX\0*")), pixels(data))


def test_a_damaged_palette_still_rejects_a_png() -> None:
    """It is no metadata: every pixel needs it."""
    rows = (b"\0" + bytes(range(24))) * 24
    palette = chunk(b"PLTE", bytes(range(72)))
    assert pixels(png(24, 8, 3, rows, palette)).size
    with pytest.raises(images.RowRejected):
        pixels(png(24, 8, 3, rows, palette[:-1] + b"!"))


def test_exif_of_a_tiff_is_of_no_use_and_does_no_harm() -> None:
    data = saved(blobs(), "TIFF", exif=b"Exif\0\0" + exif([(0x0112, 3, 1, b"\0\3")]))
    assert np.array_equal(pixels(data), pixels(saved(blobs()))[::-1, ::-1])
