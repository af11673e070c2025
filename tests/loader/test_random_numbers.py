"""Random numbers in bulk: those of a sample do not depend on the others, and they are normal."""

from __future__ import annotations

import math

import numpy as np
import pytest

from daskt2i.loader.random_numbers import in_bulk
from daskt2i.loader.sample_order import Purpose, RandomStreams, key_of

SAMPLES = [(epoch, row) for epoch in range(2) for row in range(20)]


def streams(seed: int = 0) -> RandomStreams:
    return RandomStreams(key_of(seed))


@pytest.mark.parametrize("size", [1, 15, 16_384])  # the last one takes several transforms
def test_the_numbers_of_a_sample_are_the_same_alone_and_in_any_batch(size: int) -> None:
    whole = in_bulk(streams(), Purpose.SAMPLE, SAMPLES, size, True)
    assert whole.drawn is not None
    for place in (0, 7, 39):
        alone = in_bulk(streams(), Purpose.SAMPLE, [SAMPLES[place]], size, True)
        for name in ("uniform", "lot", "normal", "noise", "drawn"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(whole, name)[place])
    plain = in_bulk(streams(), Purpose.SAMPLE, SAMPLES, size, False)
    assert plain.drawn is None
    np.testing.assert_array_equal(plain.noise, whole.noise)


def test_seeds_purposes_epochs_and_rows_have_their_own_numbers() -> None:
    found = [
        in_bulk(streams(seed), purpose, SAMPLES, 8, True)
        for seed in (0, 1)
        for purpose in (Purpose.SAMPLE, Purpose.HELDOUT)
    ]
    rows = [array.tobytes() for one in found for part in (one.noise, one.drawn) if part is not None for array in part]
    assert len(set(rows)) == len(rows) == 4 * 2 * len(SAMPLES)


def test_the_numbers_have_the_distribution_of_the_normal() -> None:
    made = in_bulk(streams(), Purpose.SAMPLE, SAMPLES, 16_384, True)
    assert made.drawn is not None
    values = np.sort(np.concatenate([made.noise.ravel(), made.drawn.ravel()]).astype(np.float64))
    count = len(values)
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0), (6, 15.0)):
        spread = math.sqrt(math.prod(range(1, 2 * power, 2)))  # of x^power, from the moment of 2 power
        assert abs((values**power).mean() - moment) < 5 * spread / math.sqrt(count)
    expected = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in values[::64]])
    assert np.abs(expected - np.arange(0, count, 64) / count).max() < 1.95 / math.sqrt(count)  # Kolmogorov, 0.1 %
    assert 4.3 < values[-1] < 6.7
    cosine, sine = made.noise[:, :8192].ravel(), made.noise[:, 8192:].ravel()
    for one, other in ((cosine, sine), (cosine**2, sine**2), (cosine[1:], cosine[:-1])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / math.sqrt(len(cosine))
    assert abs(made.uniform.mean() - 0.5) < 0.25
    assert 0 <= made.lot.min() < made.lot.max() < 1
