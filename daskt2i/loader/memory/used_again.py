"""Memory that is used again as soon as nobody holds an array of it.

Covers: blocks of memory for arrays that live and go together, such as those of a batch.
Does not cover: what is in them (`batch_arrays`, `loaded_rows`), memory of one thread that no other sees (its owner).

New memory comes from the system page by page, filled with zeros. For a batch of 64 this took up to a fifth of its time.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGNED = 64
"""Each array begins at a multiple of so many bytes, as vector units want it."""

_STEPS = 8
"""Blocks have sizes of 8/8, 9/8, ... 15/8 of a power of two. So one block fits for arrays of about the same size."""


class Blocks:
    """Blocks of memory. Several threads may use it.

    All blocks together take no more memory than at the moment when most of them were held: before a new block is made,
    free ones of other sizes go back to the system.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[npt.NDArray[np.uint8]]] = {}

    @property
    def free(self) -> int:
        """Bytes that are kept for the next blocks."""
        return sum(size * len(blocks) for size, blocks in list(self._free.items()))

    def block(self, *shapes: tuple[Any, tuple[int, ...]]) -> list[npt.NDArray[Any]]:
        """Arrays of these dtypes and shapes in one block. Their values are whatever was there before."""
        sizes = [math.prod(shape) * np.dtype(dtype).itemsize for dtype, shape in shapes]
        block = self._fitting(sum(-(-size // _ALIGNED) * _ALIGNED for size in sizes) + _ALIGNED)
        lease = (ctypes.c_ubyte * len(block)).from_buffer(block.data)  # the arrays hold it, and its end can be watched
        weakref.finalize(lease, _give_back, self._free, block).atexit = False
        whole = np.frombuffer(memoryview(lease), np.uint8)
        begin = -whole.ctypes.data % _ALIGNED
        found = []
        for (dtype, shape), size in zip(shapes, sizes, strict=True):
            found.append(whole[begin : begin + size].view(dtype).reshape(shape))
            begin += -(-size // _ALIGNED) * _ALIGNED
        return found

    def close(self) -> None:
        """Give free blocks back to the system, and later those that are held now."""
        self._free = {}

    def _fitting(self, wanted: int) -> npt.NDArray[np.uint8]:
        step = max(1, 1 << max(0, wanted.bit_length() - 1) >> _STEPS.bit_length() - 1)
        size = -(-wanted // step) * step
        if (block := _one_of(self._free.get(size))) is not None:
            return block
        freed = 0
        for other in list(self._free.values()):
            while freed < size and (block := _one_of(other)) is not None:
                freed += len(block)
        return np.empty(size, np.uint8)


def _one_of(blocks: list[npt.NDArray[np.uint8]] | None) -> npt.NDArray[np.uint8] | None:
    try:
        return blocks.pop() if blocks else None
    except IndexError:  # another thread was faster
        return None


def _give_back(free: dict[int, list[npt.NDArray[np.uint8]]], block: npt.NDArray[np.uint8]) -> None:
    free.setdefault(len(block), []).append(block)
