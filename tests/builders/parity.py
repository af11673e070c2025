"""How near stored arrays must be to those of plain code of the libraries."""

from __future__ import annotations

from typing import Any

import numpy as np


def as_stored(ours: Any, plain: Any, share: float = 1e-4) -> None:
    """Equal within 1e-4 of the range, apart from the rounding to the float16 that is stored."""
    assert ours.shape == plain.shape
    rounding = np.spacing(np.abs(plain).astype(np.float16)).astype(np.float64) / 2
    off = np.abs(ours.astype(np.float64) - plain) - rounding
    assert off.max() <= share * np.ptp(plain), f"{off.max():.3g} of a range of {np.ptp(plain):.3g}"
