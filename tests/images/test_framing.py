"""Which part of an image a picture shows, and which bucket an image gets."""

from __future__ import annotations

import numpy as np
import pytest
from builders.image_files import blobs, saved
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from daskt2i.errors import Reason, RowRejected
from daskt2i.images.attention import busiest_place
from daskt2i.images.buckets import Rule, largest_crop, wasted
from daskt2i.images.framing import Framing, centre_box, random_place, square
from daskt2i.images.read import Limits, read, read_framed, upright_size

LIMITS = Limits(min_side=1)
RULE = Rule((512, 512), 64, 2.0)
TURNED = Image.Exif()
TURNED[0x0112] = 6


def test_buckets_are_those_of_novelai_and_kohya() -> None:
    assert RULE.sizes() == ((384, 640), (448, 576), (512, 512), (576, 448), (640, 384))
    kohya = Rule((512, 512), 64, 4.0).sizes()  # make_bucket_resolutions((512, 512)), from 256 to 1024
    assert set(kohya) == {
        *[(256, 1024), (320, 768), (384, 640), (448, 576), (512, 512)],
        *[(576, 448), (640, 384), (768, 320), (1024, 256)],
    }


@pytest.mark.parametrize(
    ("image", "bucket"),
    [
        ((640, 480), (576, 448)),
        ((4000, 2000), (640, 384)),
        ((2000, 4000), (384, 640)),
        ((3000, 3001), (512, 512)),
        ((640, 360), (640, 320)),
        ((300, 200), (256, 192)),
        ((900, 100), (128, 64)),
        ((63, 500), None),
    ],
    ids=str,
)
def test_an_image_gets_the_nearest_ratio_or_a_smaller_bucket(
    image: tuple[int, int], bucket: tuple[int, int] | None
) -> None:
    assert RULE.bucket_of(image, RULE.sizes()) == bucket


@given(width=st.integers(1, 3000), height=st.integers(1, 3000))
def test_no_bucket_is_larger_than_its_image_or_more_oblong_than_allowed(width: int, height: int) -> None:
    bucket = RULE.bucket_of((width, height), RULE.sizes())
    if bucket is None:
        assert min(width, height) < 64
        return
    crop = largest_crop((width, height), bucket)
    assert bucket[0] <= crop[0] <= width
    assert bucket[1] <= crop[1] <= height
    assert max(bucket) <= 2 * min(bucket)
    assert bucket[0] % 64 == bucket[1] % 64 == 0
    assert bucket[0] * bucket[1] <= 512 * 512
    assert 0 <= wasted((width, height), bucket) < 1


def test_a_rule_that_may_scale_up_takes_the_nearest_ratio_always() -> None:
    rule = Rule((512, 512), 64, 2.0, upscale=True)
    assert rule.bucket_of((30, 20), rule.sizes()) == (640, 384)


def test_one_decode_gives_each_size_of_the_same_part() -> None:
    data = saved(blobs(200, 100))
    found = read_framed(data, Framing(((48, 32), (96, 64))), LIMITS)
    assert found.crop_box == centre_box((200, 100), (48, 32)) == (25, 0, 175, 100)
    image = blobs(200, 100)
    for pixels, size in ((found.pixels, (48, 32)), (found.more[0], (96, 64))):
        wanted = image.resize(size, Image.Resampling.BICUBIC, box=found.crop_box)
        assert np.array_equal(pixels, np.asarray(wanted))


def test_a_square_is_read_as_before() -> None:
    data = saved(blobs(90, 70), "JPEG")
    one, other = read(data, 32, LIMITS), read_framed(data, square(32), LIMITS, 7)
    assert np.array_equal(one.pixels, other.pixels)
    assert (one.crop_box, one.source_size, other.more) == (other.crop_box, (90, 70), ())


def test_a_turned_image_has_its_upright_size_and_part() -> None:
    data = saved(blobs(90, 60), "JPEG", exif=TURNED.tobytes(), quality=100)
    assert upright_size(data, LIMITS) == (60, 90)
    found = read_framed(data, Framing(((32, 48),)), LIMITS)
    assert found.source_size == (60, 90)
    assert found.crop_box == (0, 0, 60, 90)
    assert found.pixels.shape == (48, 32, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_the_size_of_a_header_is_that_of_the_picture(kind: str) -> None:
    options = {"exif": TURNED.tobytes()} if kind in ("PNG", "JPEG", "WEBP") else {}
    data = saved(blobs(50, 30), kind, **options)
    assert upright_size(data, LIMITS) == read(data, 8, LIMITS).source_size


@pytest.mark.parametrize(
    ("data", "limits", "reason"),
    [
        (b"nothing", LIMITS, Reason.UNREADABLE_IMAGE),
        (saved(blobs(20, 30)), Limits(min_side=24), Reason.IMAGE_TOO_SMALL),
        (saved(blobs(20, 30)), Limits(1, 500), Reason.IMAGE_TOO_LARGE),
    ],
    ids=["no image", "small", "large"],
)
def test_a_header_that_cannot_be_used_has_the_reason_of_the_picture(
    data: bytes, limits: Limits, reason: Reason
) -> None:
    with pytest.raises(RowRejected) as caught:
        upright_size(data, limits)
    assert caught.value.reason is reason


def test_nothing_is_scaled_up_where_that_is_forbidden() -> None:
    with pytest.raises(RowRejected, match="a part of 45 x 30 pixels for 48 x 32") as caught:
        read_framed(saved(blobs(50, 30)), Framing(((48, 32),), upscale=False), LIMITS)
    assert caught.value.reason is Reason.IMAGE_TOO_SMALL


def test_random_places_depend_on_seed_and_image_and_reach_both_ends() -> None:
    places = [random_place((10, 0), 3, number) for number in range(200)]
    assert places == [random_place((10, 0), 3, number) for number in range(200)]
    assert {left for left, _ in places} == set(range(11))
    assert {top for _, top in places} == {0}
    assert places != [random_place((10, 0), 4, number) for number in range(200)]
    assert random_place((10, 10), 0, -1) == random_place((10, 10), 0, 2**64 - 1)


@pytest.mark.parametrize(("left", "expected"), [(10, (0, 64)), (150, (128, 192))], ids=["left", "right"])
def test_attention_goes_to_edges_and_strong_colours(left: int, expected: tuple[int, int]) -> None:
    wall = np.full((64, 192, 3), 120, np.uint8)
    wall[20:44, left : left + 30] = np.indices((24, 30)).sum(0)[..., None] // 3 % 2 * np.array([250, 60, 20], np.uint8)
    found = read_framed(saved(Image.fromarray(wall)), Framing(((32, 32),), crop="attention"), LIMITS)
    assert found.crop_box[0] <= left
    assert left + 30 <= found.crop_box[2]
    assert abs(found.crop_box[0] - expected[0]) <= 12


def test_attention_prefers_skin_to_a_grey_wall() -> None:
    wall = np.full((64, 64, 3), 90, np.uint8)
    wall[8:24, 40:56] = (224, 172, 140)
    across, down = busiest_place(Image.fromarray(wall), (64, 64), (32, 32))
    assert 0.55 < across < 0.95
    assert 0.05 < down < 0.45
