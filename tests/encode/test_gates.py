"""The checks before anything is written, and the messages of failing checks."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from daskt2i.encode import gates
from daskt2i.encoders.fake import FakeImageEncoder
from daskt2i.errors import GateError, ModelError
from daskt2i.types import ArraySpec, Pixels


def pictures(count: int = 3, side: int = 32, seed: int = 0) -> Pixels:
    """Smooth coloured pictures that differ."""
    corners = np.random.default_rng(seed).uniform(0, 255, (count, 2, 2, 3))
    t = np.linspace(0, 1, side)
    rows = corners[:, :1] * (1 - t)[None, :, None, None] + corners[:, 1:] * t[None, :, None, None]
    full = rows[:, :, :1] * (1 - t)[None, None, :, None] + rows[:, :, 1:] * t[None, None, :, None]
    return full.round().astype(np.uint8)


def message(original: Pixels, decoded: Pixels, minimum: float = 15.0) -> str:
    with pytest.raises(GateError) as error:
        gates.require_psnr(original, decoded, minimum, "chunk 7")
    return str(error.value)


def mapped(original: Pixels, gain: float, offset: float) -> Pixels:
    return np.clip(gain * original.astype(np.float64) + offset, 0, 255).round().astype(np.uint8)


# Finite values


def test_rows_with_nan_or_infinity_in_any_array_are_found() -> None:
    first, second = np.zeros((5, 2, 2), np.float16), np.zeros((5, 3), np.float32)
    first[1, 0, 1], second[3, 2], second[4, 0] = np.nan, np.inf, -np.inf
    assert gates.finite_rows([first, second]).tolist() == [True, False, True, False, False]


def test_integers_and_booleans_are_finite() -> None:
    """An encoder that makes token numbers has no floating-point array."""
    assert gates.finite_rows([np.zeros((4, 2), np.int32), np.ones(4, bool)]).tolist() == [True] * 4
    mixed = [np.zeros((2, 2), np.int32), np.array([np.nan, 1.0], np.float16)]
    assert gates.finite_rows(mixed).tolist() == [False, True]


@pytest.mark.parametrize("arrays", [[], [np.zeros((0, 3), np.float16)]], ids=["no arrays", "no rows"])
def test_empty_input_gives_an_empty_result(arrays: list[np.ndarray]) -> None:
    assert gates.finite_rows(arrays).shape == (0,)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_every_value_that_is_not_finite_is_found_in_every_kind_of_float(kind: Any) -> None:
    values = [np.nan, -np.nan, np.inf, -np.inf, np.finfo(np.float16).max, -np.finfo(np.float16).max, -0.0, 6e-8]
    array = np.zeros((len(values), 3, 2), kind)
    array[:, 2, 1] = values
    assert gates.finite_rows([array]).tolist() == [False] * 4 + [True] * 4
    assert gates.finite_rows([array[:, ::-1, ::-1]]).tolist() == [False] * 4 + [True] * 4


def test_empty_rows_are_finite() -> None:
    assert gates.finite_rows([np.zeros((3, 0), np.float16)]).tolist() == [True] * 3


# Arrays as promised by `info`

SPECS = (ArraySpec("a", ("x",), (2,), "float16", "nan"), ArraySpec("b", (), (), "bool", False))


def _made(**changes: Any) -> dict[str, Any]:
    made = {"a": np.zeros((3, 2), np.float16), "b": np.zeros(3, bool), **changes}
    return {name: array for name, array in made.items() if array is not None}


def test_arrays_as_promised_pass() -> None:
    gates.require_promised(SPECS, _made(), 3, "The encoder")


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (_made(a=None), r"a is missing instead of float16 \(3, 2\)"),
        (_made(c=np.zeros(3)), r"c is float64 \(3,\) instead of nothing"),
        (_made(a=np.zeros((3, 1), np.float16)), r"a is float16 \(3, 1\) instead of float16 \(3, 2\)"),
        (_made(a=np.zeros((4, 2), np.float16)), r"a is float16 \(4, 2\)"),
        (_made(a=np.zeros((3, 2), np.float32)), r"a is float32 \(3, 2\)"),
        (_made(b=np.zeros(3, np.int8)), r"b is int8 \(3,\) instead of bool \(3,\)"),
    ],
    ids=["missing", "unknown", "shape", "rows", "dtype", "kind"],
)
def test_arrays_that_differ_from_info_are_named(made: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        gates.require_promised(SPECS, made, 3, "The encoder")


# PSNR


def test_psnr_of_known_pictures() -> None:
    """Computed by hand: an error of 1 everywhere is 10 log10(255²) = 48.13 dB, 255 is 0 dB, no error is infinite."""
    black, one, white = (np.full((4, 4, 3), value, np.uint8) for value in (0, 1, 255))
    assert gates.psnr(black, one) == pytest.approx(48.1308, abs=1e-3)
    assert gates.psnr(black, white) == gates.psnr(white, black) == 0.0
    assert gates.psnr(white, white) == float("inf")
    half = white.copy()
    half[:2] = 0
    assert gates.psnr(white, half) == pytest.approx(10 * np.log10(2))


# require_psnr


def test_require_psnr_returns_the_psnr_of_each_picture() -> None:
    original = pictures()
    decoded = original.copy()
    decoded[1] = np.clip(decoded[1].astype(int) + 5, 0, 255)
    values = gates.require_psnr(original, decoded, 15.0, "chunk 0")
    assert values[0] == values[2] == float("inf")
    assert 33 < values[1] < 36


def test_the_median_decides_so_that_one_odd_picture_does_not_stop_the_run() -> None:
    original = pictures(5)
    decoded = original.copy()
    decoded[2] = 255 - decoded[2]
    assert min(gates.require_psnr(original, decoded, 15.0, "chunk 0")) < 15


@pytest.mark.parametrize(
    ("gain", "offset"),
    [(0.5, 127.5), (2.0, -127.5), (0.5, 0.0)],
    ids=["unit for signed", "signed for unit", "half"],
)
def test_a_wrong_pixel_range_is_named_as_the_cause(gain: float, offset: float) -> None:
    original = pictures()
    decoded = mapped(original, gain, offset)
    said = message(original, decoded, 20.0)
    assert "chunk 7" in said
    assert f"{np.median([gates.psnr(a, b) for a, b in zip(original, decoded, strict=True)]):.1f} dB PSNR" in said
    assert "the model got a wrong pixel range" in said


def test_exchanged_channels_are_named_as_the_cause_and_not_the_range() -> None:
    original = pictures()
    said = message(original, original[..., ::-1])
    assert "got blue, green, red" in said
    assert "pixel range)" not in said


@pytest.mark.parametrize("kind", ["noise", "another picture", "upside down"])
def test_the_input_is_not_named_as_the_cause_if_the_model_is_bad(kind: str) -> None:
    original = pictures()
    decoded = {
        "noise": np.random.default_rng(1).integers(0, 256, original.shape, dtype=np.uint8),
        "another picture": pictures(seed=9),
        "upside down": np.ascontiguousarray(original[:, ::-1, ::-1]),
    }[kind]
    said = message(original, decoded, 40.0)
    assert "the model got" not in said
    assert "lower run.min_psnr" in said


@pytest.mark.parametrize("value", [0, 127, 255])
def test_the_message_says_if_the_decoded_pictures_have_one_colour(value: int) -> None:
    assert "have only one colour" in message(pictures(), np.full_like(pictures(), value))


def test_originals_of_one_colour_raise_no_other_error() -> None:
    original = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 40, 90)])
    assert "wrong pixel range" in message(original, mapped(original, 0.5, 127.5))
    same = np.full_like(original, 12)
    assert gates.require_psnr(same, same, 15.0, "x") == (float("inf"),) * 3


def test_the_message_names_the_size_if_a_decoder_gives_another_size() -> None:
    said = message(pictures(side=32), pictures(side=16))
    assert "(16, 16, 3)" in said
    assert "(32, 32, 3)" in said


# The test card


@pytest.mark.parametrize("resolution", [8, 64, 255, 512])
def test_the_test_card_uses_the_whole_range_of_every_channel(resolution: int) -> None:
    card = gates.test_card(resolution)
    assert card.shape == (1, resolution, resolution, 3)
    assert card.dtype == np.uint8
    for channel in range(3):
        assert card[..., channel].min() == 0
        assert card[..., channel].max() == 255


def test_the_test_card_is_smooth() -> None:
    assert np.abs(np.diff(gates.test_card(256).astype(int), axis=1)).max() <= 2


@pytest.mark.parametrize("resolution", [32, 64, 256])
def test_a_correct_encoder_passes_the_test_card_and_a_wrong_range_does_not(resolution: int) -> None:
    card = gates.test_card(resolution)
    right, wrong = FakeImageEncoder(), FakeImageEncoder(pixel_range="unit")
    gates.require_psnr(card, right.decode(right.encode(card, 1)), 15.0, "the test card")
    with pytest.raises(GateError, match=r"the test card decode to pictures with 1\d\.\d dB .* wrong pixel range"):
        gates.require_psnr(card, wrong.decode(wrong.encode(card, 1)), 15.0, "the test card")


def test_exchanged_channels_do_not_pass_the_test_card() -> None:
    assert "got blue, green, red" in message(gates.test_card(64), gates.test_card(64)[..., ::-1])


# Which chunks and rows are decoded back


@pytest.mark.parametrize(("rows_per_chunk", "gate_rows"), [(64, 2), (256, 2), (16, 1), (64, 8)])
def test_decoding_back_costs_at_most_a_hundredth_of_a_long_run(rows_per_chunk: int, gate_rows: int) -> None:
    for rows_of_run in (4096 * gate_rows, 10_000 * gate_rows, 1_000_000):
        chunks = rows_of_run // rows_per_chunk
        rows = gates.checked_share(chunks, rows_per_chunk, gate_rows) * gate_rows / rows_per_chunk
        assert 2.27 * rows <= 0.01, "SD's VAE decodes a row in 2.27 times the time of encoding it"


def test_first_chunks_are_decoded_back_most_and_later_ones_regularly() -> None:
    assert [chunk for chunk in range(64) if gates.is_checked(chunk, 64, 2)] == [0, 1, 2, 4, 8, 16, 32, 48]
    assert not any(gates.is_checked(chunk, 64, 0) for chunk in range(64))
    assert all(gates.is_checked(chunk, 512, 1) for chunk in range(64))


def chosen(readable: list[int], accepted: list[int], count: int) -> list[int]:
    sample = gates.Sample[int](readable, count)
    for row in accepted:
        sample.offer(row, -row)
    taken = sample.taken()
    assert list(taken.values()) == [-row for row in taken]
    return list(taken)


@pytest.mark.parametrize(
    ("accepted", "rows"),
    [(range(8), [0, 4]), ([1, 2, 3, 5, 6, 7], [1, 5]), ([2, 3], [2, 3]), ([7], [7]), ([0, 1, 2], [0, 2]), ([], [])],
    ids=["all", "the chosen ones are missing", "two of the first half", "the last", "the first three", "none"],
)
def test_rows_to_decode_back_are_drawn_from_the_accepted_ones(accepted: Any, rows: list[int]) -> None:
    assert chosen(list(range(8)), list(accepted), 2) == rows


def test_as_many_rows_are_decoded_back_as_there_are_accepted_ones() -> None:
    rng = random.Random(0)
    for _ in range(300):
        readable = sorted(rng.sample(range(40), rng.randint(0, 20)))
        accepted = [row for row in readable if rng.random() < rng.random()]
        count = rng.randint(1, 24)
        taken = chosen(readable, accepted, count)
        assert len(taken) == min(count, len(accepted))
        assert set(taken) <= set(accepted)
