"""Distances of features are those of plain formulas, and of torchmetrics on the same arrays."""

from __future__ import annotations

import numpy as np
import pytest
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from daskt2i.evaluation.figures import distances
from daskt2i.evaluation.figures.statistics import Statistics, statistics_of

FEATURES = 12


@pytest.fixture(scope="module")
def drawn() -> distances.Features:
    return np.random.default_rng(1).normal(0.3, 1.2, (90, FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def real() -> distances.Features:
    return np.random.default_rng(2).normal(0, 1, (120, FEATURES)).astype(np.float32)


def test_fid_is_that_of_torchmetrics_and_of_its_formula(drawn: distances.Features, real: distances.Features) -> None:
    import torch

    metric = FrechetInceptionDistance(feature=distances._given(FEATURES))
    metric.update(torch.from_numpy(drawn).double(), real=False)
    metric.update(torch.from_numpy(real).double(), real=True)
    found = distances.fid(drawn, statistics_of(real))
    assert found == pytest.approx(float(metric.compute()), rel=1e-6)
    values, vectors = np.linalg.eigh(np.cov(drawn, rowvar=False))
    root = vectors * np.sqrt(values) @ vectors.T
    product = np.sqrt(np.linalg.eigvalsh(root @ np.cov(real, rowvar=False) @ root)).sum()
    traces = np.trace(np.cov(drawn, rowvar=False)) + np.trace(np.cov(real, rowvar=False))
    assert found == pytest.approx(((drawn.mean(0) - real.mean(0)) ** 2).sum() + traces - 2 * product, rel=1e-4)


def test_mean_and_covariance_are_enough_for_fid(drawn: distances.Features, real: distances.Features) -> None:
    full = statistics_of(real)
    bare = Statistics(full.mean, full.covariance, 10**6)
    assert distances.fid(drawn, bare) == pytest.approx(distances.fid(drawn, full), rel=1e-6)


def test_fid_of_a_set_and_itself_is_nothing(real: distances.Features) -> None:
    assert abs(distances.fid(real, statistics_of(real))) < 1e-6


def test_kid_is_that_of_torchmetrics_and_the_same_each_time(
    drawn: distances.Features, real: distances.Features
) -> None:
    import torch

    with pytest.warns(UserWarning, match="will save all extracted features"):
        metric = KernelInceptionDistance(feature=distances._given(FEATURES), subsets=100, subset_size=90)
    metric.update(torch.from_numpy(drawn).double(), real=False)
    metric.update(torch.from_numpy(real).double(), real=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mean, deviation = metric.compute()
    assert distances.kid(drawn, real) == pytest.approx((float(mean), float(deviation)), rel=1e-9)
    assert distances.kid(drawn, real) == distances.kid(drawn, real)


def test_cmmd_is_the_mean_of_kernels_of_unit_vectors(drawn: distances.Features, real: distances.Features) -> None:
    def mean(these: distances.Features, others: distances.Features) -> float:
        total = 0.0
        for a in these:
            for b in others:
                gap = a / np.linalg.norm(a) - b / np.linalg.norm(b)
                total += float(np.exp(-(gap @ gap) / 200))
        return total / (len(these) * len(others))

    few, some = drawn[:20], real[:30]
    plain = 1000 * (mean(few, few) + mean(some, some) - 2 * mean(few, some))
    assert distances.cmmd(few, some) == pytest.approx(plain, rel=1e-4)


def test_precision_counts_pictures_inside_the_reach_of_the_third_neighbour(
    drawn: distances.Features, real: distances.Features
) -> None:
    def inside(these: distances.Features, others: distances.Features) -> int:
        reach = [sorted(float(np.linalg.norm(a - b)) for b in others)[3] for a in others]
        return sum(any(np.linalg.norm(a - b) <= r for b, r in zip(others, reach, strict=True)) for a in these)

    few, some = drawn[:40], real[:50]
    assert distances.precision_recall(few, some) == (inside(few, some), inside(some, few))
    assert 0 < inside(few, some) < 40, "an example that can tell right from wrong"
    assert distances.precision_recall(few, few) == (40, 40)
    assert distances.precision_recall(few, few + 100) == (0, 0)


def test_many_rows_are_compared_in_parts(
    drawn: distances.Features, real: distances.Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = distances.cmmd(drawn, real), distances.precision_recall(drawn, real)
    monkeypatch.setattr(distances, "_ROWS", 7)
    assert distances.cmmd(drawn, real) == pytest.approx(whole[0])
    assert distances.precision_recall(drawn, real) == whole[1]
