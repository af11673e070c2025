"""A sheet of pictures and what an autoencoder makes of them, to see how a training goes.

Covers: each picture beside its reconstruction, with its PSNR.
Does not cover: which pictures (`autoencoder_rank`), when a sheet is drawn (`loop`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from daskt2i.sample.image_grid import image_grid, png
from daskt2i.types import Pixels

MOST = 16
"""Pictures on a sheet."""


def reconstruction_sheet(
    pictures: Sequence[Pixels], made: Sequence[Pixels], rows: Sequence[int], db: Sequence[float], step: int
) -> bytes:
    """A PNG of pairs: the picture on the left, its reconstruction on the right.

    Args:
        pictures, made: `uint8[height, width, 3]`, all of the same size.
        rows: number of each picture in the source.
        db: PSNR of each, dB.
    """
    pairs = [np.concatenate([left, right], axis=1) for left, right in zip(pictures, made, strict=True)]
    labels = [f"row {row:,}: {value:.1f} dB" for row, value in zip(rows, db, strict=True)]
    columns = max(1, round(len(pairs) ** 0.5 / 2))  # a pair is twice as wide as high
    return png(image_grid(pairs, labels, columns), {"Step": step, "Software": "daskt2i"})
