"""Intervals of shares: how far a share that was counted may be from the true one.

Covers: the interval of Wilson (1927) for a share of independent trials, at 95 %.
Does not cover: intervals of distances between two sets of pictures (`figures.distances`).

Pictures of one prompt with several seeds are not fully independent, so the true interval is a little wider.
"""

from __future__ import annotations

import math

_Z = 1.959964
"""The normal distribution has 95 % between -1.96 and 1.96."""


def wilson(right: int, of: int) -> tuple[float, float]:
    """Lower and upper end of the interval of `right / of`, from 0 to 1; (0, 1) without any trial.

    Unlike the normal approximation it stays inside 0 and 1, and has a width also if all or none are right.
    """
    if of == 0:
        return 0.0, 1.0
    share, squared = right / of, _Z**2
    middle = (share + squared / (2 * of)) / (1 + squared / of)
    half = _Z / (1 + squared / of) * math.sqrt(share * (1 - share) / of + squared / (4 * of**2))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return low if right else 0.0, high if right < of else 1.0  # exact there, but for rounding


def about(right: int, of: int) -> str:
    """A share with its interval: `"86.7% (80 to 91)"`; `"-"` without any trial."""
    if of == 0:
        return "-"
    low, high = wilson(right, of)
    return f"{right / of:.1%} ({100 * low:.0f} to {100 * high:.0f})"
