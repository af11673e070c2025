"""Floating-point numbers in fewer bytes: int8 with an offset and a step, and bfloat16.

Covers: the arithmetic, for any array. The same values give the same bytes on every machine: each step is one operation
of IEEE 754 in float32.
Does not cover: which arrays have which form (`form`).

`int8` is affine: `value = offset + step x number`, number from -127 to 127. Offset and step belong to a group of
values: a channel of a latent, a token of a text. The largest error is half a step, a 508th of the range of the group.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

LEVELS = 254
"""Steps between the smallest and the largest value of a group."""


def to_int8(values: npt.NDArray[Any], kept: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Numbers and scale of floating-point values.

    Args:
        values: `[..., n]`. A group with NaN or infinity has the number 0 and the scale NaN.
        kept: leading dimensions whose entries have a scale each.

    Returns:
        numbers `int8[...]`, and scale `float32[first dimensions, 2]`: offset and step.
    """
    lead = values.shape[:kept]
    groups = values.reshape(*lead, math.prod(values.shape[kept:])).astype(np.float32)
    low, high = groups.min(-1), groups.max(-1)
    with np.errstate(invalid="ignore", over="ignore"):
        offset = low + (high - low) * np.float32(0.5)
        step = (high - low) / np.float32(LEVELS)
    lost = ~(np.isfinite(offset) & np.isfinite(step))
    safe = np.where(lost | (step == 0), np.float32(1), step)
    centred = groups - np.where(lost, np.float32(0), offset)[..., None]
    centred[lost] = 0
    centred /= safe[..., None]
    numbers = np.clip(np.rint(centred, out=centred), -127, 127).astype(np.int8)
    offset[lost] = step[lost] = np.nan
    return numbers.reshape(values.shape), np.stack([offset, step], axis=-1)


def from_int8(numbers: npt.NDArray[np.int8], scale: npt.NDArray[np.float32], dtype: Any) -> npt.NDArray[Any]:
    """Values of `to_int8`, in a dtype. They are computed in float32."""
    offset, step = (scale[..., part].reshape(*scale.shape[:-1], 1) for part in (0, 1))
    groups = numbers.reshape(*scale.shape[:-1], math.prod(numbers.shape[scale.ndim - 1 :])).astype(np.float32)
    groups *= step
    groups += offset
    return groups.reshape(numbers.shape).astype(dtype, copy=False)


def to_bfloat16(values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """The bits of the nearest bfloat16, to even where two are equally near. NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))) >> np.uint32(16)
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def from_bfloat16(bits: npt.NDArray[np.uint16], dtype: Any) -> npt.NDArray[Any]:
    """Values of `to_bfloat16`, in a dtype."""
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32).astype(dtype, copy=False)
