"""Whether an image is whole: cut, spliced and mutated files of every format, against Pillow and libjpeg."""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from builders.image_files import blobs, chunk, exif, interlaced, png, saved, with_chunks
from PIL import Image, ImageOps, features

from daskt2i.errors import RowRejected
from daskt2i.images import read as images

LIMITS = images.Limits(min_side=1, max_pixels=2**16)
SIDE = 24
TURNED = b"Exif\0\0" + exif([(0x0112, 3, 1, b"\0\6")])

FORMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("JPEG", "RGB", {"exif": TURNED}),
    "jpeg, grey": ("JPEG", "L", {"quality": 95}),
    "jpeg, CMYK": ("JPEG", "CMYK", {}),
    "jpeg, progressive": ("JPEG", "RGB", {"progressive": True}),
    "jpeg, restart markers": ("JPEG", "RGB", {"subsampling": 0, "restart_marker_blocks": 2}),
    "jpeg, progressive, restart markers": ("JPEG", "RGB", {"progressive": True, "restart_marker_blocks": 1}),
    "png": ("PNG", "RGB", {}),
    "png, alpha, turned": ("PNG", "RGBA", {"exif": TURNED}),
    "png, palette": ("PNG", "P", {}),
    "png, one bit": ("PNG", "1", {}),
    "gif": ("GIF", "P", {}),
    "gif, animated": ("GIF", "P", {"save_all": True, "append_images": [blobs(SIDE, SIDE, 5)]}),
    "webp": ("WEBP", "RGB", {"exif": TURNED}),
    "webp, lossless": ("WEBP", "RGB", {"lossless": True}),
    "bmp": ("BMP", "RGB", {}),
    "ppm": ("PPM", "RGB", {}),
    "tiff": ("TIFF", "RGB", {"strip_size": 300}),
    "tiff, lzw": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "tiff, deflate": ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    "tiff, fax": ("TIFF", "1", {"compression": "group4"}),
    "avif": ("AVIF", "RGB", {}),
}
"""Of each: Pillow's format, the mode, options of saving."""

JPEGS = [name for name in FORMS if name.startswith("jpeg")]


def made(name: str, seed: int = 0) -> bytes:
    kind, mode, options = FORMS[name]
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    image = blobs(SIDE, SIDE, seed)
    return saved(image.quantize(16) if mode == "P" else image.convert(mode), kind, **options)


def ours(data: bytes) -> np.ndarray | None:
    """The pixels, or None for a rejection. Any other error fails the test."""
    try:
        return images.read(data, SIDE, LIMITS).pixels
    except RowRejected:
        return None


