"""Whether a tool made what ours made: nobody is compared while doing something else.

Covers: rows, finite numbers, the difference of latents and text states of a few rows.
Does not cover: reading a tool's files (`peer`).

A difference alone says little: with random weights all latents are alike. So it is divided by how much the latents (or
states) of different rows differ from each other. 0 is equal; 1 is as far off as another picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MOST = 0.3
"""The largest difference that rounding to bf16 explains. It is 0.02 to 0.1 as a rule; another picture is 1."""

Sample = Mapping[str, npt.NDArray[np.float32]]


def sample(out: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The rows that `peer.check` kept: `mean-N` and `states-N` for a few rows N."""
    with np.load(out / "sample.npz") as made:
        return dict(made)


def difference(theirs: Sample, ours: Sample, name: str) -> tuple[float, float] | None:
    """Mean absolute difference of `mean` or `states`, plain and divided by that between rows of ours.

    Returns:
        None if a row is missing or has another shape.
    """
    keys = sorted(key for key in ours if key.startswith(f"{name}-"))
    if not keys or any(key not in theirs or theirs[key].shape != ours[key].shape for key in keys):
        return None
    plain = float(np.mean([np.abs(theirs[key] - ours[key]).mean() for key in keys]))
    between = []
    for one, other in combinations(keys, 2):
        n = min(len(ours[one]), len(ours[other]))  # texts have different lengths
        between.append(np.abs(ours[one][:n] - ours[other][:n]).mean())
    scale = float(np.mean(between)) if between else float(np.mean([np.abs(ours[key]).mean() for key in keys]))
    return plain, plain / scale if scale else (0.0 if plain == 0 else float("inf"))


def problem(result: Mapping[str, Any], rows: int, theirs: Sample, ours: Sample) -> str | None:
    """Why a run must not be compared, in a clause; None if it made what ours made."""
    if result["rows"] != rows:
        return f"it wrote {result['rows']} of {rows} rows"
    if not result["finite"]:
        return "it wrote numbers that are not finite"
    for name, meant in (("mean", "latents"), ("states", "text states")):
        found = difference(theirs, ours, name)
        if found is None:
            return f"its {meant} have another shape than ours"
        if not found[1] <= MOST:
            return f"its {meant} are not ours (they differ by {found[1]:.2f} of what two rows differ by)"
    return None
