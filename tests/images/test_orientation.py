"""Orientation and cropping: as Pillow's `exif_transpose` and a centre crop, wherever a format keeps EXIF."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from builders.image_files import blobs, chunk, exif, saved, with_chunks, with_segments
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin, features

from daskt2i.images import read as images
from daskt2i.images.framing import centre_box
from daskt2i.images.orientation import orientation

LIMITS = images.Limits(min_side=1)
SIX = exif([(0x0112, 3, 1, b"\0\6")])
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'

KINDS = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I"}


def by_pillow(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as stored:
        return ImageOps.exif_transpose(stored)


def is_as_by_pillow(data: bytes) -> bool:
    """Whether size, crop and pixels are those of Pillow; at the picture's own scale, so that no filter is between."""
    upright = by_pillow(data).convert("RGB")
    picture = images.read(data, min(upright.size), LIMITS)
    box = centre_box(upright.size)
    assert picture.source_size == upright.size
    assert picture.crop_box == box
    return np.array_equal(picture.pixels, np.asarray(upright.crop(box)))


@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    value=st.integers(0, 9),
    kind=st.sampled_from(sorted(KINDS)),
    order=st.sampled_from("<>"),
    form=st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF"]),
)
@example(width=23, height=40, value=6, kind=6, order="<", form="JPEG")
def test_orientation_then_the_centre_square_in_every_integer_kind(
    width: int, height: int, value: int, kind: int, order: str, form: str
) -> None:
    image = blobs(width, height)
    if form == "TIFF":
        data = saved(image, "TIFF", tiffinfo={0x0112: value})
    else:
        body = exif([(0x0112, kind, 1, struct.pack(order + KINDS[kind], value))], order)
        data = saved(image, form, exif=b"Exif\0\0" + body, **({"lossless": True} if form == "WEBP" else {}))
    assert is_as_by_pillow(data)


ENTRIES = st.tuples(
    st.sampled_from([0x010F, 0x0112, 0x0112, 0x8769]),
    st.integers(0, 18),
    st.integers(0, 3),
    st.integers(0, 9).flatmap(lambda n: st.sampled_from([bytes([0, n]), bytes([n]), bytes([0, 0, 0, n])])),
)


@given(entries=st.lists(ENTRIES, max_size=4), order=st.sampled_from("<>"))
def test_any_directory_of_exif_gives_the_orientation_that_pillow_finds(entries: list[Any], order: str) -> None:
    """Values fit into their entries, because an error in one value ends Pillow's parser, but not ours."""
    size = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
    body = b"Exif\0\0" + exif([e for e in entries if size.get(e[1], 1) * e[2] <= 4], order)
    parsed = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed.load(body)
        value = parsed.get(0x0112, 1)
    expected = int(value) if isinstance(value, int | float) and value in range(1, 9) else 1
    assert orientation({"exif": body}) == expected


@given(body=st.binary(max_size=60), prefix=st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_no_bytes_of_exif_and_xmp_raise_an_error(body: bytes, prefix: bytes) -> None:
    assert orientation({"exif": prefix + body, "xmp": body}) in range(1, 9)


def raw_profile(body: bytes) -> bytes:
    """EXIF as text, as ImageMagick writes it into a PNG."""
    lines = "\n".join(body.hex()[at : at + 72] for at in range(0, 2 * len(body), 72))
    return f"\nexif\n{len(body):8}\n{lines}\n".encode()


TEXT = raw_profile(b"Exif\0\0" + SIX)
PLACES = {
    "eXIf": chunk(b"eXIf", SIX),
    "eXIf with a prefix": chunk(b"eXIf", b"Exif\0\0" + SIX),
    "tEXt": chunk(b"tEXt", b"Raw profile type exif\0" + TEXT),
    "zTXt": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(TEXT)),
    "iTXt": chunk(b"iTXt", b"Raw profile type exif\0\0\0\0\0" + TEXT),
    "iTXt, compressed": chunk(b"iTXt", b"Raw profile type exif\0\1\0en\0x\0" + zlib.compress(TEXT)),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
}


@pytest.mark.parametrize("end", [False, True], ids=["before the pixels", "behind the pixels"])
@pytest.mark.parametrize("place", PLACES)
def test_a_png_is_turned_wherever_its_exif_is(place: str, end: bool) -> None:
    data = with_chunks(saved(blobs(20, 30)), PLACES[place], end=end)
    assert by_pillow(data).size == (30, 20)
    assert is_as_by_pillow(data)


def test_the_exif_chunk_of_a_png_counts_before_the_text() -> None:
    upright = chunk(b"eXIf", exif([(0x0112, 3, 1, b"\0\1")]))
    data = with_chunks(saved(blobs(20, 30)), upright, PLACES["zTXt"])
    assert images.read(data, 20, LIMITS).source_size == (20, 30)


def test_a_jpeg_is_turned_by_its_second_app1_and_by_its_xmp() -> None:
    plain = saved(blobs(20, 30), "JPEG")
    namespace = b"http://ns.adobe.com/xap/1.0/\0"
    behind = with_segments(plain, (0xE1, namespace + b"<x/>"), (0xE1, b"Exif\0\0" + SIX))
    only_xmp = with_segments(plain, (0xE1, namespace + XMP))
    upright = exif([(0x0112, 3, 1, b"\0\1")])
    both = with_segments(plain, (0xE1, namespace + XMP), (0xE1, b"Exif\0\0" + upright))
    for data, size in ((behind, (30, 20)), (only_xmp, (30, 20)), (both, (20, 30))):
        assert by_pillow(data).size == size
        assert is_as_by_pillow(data)


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "AVIF"])
def test_other_formats_are_turned_by_their_xmp(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    options: dict[str, Any] = {"tiffinfo": {700: XMP}} if kind == "TIFF" else {"xmp": XMP}
    data = saved(blobs(20, 30), kind, **options)
    assert images.read(data, 20, LIMITS).source_size == by_pillow(data).size == (30, 20)


def test_an_avif_is_turned_by_its_own_boxes() -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    for value in range(1, 9):
        data = saved(blobs(20, 30), "AVIF", exif=b"Exif\0\0" + exif([(0x0112, 3, 1, bytes([0, value]))]))
        assert is_as_by_pillow(data)


def test_text_that_is_not_exif_turns_nothing() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n    12\nno hexadecimal\n")
    assert images.read(saved(blobs(20, 30), pnginfo=info), 20, LIMITS).source_size == (20, 30)
