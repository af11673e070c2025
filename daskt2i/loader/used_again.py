"""Memory that is used again as soon as nobody holds an array of it.

Covers: blocks of memory for arrays that live and go together, such as those of a batch.
Does not cover: what is in them (`batch_arrays`, `loaded_rows`), memory of one thread that no other sees (its owner).

New memory comes from the system page by page, filled with zeros. For a batch of 64 this took up to a fifth of its time.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGNED = 64
"""Each array begins at a multiple of so many bytes, as vector units want it."""

_STEPS = 8
"""Blocks have sizes of 8/8, 9/8, ... 15/8 of a power of two. So one block fits for arrays of about the same size."""


class Blocks:
    """Blocks of memory. Several threads may use it.

    Args:
        kept: greatest number of free blocks, which is the length of this object. The others go back to the system.
    """

    def __init__(self, kept: int) -> None:
        self._free: deque[npt.NDArray[np.uint8]] = deque(maxlen=kept)

    def __len__(self) -> int:
        return len(self._free)

    def block(self, *shapes: tuple[Any, tuple[int, ...]]) -> list[npt.NDArray[Any]]:
        """Arrays of these dtypes and shapes in one block. Their values are whatever was there before."""
        sizes = [math.prod(shape) * np.dtype(dtype).itemsize for dtype, shape in shapes]
        wanted = sum(-(-size // _ALIGNED) * _ALIGNED for size in sizes) + _ALIGNED
        block = self._fitting(wanted)
        lease = (ctypes.c_ubyte * len(block)).from_buffer(block.data)  # the arrays hold it, and its end can be watched
        weakref.finalize(lease, self._free.append, block).atexit = False
        whole = np.frombuffer(memoryview(lease), np.uint8)
        begin = -whole.ctypes.data % _ALIGNED
        found = []
        for (dtype, shape), size in zip(shapes, sizes, strict=True):
            found.append(whole[begin : begin + size].view(dtype).reshape(shape))
            begin += -(-size // _ALIGNED) * _ALIGNED
        return found

    def close(self) -> None:
        """Give free blocks back to the system, and those that become free."""
        self._free = deque(maxlen=0)

    def _fitting(self, wanted: int) -> npt.NDArray[np.uint8]:
        step = max(1, 1 << max(0, wanted.bit_length() - 1) >> _STEPS.bit_length() - 1)
        size = -(-wanted // step) * step
        for _ in range(len(self._free)):
            try:
                block = self._free.popleft()
            except IndexError:  # another thread was faster
                break
            if len(block) == size:
                return block
            self._free.append(block)
        return np.empty(size, np.uint8)
