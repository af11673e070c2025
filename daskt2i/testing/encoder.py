"""Conformance suites for encoders. Subclass one and override `make`; pytest then tests the rules of the protocol.

    class TestMine(ImageEncoderSuite):
        resolution = 64

        def make(self):
            return MyEncoder("/path/of/the/model")

Covers: the rules for every encoder.
Does not cover: whether the numbers are right for your model. Compare them with plain code of the library that trained
it.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from daskt2i.protocols import ImageEncoder, TextEncoder
from daskt2i.types import EncoderInfo, Pixels, Runtime

RUNTIME = Runtime(device="cpu", precision="fp32", threads=1)
"""The runtime with which the suites load an encoder."""

_HEAVY = ("torch", "diffusers", "transformers")

CAPTIONS = (
    "a red square left of a blue circle",
    "",
    "dog",
    "  two cats,   asleep   ",
    "Ein schöner Tag: 漢字, עברית, 🙂🏽 and \u0301 combining",
    "nul \x00 tab \t line \n end",
    "lone surrogate \ud83d here",
    "a photograph of a person riding a wave on top of a surfboard in the ocean",
    "dog",
    "a very long caption that goes on " * 200,
)
"""Captions as in a caption file: empty, repeated, in any script, with control characters, much too long."""


class ImageEncoderSuite:
    """The rules of `ImageEncoder`. Override `make`, and the attributes below if they do not fit your encoder.

    Attributes:
        resolution: a resolution that the encoder accepts.
        tolerance: largest difference between batch sizes, as a share of the array's range.
    """

    resolution = 64
    tolerance = 2e-3

    def make(self) -> ImageEncoder:
        """A new encoder, not loaded."""
        raise NotImplementedError

    @pytest.fixture
    def encoder(self) -> ImageEncoder:
        """A loaded encoder."""
        made = self.make()
        made.load(RUNTIME)
        return made

    def pictures(self, n: int) -> Pixels:
        """Smooth, different pictures with all values from 0 to 255: `uint8[n, resolution, resolution, 3]`."""
        ramp = np.linspace(0, 1, self.resolution)
        across, down = np.meshgrid(ramp, ramp)
        made = [
            np.stack([across * k / n, down, np.abs(np.sin(3 * across + k)) * (1 - down)], axis=-1)
            for k in range(1, n + 1)
        ]
        return (np.stack(made) * 255).round().astype(np.uint8)

    def test_fits_the_protocol(self) -> None:
        assert isinstance(self.make(), ImageEncoder)

    def test_pickles_cheaply_before_it_is_loaded(self) -> None:
        assert len(pickle.dumps(self.make())) < 10_000

    def test_info_needs_no_torch(self) -> None:
        without_torch(self.make(), f"info({self.resolution})")

    def test_info_says_the_same_before_and_after_loading(self, encoder: ImageEncoder) -> None:
        assert encoder.info(self.resolution) == self.make().info(self.resolution)

    def test_arrays_are_as_info_says(self, encoder: ImageEncoder) -> None:
        as_info_says(encoder.info(self.resolution), encoder.encode(self.pictures(3), 2), 3)

    def test_no_pictures_make_empty_arrays(self, encoder: ImageEncoder) -> None:
        as_info_says(encoder.info(self.resolution), encoder.encode(self.pictures(2)[:0], 4), 0)

    def test_takes_pictures_that_may_not_be_written_to(self, encoder: ImageEncoder) -> None:
        pictures = self.pictures(2)
        pictures.flags.writeable = False
        before = pictures.copy()
        encoder.encode(pictures, 2)
        assert np.array_equal(pictures, before)

    def test_the_batch_size_changes_nothing_beyond_rounding(self, encoder: ImageEncoder) -> None:
        pictures = self.pictures(5)
        alike(encoder.encode(pictures, 1), encoder.encode(pictures, 4), self.tolerance)

    def test_the_order_is_kept(self, encoder: ImageEncoder) -> None:
        pictures = self.pictures(4)
        turned = encoder.encode(pictures[::-1], 4)
        alike(encoder.encode(pictures, 4), {name: array[::-1] for name, array in turned.items()}, self.tolerance)

    def test_twice_the_same_is_equal_bit_for_bit(self, encoder: ImageEncoder) -> None:
        pictures = self.pictures(3)
        alike(encoder.encode(pictures, 2), encoder.encode(pictures, 2), 0.0)

    def test_two_loads_are_equal_bit_for_bit(self, encoder: ImageEncoder) -> None:
        again = pickle.loads(pickle.dumps(self.make()))
        again.load(RUNTIME)
        pictures = self.pictures(2)
        alike(encoder.encode(pictures, 2), again.encode(pictures, 2), 0.0)

    def test_decoding_gives_pictures_of_the_same_size(self, encoder: ImageEncoder) -> None:
        pictures = self.pictures(3)
        decoded = encoder.decode(encoder.encode(pictures, 2))
        if decoded is not None:
            assert decoded.dtype == np.uint8
            assert decoded.shape == pictures.shape


class TextEncoderSuite:
    """The rules of `TextEncoder`. Override `make`, and the attributes below if they do not fit your encoder.

    Attributes:
        tolerance: largest difference between batch sizes and batches, as a share of the array's range.
        zero_padding: whether states outside the mask are zeros (False for full padding).
    """

    tolerance = 2e-3
    zero_padding = True

    def make(self) -> TextEncoder:
        """A new encoder, not loaded."""
        raise NotImplementedError

    @pytest.fixture
    def encoder(self) -> TextEncoder:
        """A loaded encoder."""
        made = self.make()
        made.load(RUNTIME)
        return made

    def test_fits_the_protocol(self) -> None:
        assert isinstance(self.make(), TextEncoder)

    def test_pickles_cheaply_before_it_is_loaded(self) -> None:
        assert len(pickle.dumps(self.make())) < 10_000

    def test_info_needs_no_torch(self) -> None:
        without_torch(self.make(), "info()")

    def test_info_says_the_same_before_and_after_loading(self, encoder: TextEncoder) -> None:
        assert encoder.info() == self.make().info()

    def test_has_the_arrays_of_the_protocol(self) -> None:
        specs = {spec.name: spec for spec in self.make().info().arrays}
        assert {"text_states", "text_mask", "text_truncated"} <= specs.keys()
        assert specs["text_states"].dims == ("token", "feature")
        assert specs["text_mask"].shape == specs["text_states"].shape[:1]
        assert specs["text_truncated"].shape == ()

    def test_arrays_are_as_info_says(self, encoder: TextEncoder) -> None:
        as_info_says(encoder.info(), encoder.encode(CAPTIONS, 4), len(CAPTIONS))

    def test_no_captions_make_empty_arrays(self, encoder: TextEncoder) -> None:
        as_info_says(encoder.info(), encoder.encode([], 4), 0)

    def test_any_caption_gives_finite_states(self, encoder: TextEncoder) -> None:
        made = encoder.encode(CAPTIONS, 4)
        assert all(np.isfinite(array).all() for array in made.values())
        assert made["text_mask"].any(axis=1).all(), "a caption without one token has no state at all"

    def test_the_mask_is_a_run_from_the_first_token(self, encoder: TextEncoder) -> None:
        mask = encoder.encode(CAPTIONS, 4)["text_mask"]
        assert np.array_equal(mask, np.sort(mask, axis=1)[:, ::-1])

    def test_states_beyond_the_mask_are_zeros(self, encoder: TextEncoder) -> None:
        made = encoder.encode(CAPTIONS, 4)
        if self.zero_padding:
            assert not made["text_states"][~made["text_mask"]].any()

    def test_only_captions_that_were_cut_are_marked(self, encoder: TextEncoder) -> None:
        made = encoder.encode(["dog", CAPTIONS[-1], ""], 4)
        assert made["text_truncated"].tolist() == [False, True, False]
        assert made["text_mask"][1].all(), "a caption that was cut fills its slot"

    def test_neighbours_and_batch_size_change_nothing_beyond_rounding(self, encoder: TextEncoder) -> None:
        alone = [encoder.encode([caption], 1) for caption in CAPTIONS]
        stacked = {name: np.concatenate([one[name] for one in alone]) for name in alone[0]}
        for batch in (1, 3, 64):
            alike(stacked, encoder.encode(CAPTIONS, batch), self.tolerance)

    def test_the_order_is_kept(self, encoder: TextEncoder) -> None:
        turned = encoder.encode(CAPTIONS[::-1], 4)
        alike(encoder.encode(CAPTIONS, 4), {name: array[::-1] for name, array in turned.items()}, self.tolerance)

    def test_different_captions_differ(self, encoder: TextEncoder) -> None:
        states = encoder.encode(["a red square", "a blue circle"], 2)["text_states"]
        assert not np.array_equal(states[0], states[1])

    def test_twice_the_same_is_equal_bit_for_bit(self, encoder: TextEncoder) -> None:
        alike(encoder.encode(CAPTIONS, 4), encoder.encode(CAPTIONS, 4), 0.0)

    def test_two_loads_are_equal_bit_for_bit(self, encoder: TextEncoder) -> None:
        again = pickle.loads(pickle.dumps(self.make()))
        again.load(RUNTIME)
        alike(encoder.encode(CAPTIONS, 4), again.encode(CAPTIONS, 4), 0.0)


def as_info_says(info: EncoderInfo, arrays: Mapping[str, npt.NDArray[Any]], n: int) -> None:
    """Assert that names, shapes and dtypes for n items are as in `info`."""
    assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == {
        spec.name: ((n, *spec.shape), spec.dtype) for spec in info.arrays
    }


def alike(left: Mapping[str, npt.NDArray[Any]], right: Mapping[str, npt.NDArray[Any]], tolerance: float) -> None:
    """Assert that two sets of arrays differ by at most `tolerance` of each array's range; 0 means bit for bit."""
    assert left.keys() == right.keys()
    for name in left:
        if tolerance == 0 or left[name].dtype == np.bool_:
            assert left[name].tobytes() == right[name].tobytes(), f"{name} differs"
            continue
        a, b = left[name].astype(np.float64), right[name].astype(np.float64)
        off = float(np.abs(a - b).max(initial=0.0))
        assert off <= tolerance * float(np.ptp(a)), f"{name} differs by {off:.3g}, its range is {np.ptp(a):.3g}"


def without_torch(encoder: object, call: str) -> None:
    """Assert that `encoder.<call>` in a fresh process imports neither torch nor the model libraries."""
    script = (
        "import pickle, sys\n"
        "encoder = pickle.loads(sys.stdin.buffer.read())\n"
        f"encoder.{call}\n"
        f"print([name for name in {_HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps(encoder),
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == "[]"
