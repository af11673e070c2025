"""The meaning of samples: transparent colours at every depth, which value is white, signs."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from builders.image_files import ADAM7, blobs, chunk, png, saved, tiff
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from daskt2i.errors import RowRejected
from daskt2i.images import read as images

LIMITS = images.Limits(min_side=1)
WHITE = [255, 255, 255]


def halves(data: bytes, side: int = 32) -> tuple[list[int], list[int]]:
    """The colours of the left and of the right half."""
    pixels = images.read(data, side, LIMITS).pixels
    return pixels[side // 2, 2].tolist(), pixels[side // 2, -3].tolist()


def packed(values: list[int], depth: int) -> bytes:
    """Samples of one row of a PNG."""
    if depth == 16:
        return struct.pack(f">{len(values)}H", *values)
    return np.packbits([value >> bit & 1 for value in values for bit in reversed(range(depth))]).tobytes()


def grey_png(depth: int, left: int, right: int, key: int, is_interlaced: bool = False) -> bytes:
    row = [left] * 16 + [right] * 16
    rows = b""
    for x, y, across, down in ADAM7 if is_interlaced else ((0, 0, 1, 1),):
        rows += (b"\0" + packed(row[x::across], depth)) * len(range(y, 32, down))
    return png(32, depth, 0, rows, chunk(b"tRNS", struct.pack(">H", key)), is_interlaced)


@given(depth=st.sampled_from([1, 2, 4, 8, 16]), is_interlaced=st.booleans(), numbers=st.data())
def test_the_transparent_grey_of_a_png_becomes_white_at_every_depth(
    depth: int, is_interlaced: bool, numbers: st.DataObject
) -> None:
    top = (1 << depth) - 1
    key = numbers.draw(st.integers(0, top))
    other = numbers.draw(st.integers(0, top).filter(lambda value: value != key))
    left, right = halves(grey_png(depth, key, other, key, is_interlaced))
    assert left == WHITE
    assert right == [round(other * 255 / top)] * 3


def test_only_the_low_bits_of_a_transparent_colour_count() -> None:
    """The field has 16 bits at every depth (PNG, 11.3.2.1)."""
    assert halves(grey_png(8, 80, 200, 0x0100 + 80))[0] == WHITE
    assert halves(grey_png(2, 1, 2, 0xFFFD))[0] == WHITE


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_of_a_png_is_compared_in_all_its_bits(depth: int) -> None:
    key, near = (0x1203, 0x0004, 0xFF05), (0x1203, 0x0004, 0xFF06)
    if depth == 8:
        key, near = tuple(value & 255 for value in key), tuple(value & 255 for value in near)
    form = ">3H" if depth == 16 else "3B"
    row = b"\0" + struct.pack(form, *key) * 16 + struct.pack(form, *near) * 16
    left, right = halves(png(32, depth, 2, row * 32, chunk(b"tRNS", struct.pack(">3H", *key))))
    assert left == WHITE
    assert right == [value >> depth - 8 for value in near]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_transparent_entries_of_a_palette_become_white_at_every_depth(depth: int) -> None:
    row = b"\0" + packed([0] * 16 + [1] * 16, depth)
    palette = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
    for alphas, left, right in ((b"\0", WHITE, [40, 50, 60]), (b"\xff\0", [10, 20, 30], WHITE)):
        assert halves(png(32, depth, 3, row * 32, palette + chunk(b"tRNS", alphas))) == (left, right)
    assert halves(png(32, depth, 3, row * 32, palette + chunk(b"tRNS", b"\xff\x80")))[1] == [147, 152, 157]


FORMS: list[tuple[str, int, int, float, float, int, int]] = [
    # struct's letter, bits, SampleFormat, left, right, and what becomes of them
    ("B", 8, 1, 10, 200, 10, 200),
    ("b", 8, 2, -10, 100, 0, 255),
    ("b", 8, 2, 20, 100, 20, 100),
    ("H", 16, 1, 2570, 51400, 10, 200),
    ("h", 16, 2, -1000, 1000, 0, 255),
    ("h", 16, 2, 2570, 25700, 10, 100),
    ("I", 32, 1, 7, 4_000_000_000, 0, 255),
    ("i", 32, 2, -7, 1_000_000_000, 0, 255),
    ("f", 32, 3, 0.2, 0.8, 51, 204),
    ("f", 32, 3, -3.0, 9.0, 0, 255),
]


@pytest.mark.parametrize("white_is_zero", [False, True], ids=["black is zero", "white is zero"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("letter", "bits", "form", "a", "b", "left", "right"), FORMS)
def test_a_tiff_keeps_polarity_and_sign_in_every_form(
    letter: str, bits: int, form: int, a: Any, b: Any, left: int, right: int, order: str, white_is_zero: bool
) -> None:
    samples = struct.pack(f"{order}32{letter}", *([a] * 16 + [b] * 16)) * 32
    data = tiff(32, bits, 0 if white_is_zero else 1, samples, form, order)
    expected = ([255 - left] * 3, [255 - right] * 3) if white_is_zero else ([left] * 3, [right] * 3)
    if (letter, order) == ("I", ">"):  # Pillow reads no unsigned 32 bits of this byte order
        with pytest.raises(RowRejected):
            halves(data)
    else:
        assert halves(data) == expected


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 12])
def test_a_tiff_keeps_polarity_at_every_depth(bits: int, white_is_zero: bool) -> None:
    top = (1 << bits) - 1
    left, right = top // 3, top - top // 5
    data = tiff(32, bits, 0 if white_is_zero else 1, packed([left] * 16 + [right] * 16, bits) * 32)
    expected = [round((top - value if white_is_zero else value) * 255 / top) for value in (left, right)]
    assert halves(data) == ([expected[0]] * 3, [expected[1]] * 3)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_compressed_deep_tiff_whose_white_is_zero_is_no_negative(compression: str) -> None:
    samples = np.asarray(blobs().convert("L")).astype(np.uint16) * 257
    data = saved(Image.fromarray(samples), "TIFF", compression=compression)
    at = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    assert data[at] == 1
    negative = images.read(data[:at] + b"\0" + data[at + 1 :], 24, LIMITS).pixels
    assert np.array_equal(255 - negative, images.read(data, 24, LIMITS).pixels)
