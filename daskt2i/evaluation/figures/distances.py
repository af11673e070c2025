"""Distances between two sets of pictures, from their features.

Covers: FID and KID by torchmetrics, CMMD, precision and recall, CLIP score.
Does not cover: features (`extractors`), intervals of shares (`evaluation.intervals`).

Features are `float32[n, feature]`, one row for each picture.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daskt2i.evaluation.figures.statistics import Statistics

if TYPE_CHECKING:
    from torch import nn

Features = npt.NDArray[np.float32]

SIGMA, SCALE = 10.0, 1000.0
"""Of CMMD: bandwidth of the Gaussian kernel, and the factor that makes it readable (arXiv:2401.09603, section 5)."""

NEIGHBOURS = 3
"""Of precision and recall: a picture lies in a set if it is nearer to one of its pictures than the third neighbour of
that one (arXiv:1904.06991, section 3)."""

KID_SUBSETS, KID_SUBSET = 100, 1000
"""Of KID: number of random subsets, and the most pictures in each (arXiv:1801.01401, section 4)."""

_ROWS = 1024
"""Rows of a table of distances that are in memory at once: 30,000 x 30,000 numbers would be 3.6 GB."""


def fid(drawn: Features, real: Statistics) -> float:
    """Frechet distance of two Gaussians (arXiv:1706.08500), as torchmetrics computes it, with a reference that may be
    no more than mean and covariance."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_given(drawn.shape[1]))
    metric.update(torch.from_numpy(drawn).double(), real=False)
    mean, covariance = torch.from_numpy(real.mean), torch.from_numpy(real.covariance)
    # The state of the metric are sums, so that its own formula gives the mean and the covariance back.
    metric.real_features_sum = mean * real.count
    metric.real_features_cov_sum = covariance * (real.count - 1) + real.count * torch.outer(mean, mean)
    metric.real_features_num_samples = torch.tensor(real.count)
    return float(metric.compute())


def kid(drawn: Features, real: Features, seed: int = 0) -> tuple[float, float]:
    """Kernel distance by torchmetrics: mean over random subsets, and their standard deviation.

    The subsets follow from `seed`.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says that it holds the features; they are here anyway
        from torchmetrics.image.kid import KernelInceptionDistance

        size = min(KID_SUBSET, len(drawn), len(real))
        metric = KernelInceptionDistance(feature=_given(drawn.shape[1]), subsets=KID_SUBSETS, subset_size=size)
    metric.update(torch.from_numpy(drawn).double(), real=False)
    metric.update(torch.from_numpy(real).double(), real=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def cmmd(drawn: Features, real: Features) -> float:
    """Maximum mean discrepancy of CLIP features as unit vectors (arXiv:2401.09603), biased estimator, times 1,000."""
    first, second = _units(drawn), _units(real)
    own = _mean_kernel(first, first) + _mean_kernel(second, second)
    return SCALE * (own - 2 * _mean_kernel(first, second))


def precision_recall(drawn: Features, real: Features) -> tuple[int, int]:
    """Number of drawn pictures that lie among the real ones, and of real pictures that lie among the drawn ones.

    Kynkaanniemi et al., arXiv:1904.06991, equation 1, with three neighbours. Divide by the number of drawn and of real
    pictures to get precision and recall.
    """
    return _inside(drawn, real), _inside(real, drawn)


def clip_scores(pictures: Features, texts: Features) -> npt.NDArray[np.float64]:
    """100 x cosine of each picture and its text; torchmetrics' CLIPScore is the mean of it, at least 0."""
    return 100 * (_units(pictures) * _units(texts)).sum(1)


def _given(features: int) -> nn.Module:
    """A feature model for torchmetrics that gets features."""
    from torch import nn

    class Given(nn.Identity):
        num_features = features

    return Given()


def _units(values: Features) -> npt.NDArray[np.float64]:
    wide = values.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def _squared(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Squared distance of each pair, `[n, m]`; never below 0, as rounding would make it."""
    found = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * first @ second.T
    return np.maximum(found, 0)


def _mean_kernel(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    parts = (
        np.exp(-_squared(first[start : start + _ROWS], second) / (2 * SIGMA**2)).sum()
        for start in range(0, len(first), _ROWS)
    )
    return float(sum(parts)) / (len(first) * len(second))


def _inside(these: Features, others: Features) -> int:
    """How many of these lie in the set of the others."""
    points, among = these.astype(np.float64), others.astype(np.float64)
    reach = np.concatenate(
        [
            np.partition(_squared(among[start : start + _ROWS], among), NEIGHBOURS, axis=1)[:, NEIGHBOURS]
            for start in range(0, len(among), _ROWS)
        ]
    )  # number 0 is the point itself
    return sum(
        int((_squared(points[start : start + _ROWS], among) <= reach).any(1).sum())
        for start in range(0, len(points), _ROWS)
    )
