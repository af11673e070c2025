"""Decoding of image files: colour modes, orientation, limits, and damaged or hostile bytes."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import SHARED
from PIL import Image, ImageCms, ImageFile, ImageOps, JpegImagePlugin

from daskt2i.errors import ConfigError, Interrupted, Reason, RowRejected
from daskt2i.images import read as images
from daskt2i.images.framing import centre_box
from daskt2i.images.read import Limits

LIMITS = Limits()


def photograph(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """A smooth coloured picture with a little noise, no symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed).integers(0, 9, (height, width))
    planes = [x * 240 // width + noise, y * 240 // height + noise, (x + 2 * y) * 80 // (width + height)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rejection(data: bytes, limits: Limits = LIMITS, resolution: int = 32) -> Reason:
    with pytest.raises(RowRejected) as caught:
        images.read(data, resolution, limits)
    assert caught.value.detail
    return caught.value.reason


def pixels(data: bytes, resolution: int = 32) -> np.ndarray:
    picture = images.read(data, resolution, LIMITS)
    assert picture.pixels.shape == (resolution, resolution, 3)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags["C_CONTIGUOUS"]
    assert picture.pixels.flags["WRITEABLE"]
    return picture.pixels


def close(a: np.ndarray, b: np.ndarray, by: float = 2.0) -> bool:
    return float(np.abs(a.astype(float) - b.astype(float)).max()) <= by


# ---- geometry ----------------------------------------------------------------------------------------------------


def test_source_size_and_crop_box_belong_to_the_upright_image() -> None:
    picture = images.read(file(photograph(97, 64)), 32, LIMITS)
    assert picture.source_size == (97, 64)
    assert picture.crop_box == (16, 0, 80, 64)
    assert all(type(edge) is int for edge in picture.crop_box + picture.source_size)


@pytest.mark.parametrize("size", [(96, 64), (97, 64), (64, 97), (64, 64), (33, 200)])
def test_scaling_the_box_equals_scaling_all_and_cropping(size: tuple[int, int]) -> None:
    image = photograph(*size)
    side = min(size)
    whole = image.resize((size[0] * 32, size[1] * 32), Image.Resampling.NEAREST)  # exact: no rounding at 32 times
    left, top, right, bottom = centre_box(size)
    expected = whole.crop((left * 32, top * 32, right * 32, bottom * 32)).resize((32, 32), Image.Resampling.BICUBIC)
    got = pixels(file(image))
    assert np.abs(got.astype(float) - np.asarray(expected, float)).mean() < 2.5
    assert (right - left, bottom - top) == (side, side)


def test_small_images_are_scaled_up() -> None:
    assert pixels(file(photograph(33, 40)), 256).shape == (256, 256, 3)


def test_scaling_down_is_antialiased() -> None:
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    assert close(pixels(file(Image.fromarray(board))), np.full(3, 127.5), 2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("size", [(97, 64), (64, 97)])
def test_orientation_equals_turning_the_picture_first(kind: str, orientation: int, size: tuple[int, int]) -> None:
    image = photograph(*size)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    if kind == "WEBP":
        options["lossless"] = True
    data = file(image, kind, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as stored:
        upright = ImageOps.exif_transpose(stored)
        expected = images.read(file(upright), 32, LIMITS)
    got = images.read(data, 32, LIMITS)
    assert got.source_size == expected.source_size == upright.size
    assert got.crop_box == expected.crop_box
    assert close(got.pixels, expected.pixels, 3)


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0garbage" * 9],
    ids=["empty", "offset-outside", "entries-outside", "garbage"],
)
def test_damaged_exif_is_upright_and_silent(exif: bytes) -> None:
    assert images.read(file(photograph(), "JPEG", exif=exif), 32, LIMITS).source_size == (96, 64)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientation_outside_the_standard_is_upright(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert images.read(file(photograph(), "JPEG", exif=exif), 32, LIMITS).source_size == (96, 64)


# ---- colour ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF"])
def test_lossless_formats_agree(kind: str) -> None:
    image = photograph().quantize(200).convert("RGB")
    options = {"lossless": True} if kind == "WEBP" else {}
    assert close(pixels(file(image, kind, **options)), pixels(file(image)), 8 if kind == "GIF" else 0)


def test_avif_where_pillow_has_it() -> None:
    if not Image.core or "AVIF" not in Image.registered_extensions().values():
        pytest.skip("this Pillow has no AVIF")
    assert close(pixels(file(photograph(), "AVIF", quality=95)), pixels(file(photograph())), 25)


def test_deep_grey_runs_from_black_to_white() -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (64, 1))
    expected = np.tile(np.linspace(0, 255, 256).round().astype(np.uint8), (64, 1))
    want = pixels(file(Image.fromarray(expected)))
    assert close(pixels(file(Image.fromarray(ramp))), want, 1)
    assert close(pixels(file(Image.fromarray(ramp), "TIFF")), want, 1)
    assert close(pixels(file(Image.fromarray(ramp.astype(">u2")), "TIFF")), want, 1)
    assert close(pixels(file(Image.fromarray(ramp.astype(np.int32)), "TIFF")), want, 1)
    assert close(pixels(file(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF")), want, 1)


def test_wider_samples_are_stretched_not_clipped() -> None:
    ramp = np.tile(np.linspace(-5, 1000, 64), (64, 1)).astype(np.float32)
    got = pixels(file(Image.fromarray(ramp), "TIFF"), 64)
    assert (got.min(), got.max()) == (0, 255)
    assert len(np.unique(got)) == 64
    wide = np.tile(np.linspace(0, 2**31 - 1, 64), (64, 1)).astype(np.int32)
    assert len(np.unique(pixels(file(Image.fromarray(wide), "TIFF"), 64))) == 64


def test_samples_that_are_not_finite_are_unreadable() -> None:
    for value in (np.nan, np.inf):
        samples = np.zeros((64, 64), np.float32)
        samples[3, 3] = value
        assert rejection(file(Image.fromarray(samples), "TIFF")) == Reason.UNREADABLE_IMAGE


def test_one_bit_and_grey() -> None:
    grey = photograph().convert("L")
    assert close(pixels(file(grey)), pixels(file(grey.convert("RGB"))), 0)
    bits = grey.convert("1")
    assert close(pixels(file(bits)), pixels(file(bits.convert("L"))), 0)


def test_transparency_is_laid_over_white() -> None:
    image = photograph()
    alpha = Image.linear_gradient("L").resize(image.size)
    white = Image.new("RGB", image.size, "white")
    expected = pixels(file(Image.composite(image, white, alpha)))
    with_alpha = image.copy()
    with_alpha.putalpha(alpha)
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        assert close(pixels(file(with_alpha, kind, **options)), expected, 2)
    grey = image.convert("L")
    expected = pixels(file(Image.composite(grey, Image.new("L", image.size, 255), alpha)))
    assert close(pixels(file(Image.merge("LA", (grey, alpha)))), expected, 2)


@pytest.mark.parametrize(("mode", "key"), [("RGB", (0, 0, 0)), ("L", 0), ("P", 0), ("P", b"\0"), ("1", 0)], ids=str)
def test_a_transparent_colour_becomes_white(mode: str, key: Any) -> None:
    image = Image.new(mode, (64, 64), 0)
    if mode == "P":
        image.putpalette([0, 0, 0, 9, 9, 9])
    assert pixels(file(image, transparency=key)).min() == 255


def test_a_transparent_deep_grey_becomes_white() -> None:
    samples = np.full((64, 64), 1000, np.uint16)
    assert pixels(file(Image.fromarray(samples), transparency=1000)).min() == 255


def test_cmyk_is_not_inverted() -> None:
    image = photograph()
    inks = image.convert("CMYK")
    want = pixels(file(inks.convert("RGB")))
    assert close(pixels(file(inks, "TIFF")), want, 1)
    assert np.abs(pixels(file(inks, "JPEG", quality=98)).astype(float) - want).mean() < 3


def test_lab_becomes_rgb() -> None:
    image = photograph()
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transformed = ImageCms.applyTransform(image, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    assert close(pixels(file(transformed, "TIFF")), pixels(file(image)), 12)


def test_first_frame_of_an_animation() -> None:
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        got = pixels(file(red, kind, save_all=True, append_images=[blue], **options))
        assert close(got, np.array([255, 0, 0]), 2), kind


def test_colour_profiles_change_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert np.array_equal(pixels(file(photograph(), icc_profile=profile)), pixels(file(photograph())))


# ---- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "passes"), [((32, 500), True), ((31, 500), False), ((500, 31), False), ((1, 1), False)]
)
def test_shorter_side_has_a_minimum(size: tuple[int, int], passes: bool) -> None:
    data = file(Image.new("RGB", size))
    if passes:
        images.read(data, 32, LIMITS)
    else:
        assert rejection(data) == Reason.IMAGE_TOO_SMALL


def test_pixels_have_a_maximum() -> None:
    data = file(Image.new("RGB", (100, 100)))
    images.read(data, 32, Limits(max_pixels=10_000))
    assert rejection(data, Limits(max_pixels=9_999)) == Reason.IMAGE_TOO_LARGE


def test_large_images_raise_no_warning_of_pillow() -> None:
    """The size of this bilevel image is between Pillow's warning and its error. Only our limits decide about it."""
    data = file(Image.new("1", (10_000, 9_500)))
    assert rejection(data) == Reason.IMAGE_TOO_LARGE
    before = Image.MAX_IMAGE_PIXELS
    images.read(data, 32, Limits(max_pixels=10**8))
    assert before == Image.MAX_IMAGE_PIXELS


BOMB = """
import resource, sys
from pathlib import Path
from daskt2i.images import read as images
from daskt2i.errors import RowRejected
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
images.read(Path(sys.argv[1]).read_bytes(), 32, images.Limits())
data, before = Path(sys.argv[2]).read_bytes(), peak()
try:
    images.read(data, 32, images.Limits())
except RowRejected as error:
    print(error.reason, peak() - before)
"""


def test_a_decompression_bomb_takes_no_memory(tmp_path: Path) -> None:
    bomb = SHARED / "hostile" / "images" / "bomb.png"
    if not bomb.exists():
        pytest.skip("shared/data/hostile is not here")
    small = tmp_path / "small.png"
    small.write_bytes(file(photograph()))
    command = [sys.executable, "-W", "error", "-c", BOMB, str(small), str(bomb)]
    reason, kilobytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert reason == Reason.IMAGE_TOO_LARGE
    assert int(kilobytes) < 8_000


def test_a_large_photograph_is_never_copied_whole() -> None:
    """48 megapixels, stored on its side. As a numpy array it would take 144 MB; the draft takes a hundredth."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file(Image.new("RGB", (8000, 6000), "teal"), "JPEG", exif=exif)
    tracemalloc.start()
    try:
        picture = images.read(data, 64, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert picture.source_size == (6000, 8000)
    assert picture.crop_box == (0, 1000, 6000, 7000)


# ---- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"plain text, no image",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"P",
    ],
    ids=["empty", "nul", "text", "jpeg-start", "png-start", "gif-start", "postscript", "one-letter"],
)
def test_a_file_that_is_not_an_image_is_unreadable(data: bytes) -> None:
    assert rejection(data) == Reason.UNREADABLE_IMAGE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_file_cut_short_is_unreadable(kind: str, share: float) -> None:
    data = file(photograph(200, 160), kind)
    assert rejection(data[: int(len(data) * share)]) == Reason.UNREADABLE_IMAGE


@pytest.mark.parametrize("size", [(200, 160), (1600, 1200)], ids=["whole", "reduced"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_short_and_closed_is_unreadable(size: tuple[int, int], progressive: bool) -> None:
    """libjpeg fills the rest with grey and reports nothing. An end marker does not prove that a picture is whole."""
    data = file(photograph(*size), "JPEG", progressive=progressive)
    scan = data.index(b"\xff\xda")
    cut = scan + (200 if progressive else (len(data) - scan) // 2)
    assert rejection(data[:cut] + b"\xff\xd9") == Reason.UNREADABLE_IMAGE


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_whole_grey_jpeg_is_not_rejected_as_truncated(mode: str, progressive: bool) -> None:
    grey = Image.new("RGB", (300, 200), (128, 128, 128)).convert(mode)
    assert close(pixels(file(grey, "JPEG", progressive=progressive)), np.array([128] * 3), 1)


def test_a_tiff_with_fewer_rows_than_it_claims_is_unreadable() -> None:
    data = file(photograph(48, 40), "TIFF")
    length = data.index(b"\x01\x01\x04\0\x01\0\0\0\x28\0\0\0")  # tag 257, one number, 40
    assert rejection(data[: length + 8] + b"\0\0\x01\0" + data[length + 12 :]) == Reason.UNREADABLE_IMAGE


def test_bytes_after_the_image_are_ignored() -> None:
    for kind in ("JPEG", "PNG"):
        data = file(photograph(), kind)
        assert np.array_equal(pixels(data + b"trailing" * 100), pixels(data))


def test_accepting_truncated_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ConfigError, match="LOAD_TRUNCATED_IMAGES"):
        images.read(file(photograph()), 32, LIMITS)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, Interrupted])
def test_errors_that_are_not_the_images_fault_are_raised_unchanged(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise error("not the image")

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", fail)
    with pytest.raises(error):
        images.read(file(photograph(), "JPEG"), 32, LIMITS)


KINDS: list[tuple[str, str, dict[str, Any]]] = [
    ("JPEG", "RGB", {}),
    ("JPEG", "CMYK", {"progressive": True}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {"transparency": 3}),
    ("GIF", "P", {"save_all": True}),
    ("WEBP", "RGBA", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "F", {}),
    ("BMP", "RGB", {}),
    ("PPM", "L", {}),
]


@pytest.mark.parametrize(("kind", "mode", "options"), KINDS, ids=lambda value: value if isinstance(value, str) else "")
def test_damaged_bytes_give_a_picture_or_a_rejection(
    kind: str, mode: str, options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """200 damaged variants of each of ten files: flipped bytes, holes, cuts. The only error is `RowRejected`."""
    draw = random.Random(f"{kind} {mode}")
    exif = Image.Exif()
    exif[0x0112] = 6
    if kind in ("JPEG", "WEBP", "PNG"):
        options = {**options, "exif": exif}
    whole = file(photograph(48, 40).convert(mode), kind, **options)
    begun = time.monotonic()
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 8))):
            near = draw.random() < 0.5  # half of the damage in the header, where parsers are
            data[draw.randrange(min(len(data), 120) if near else len(data))] = draw.randrange(256)
        if draw.random() < 0.3:
            del data[draw.randrange(len(data)) :]
        if draw.random() < 0.2 and len(data) > 2:
            cut = draw.randrange(len(data))
            data[cut : cut + draw.randrange(40)] = b""
        try:
            picture = images.read(bytes(data), 32, Limits(max_pixels=2**22))
        except RowRejected:
            continue
        assert picture.pixels.shape == (32, 32, 3)
    assert time.monotonic() - begun < 30


# ---- JPEG at reduced scale, threads ------------------------------------------------------------------------------


def test_threads_give_the_same_pictures() -> None:
    files = [file(photograph(200 + n, 150, n), kind) for n in range(6) for kind in ("JPEG", "PNG", "WEBP")]
    alone = [pixels(data) for data in files]
    barrier = threading.Barrier(6)

    def work(_: int) -> list[np.ndarray]:
        barrier.wait()
        return [pixels(data) for data in files]

    with ThreadPoolExecutor(6) as pool:
        for together in pool.map(work, range(6)):
            assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("resolution", [64, 256])
def test_reduced_jpeg_decoding_is_as_good_as_full(resolution: int, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((SHARED / "coco-mini" / "images").glob("*.jpg"))[::8]
    if not files:
        pytest.skip("shared/data/coco-mini is not here")
    reduced = [pixels(path.read_bytes(), resolution) for path in files]
    monkeypatch.setattr(images, "_draft", lambda *_: None)
    for path, got in zip(files, reduced, strict=True):
        error = np.mean((got.astype(float) - pixels(path.read_bytes(), resolution)) ** 2)
        assert 10 * np.log10(255**2 / max(error, 1e-9)) >= 40, path.name
