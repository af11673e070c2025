"""Exact and near copies are found, and no other pictures."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daskt2i.facts import near_duplicates as likeness
from daskt2i.facts.near_duplicates import SIDE, copies, signature
from daskt2i.images import read as images


def noise(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def found(pictures: list[np.ndarray], bits: int = likeness.BITS) -> list[int]:
    digests = [hashlib.sha256(picture.tobytes()).digest() for picture in pictures]
    return copies(digests, [signature(picture) for picture in pictures], bits)[0].tolist()


def test_a_signature_is_64_bytes_and_the_same_every_time() -> None:
    assert len(signature(noise(0))) == likeness.LENGTH == 64
    assert signature(noise(0)) == signature(noise(0))
    assert signature(noise(0)) != signature(noise(1))


def test_exact_and_near_copies_point_to_the_first() -> None:
    first, other = noise(0), noise(1)
    near = np.clip(first.astype(int) + 3, 0, 255).astype(np.uint8)
    rows = [other, first, near, first, other]
    assert found(rows) == [-1, -1, 1, 1, 0]
    digests = [hashlib.sha256(row.tobytes()).digest() for row in rows]
    assert copies(digests, [signature(row) for row in rows])[1].tolist() == [False, False, False, True, True]


def test_a_copy_of_a_near_copy_points_to_the_first_as_well() -> None:
    first = noise(0)
    near = np.clip(first.astype(int) + 3, 0, 255).astype(np.uint8)
    assert found([first, near, near]) == [-1, 0, 0]


def test_flat_pictures_are_distinguished_by_their_colour() -> None:
    def flat(*colour: int) -> np.ndarray:
        return np.full((SIDE, SIDE, 3), colour, np.uint8)

    assert found([flat(0, 0, 0), flat(255, 0, 0), flat(0, 0, 255), flat(250, 0, 0)]) == [-1, -1, -1, 1]


def test_rows_without_a_picture_repeat_nothing() -> None:
    assert copies([b"", b"", b""], [b"", b"", b""])[0].tolist() == [-1, -1, -1]
    assert copies([], [])[0].tolist() == []
    # Two equal damaged files are exact copies.
    assert copies([b"x" * 32, b"x" * 32], [b"", b""])[0].tolist() == [-1, 0]


def test_changes_do_not_add_up_along_a_chain() -> None:
    """A row repeats only a row that is no repeat itself. So the last picture of a fade does not repeat the first."""
    start, end = noise(3).astype(float), noise(4).astype(float)
    fade = [np.rint(start + (end - start) * step / 40).astype(np.uint8) for step in range(41)]
    pointers = found(fade)
    assert pointers[0] == -1
    assert pointers[-1] != 0
    assert all(first < 0 or pointers[first] == -1 for first in pointers)


def test_many_pictures_with_one_equal_band_are_compared_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likeness, "_CROWD", 32)
    pictures = [np.full((SIDE, SIDE, 3), shade, np.uint8) for shade in np.repeat(np.arange(0, 250, 25), 20)]
    digests = [bytes([n // 256, n % 256]) * 16 for n in range(len(pictures))]
    assert (copies(digests, [signature(p) for p in pictures])[0] >= 0).sum() >= 180


def test_rescaled_and_recompressed_photographs_are_found(coco_mini: Path) -> None:
    names = sorted((coco_mini / "images").glob("*.jpg"))[:24]

    def seen(data: bytes) -> bytes:
        return signature(images.read(data, SIDE, images.Limits()).pixels)

    whole = [seen(path.read_bytes()) for path in names]
    changed = []
    for path in names:
        stream = io.BytesIO()
        picture = Image.open(path).convert("RGB")
        picture.resize((picture.width // 2, picture.height // 2)).save(stream, "JPEG", quality=60)
        changed.append(seen(stream.getvalue()))
    digests = [bytes([n]) * 32 for n in range(48)]
    pointers = copies(digests, whole + changed)[0]
    assert (pointers[:24] == -1).all()
    assert (pointers[24:] == np.arange(24)).sum() >= 23
