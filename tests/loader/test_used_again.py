"""Memory of arrays is used again when nobody holds one of them, and never before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from daskt2i.loader.memory.used_again import Blocks

SHAPES = ((np.float32, (5, 3)), (np.float16, (7,)), (np.bool_, (1, 1)))


def place(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def test_a_block_is_used_again_when_its_last_array_is_gone() -> None:
    blocks = Blocks()
    first = blocks.block(*SHAPES)
    where = place(first[0])
    part = torch.from_numpy(first[1])[2:4]  # what a trainer may keep of a batch
    del first
    other = blocks.block(*SHAPES)
    assert place(other[0]) != where
    del part
    assert place(blocks.block(*SHAPES)[0]) == where


def test_arrays_of_a_block_have_their_own_memory_on_whole_cache_lines() -> None:
    arrays = Blocks().block(*SHAPES)
    assert [(one.dtype, one.shape) for one in arrays] == [(np.dtype(dtype), shape) for dtype, shape in SHAPES]
    for number, one in enumerate(arrays):
        one[...] = number
        assert place(one) % 64 == 0
    assert [np.unique(one).tolist() for one in arrays] == [[0], [1], [1]]


@pytest.mark.parametrize("rows", [1, 100, 1000])
def test_a_block_fits_for_arrays_of_about_the_same_size_only(rows: int) -> None:
    blocks = Blocks()
    found = blocks.block((np.uint8, (rows * 1000,)))
    del found
    kept = blocks.free
    assert rows * 1000 <= kept <= rows * 1000 * 9 / 8 + 128
    (fits,) = blocks.block((np.uint8, (rows * 1000 + 1,)))
    assert (len(fits), blocks.free) == (rows * 1000 + 1, 0)
    del fits
    assert blocks.free == kept
    (small,) = blocks.block((np.uint8, (rows * 100,)))
    del small
    assert blocks.free < kept / 2  # the other one went back to the system


def test_all_blocks_take_no_more_than_when_most_were_held_and_nothing_is_kept_after_the_end() -> None:
    blocks = Blocks()
    held = [blocks.block((np.uint8, (4096 - 64,))) for _ in range(3)]
    assert blocks.free == 0
    held.clear()
    assert blocks.free == 3 * 4096
    other = blocks.block((np.uint8, (8192 - 64,)))
    assert blocks.free == 4096
    blocks.close()
    del other
    assert blocks.free == 0