def pillows(name: str, data: bytes) -> np.ndarray | None:
    """The pixels of Pillow's own strict loading, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=[FORMS[name][0]]) as image:
                if image.width * image.height > LIMITS.max_pixels:
                    return None
                image.load()
                rgba = ImageOps.exif_transpose(image).convert("RGBA")
        except Exception:
            return None
    white = Image.new("RGBA", rgba.size, "white")
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))


def cuts(data: bytes, count: int) -> Iterator[bytes]:
    for length in range(0, len(data), max(1, len(data) // count)):
        yield data[:length]


@pytest.mark.parametrize("name", FORMS)
def test_a_cut_file_is_rejected_or_all_its_pixels_are_there(name: str, request: pytest.FixtureRequest) -> None:
    """Some formats have something behind their pixels, as the end marker of a PNG."""
    data = made(name)
    whole = ours(data)
    assert whole is not None
    assert np.array_equal(whole, pillows(name, data))
    for cut in cuts(data, 1000 if request.config.getoption("--slow") else 20):
        got, expected = ours(cut), pillows(name, cut)
        assert (got is None) == (expected is None), len(cut)
        assert got is None or np.array_equal(got, whole), len(cut)


@pytest.mark.parametrize("name", FORMS)
def test_bytes_behind_a_whole_file_change_nothing(name: str) -> None:
    data = made(name)
    whole = ours(data)
    for more in (b"\0" * 99, b"trailer \xff\xd9 end", b"\xff" * 9, made(name, 1), made("jpeg", 1), made("png", 1)):
        assert np.array_equal(ours(data + more), whole)


@pytest.mark.parametrize("name", FORMS)
def test_spliced_and_mutated_files_are_as_pillow_sees_them(name: str, request: pytest.FixtureRequest) -> None:
    """Beyond Pillow, missing data of a JPEG and wrong checksums of a PNG are noticed. What Pillow refuses is accepted
    only if the damage is in something that no pixel needs.
    """
    data, other = made(name), made(name, 1)
    stricter = name.startswith(("jpeg", "png"))
    good = [ours(data), ours(other)] + [np.rot90(ours(file)) for file in (data, other)]  # or its EXIF is damaged
    for number, changed in enumerate(_changed(name, data, other, request.config.getoption("--slow"))):
        got, expected = ours(changed), pillows(name, changed)
        if name.startswith("tiff") and not _keeps_directory(data, changed):
            continue  # of a damaged directory, Pillow reads other entries than we do
        if got is not None and expected is not None:
            tolerance = 8 if name.startswith("jpeg") else 0  # the last bits of a scan may be missing
            assert expected.shape != got.shape or np.abs(got.astype(int) - expected).max() <= tolerance, number
        elif got is None:
            assert expected is None or stricter, number
        else:
            assert any(np.array_equal(got, picture) for picture in good), number


def _keeps_directory(data: bytes, changed: bytes) -> bool:
    begin = int.from_bytes(data[4:8], "little")
    end = begin + 2 + 12 * int.from_bytes(data[begin : begin + 2], "little")
    return data[:8] == changed[:8] and data[begin:end] == changed[begin:end]


def _changed(name: str, data: bytes, other: bytes, slow: bool) -> Iterator[bytes]:
    draw = random.Random(name)
    for _ in range(300 if slow else 12):
        at = draw.randrange(len(data))
        yield data[:at] + other[draw.choice((0, at)) :]
    for _ in range(1000 if slow else 25):
        mutated = bytearray(data)
        mutated[draw.randrange(len(mutated))] = draw.randrange(256)
        yield bytes(mutated)


# ---- JPEG --------------------------------------------------------------------------------------------------------


def libjpeg(data: bytes) -> str:
    """What libjpeg says about a file: an empty string if it is content."""
    simplejpeg = pytest.importorskip("simplejpeg", reason="needs simplejpeg, the reporter of libjpeg's warnings")
    try:
        space = simplejpeg.decode_jpeg_header(data, strict=False)[2]
        wanted = {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}.get(space, "RGB")
        simplejpeg.decode_jpeg(data, colorspace=wanted, strict=True)
    except (ValueError, KeyError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("size", [SIDE, 150])
def test_a_cut_jpeg_with_anything_behind_it_is_rejected_where_libjpeg_misses_data(
    name: str, size: int, request: pytest.FixtureRequest
) -> None:
    """The cut is closed by an end marker: no other bytes of the file say that data is missing."""
    _, mode, options = FORMS[name]
    data = saved(blobs(size, size).convert(mode), "JPEG", **options)
    assert libjpeg(data) == ""
    scan = data.index(b"\xff\xda") + 14
    last = len(data) - 2 if size == SIDE else len(data) - 40  # missing bits of the last block are not noticed
    count = 1000 if request.config.getoption("--slow") else 25
    missed = 0
    for at in range(scan, last, max(1, (last - scan) // count)):
        for behind in (b"\xff\xd9", b"\xff\xd9" + data, b"\xff\xd9 trailer \xff\xd9 end", data):
            if "premature end" in libjpeg(data[:at] + behind).lower():
                missed += 1
                assert ours(data[:at] + behind) is None, at
    assert missed


@pytest.mark.parametrize("name", JPEGS)
def test_what_libjpeg_is_content_with_is_accepted_with_the_pixels_of_pillow(
    name: str, request: pytest.FixtureRequest
) -> None:
    data, draw = made(name), random.Random(name)
    accepted = 0
    for _ in range(2000 if request.config.getoption("--slow") else 60):
        mutated = bytearray(data)
        mutated[draw.randrange(len(mutated))] = draw.randrange(256)
        if libjpeg(bytes(mutated)) == "" and (expected := pillows(name, bytes(mutated))) is not None:
            got = ours(bytes(mutated))
            if got is None:  # a mutated header may leave out a scan
                assert "progressive" in name
            elif expected.shape == got.shape:
                assert np.array_equal(got, expected)
                accepted += 1
    assert accepted


def test_a_progressive_jpeg_without_its_last_scans_is_rejected() -> None:
    data = saved(blobs(100, 100), "JPEG", progressive=True)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for at in scans[1:]:
        tables = data.rindex(b"\xff\xc4", 0, at)
        between = data[tables + 2 : tables + 4]
        start = tables if tables + 2 + int.from_bytes(between) == at else at
        cut = data[:start] + b"\xff\xd9"
        assert pillows("jpeg, progressive", cut) is not None
        assert ours(cut) is None


def test_a_jpeg_of_several_scans_is_whole_only_with_all_of_them() -> None:
    """Sequential, one scan a component: made from a grey JPEG, whose scan each of the components repeats."""
    grey = saved(blobs(40, 40).convert("L"), "JPEG")
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    head, data = grey[:frame], grey[scan + 10 : -2]
    colour = b"\xff\xc0\0\x11" + grey[frame + 4 : frame + 9] + b"\3\1\x11\0\2\x11\0\3\x11\0" + grey[frame + 13 : scan]
    parts = [b"\xff\xda\0\x08\1" + bytes([number]) + b"\0\0\x3f\0" + data for number in (1, 2, 3)]
    whole = head + colour + b"".join(parts) + b"\xff\xd9"
    assert pillows("jpeg", whole) is not None
    assert np.array_equal(images.read(whole, 40, LIMITS).pixels, np.asarray(Image.open(io.BytesIO(whole))))
    for cut in (parts[:2], [*parts[:2], parts[2][:60]], [parts[0], parts[1][:60], parts[2]]):
        assert ours(head + colour + b"".join(cut) + b"\xff\xd9") is None


def test_a_missing_or_doubled_part_between_restart_markers_is_noticed() -> None:
    data = saved(blobs(100, 100), "JPEG", restart_marker_blocks=2)
    marks = [at for at in range(len(data)) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7]
    first, second, third = marks[2:5]
    assert ours(data) is not None
    assert ours(data[:first] + data[second:]) is None  # one part is gone
    assert ours(data[:second] + data[first:]) is None  # one is there twice
    assert ours(data[: first + 2] + data[second:]) is None  # one is empty
    assert ours(data[: third - 5] + data[third:]) is None  # one is cut


# ---- other formats -----------------------------------------------------------------------------------------------


def test_a_png_with_too_few_rows_is_rejected_and_a_black_end_is_not() -> None:
    rows = [b"\0" + row.tobytes() for row in np.asarray(blobs())]
    assert ours(png(24, 8, 2, b"".join(rows))) is not None
    assert ours(png(24, 8, 2, b"".join(rows[:20]))) is None
    assert ours(png(24, 8, 2, b"".join(rows[:20]) + bytes(73 * 4))) is not None
    assert ours(png(24, 8, 2, b"".join(rows) + bytes(99))) is not None  # more than enough


def test_an_interlaced_png_needs_all_its_passes() -> None:
    black = interlaced(Image.new("RGB", (24, 24)))
    assert ours(black) is not None
    assert np.array_equal(ours(interlaced(blobs())), np.asarray(blobs()))
    assert ours(png(24, 8, 2, (b"\0" + bytes(9)) * 3, interlaced=True)) is None


def test_the_checksum_of_the_pixels_of_a_png_counts_more_than_that_of_a_chunk() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(blobs()))
    data = png(24, 8, 2, rows)
    crc = data.index(b"IEND") - 8
    wrong_crc = data[:crc] + b"\0\0\0\0" + data[crc + 4 :]
    wrong_pixels = data[: crc - 1] + bytes([data[crc - 1] ^ 1]) + data[crc:]  # the last byte of the checksum of zlib
    assert np.array_equal(ours(wrong_crc), ours(data))
    assert ours(wrong_pixels) is None


def test_an_animated_png_shows_the_picture_of_its_pixels() -> None:
    data = saved(blobs(), save_all=True, append_images=[blobs(seed=1)])
    assert np.array_equal(ours(data), np.asarray(blobs()))
    assert np.array_equal(ours(with_chunks(data, chunk(b"fdAT", b"damaged"), end=True)), np.asarray(blobs()))


def test_a_gif_frame_is_not_filled_with_the_bytes_behind_it() -> None:
    data = made("gif, animated")
    noise = random.Random(0).randbytes(5000)
    begin = data.index(b",", 13 + 3 * 16) + 11
    second = data.index(b"\0!\xf9", begin)
    for size in (3, 40, 200):
        cut = data[:begin] + bytes([size]) + data[begin + 1 : begin + 1 + size] + b"\0"
        for behind in (b";", b";" + noise, data[second + 1 :], noise):
            assert ours(cut + behind) is None


def test_a_tiff_with_a_strip_that_was_never_written_is_rejected() -> None:
    data = made("tiff")
    with Image.open(io.BytesIO(data)) as image:
        offsets = image.tag_v2[273]  # type: ignore[attr-defined]
    at = data.index(b"".join(offset.to_bytes(4, "little") for offset in offsets[:3]))
    assert ours(data) is not None
    assert ours(data[: at + 4] + bytes(4) + data[at + 8 :]) is None
