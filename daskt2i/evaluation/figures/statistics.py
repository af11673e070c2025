"""Statistics of the pictures to compare with, in one file: mean, covariance, and the features themselves.

Covers: making them from features, writing them as safetensors with what they were made of, reading them back, and
reading the `mu` and `sigma` of an .npz file, as pytorch-fid writes it.
Does not cover: whether they fit an evaluation (`reference`).

Nothing is unpickled: safetensors is numbers and a JSON header, and numpy refuses pickled arrays.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import ConfigError

_MADE_OF = "made_of"

_MANY = 10**6
"""The count of a file that does not tell one: it changes FID by a millionth."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Features of one model over real pictures, summed up.

    Attributes:
        mean: `float64[feature]`.
        covariance: `float64[feature, feature]`, divided by count - 1.
        count: number of pictures.
        features: `float32[count, feature]`; None if the file has only mean and covariance.
    """

    mean: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]
    count: int
    features: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class StatisticsFile:
    """What a file has: statistics by kind of the model, and what they were made of; empty if the file does not say."""

    by_kind: Mapping[str, Statistics]
    made_of: Mapping[str, Any] = field(default_factory=dict)


def statistics_of(features: npt.NDArray[np.float32]) -> Statistics:
    """Mean and covariance of features, computed in float64."""
    wide = features.astype(np.float64)
    covariance = np.cov(wide, rowvar=False) if len(wide) > 1 else np.zeros((wide.shape[1],) * 2)
    return Statistics(wide.mean(0), np.atleast_2d(covariance), len(wide), features)


def to_bytes(features: Mapping[str, npt.NDArray[Any]], made_of: Mapping[str, Any]) -> bytes:
    """A safetensors file with the statistics of each kind of features."""
    from safetensors.numpy import save

    arrays: dict[str, npt.NDArray[Any]] = {}
    for kind, values in features.items():
        found = statistics_of(values)
        arrays |= {f"{kind}.mean": found.mean, f"{kind}.covariance": found.covariance, f"{kind}.features": values}
    return bytes(save(arrays, {_MADE_OF: json.dumps(made_of, sort_keys=True)}))


def from_bytes(data: bytes, name: str) -> StatisticsFile:
    """Read a file of statistics.

    Args:
        name: its name; one that ends in `.npz` is pytorch-fid's.

    Raises:
        ConfigError: it is damaged, or has no statistics.
    """
    try:
        return _from_npz(data) if name.endswith(".npz") else _from_safetensors(data)
    except Exception as error:  # of the two libraries, on any bytes
        raise ConfigError(
            f"{name} cannot be read as statistics of pictures ({type(error).__name__}). Nothing was drawn. Give a "
            ".safetensors file of an earlier evaluate, an .npz file with mu and sigma, or a place of pictures "
            "(reference)."
        ) from error


def _from_npz(data: bytes) -> StatisticsFile:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        mean, covariance = file["mu"].astype(np.float64), file["sigma"].astype(np.float64)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError("mu and sigma do not fit together")
    return StatisticsFile({"inception": Statistics(mean, covariance, _MANY)})


def _from_safetensors(data: bytes) -> StatisticsFile:
    from safetensors.numpy import load

    arrays = load(data)
    length = int.from_bytes(data[:8], "little")
    made_of = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_MADE_OF])
    kinds = [name.removesuffix(".mean") for name in arrays if name.endswith(".mean")]
    found = {}
    for kind in kinds:
        features = arrays[f"{kind}.features"]
        found[kind] = Statistics(arrays[f"{kind}.mean"], arrays[f"{kind}.covariance"], len(features), features)
    if not found:
        raise ValueError("no statistics")
    return StatisticsFile(found, made_of)
