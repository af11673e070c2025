"""How alike pictures are: a signature of 64 bytes for each, and which rows repeat an earlier one.

Covers: exact copies (SHA-256 of the file), near copies (rescaled, recompressed, slightly retouched).
Does not cover: reading files (`survey`), pictures of the same thing from another place: those differ, and should.

The signature is a difference hash of 128 bits (is each of 9 x 8 grey cells brighter than its right and its lower
neighbour) and the mean colours of 4 x 4 cells. Two pictures are near copies when few bits differ and the colours are
close; the colours tell flat pictures apart, which have no gradients. To find them without comparing all with all, the
128 bits are cut into 8 bands of 16, and only pictures that agree in a band are compared: those that differ in up to 7
bits always do, those that differ in 10 with 97 %, in 12 with 91 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from daskt2i.types import Pixels

SIDE = 32
"""Pixels of the square from which a signature is made."""

LENGTH = 64
"""Bytes of a signature: 16 of gradients, 48 of colours."""

BITS = 10
"""Bits of 128 that may differ by default. Of 80 photographs no two differ in less than 42: docs/benchmarks/insights.md.
"""

COLOURS = 12.0
"""Mean difference of the colours (0 to 255) that near copies may have."""

_BANDS = 8
_CROWD = 4096
"""Members of one band's bucket beyond which only neighbours in the order of all bits are compared."""
_WINDOW = 64


def signature(pixels: Pixels) -> bytes:
    """64 bytes for a picture `uint8[32, 32, 3]`."""
    colours = pixels.reshape(4, 8, 4, 8, 3).mean(axis=(1, 3), dtype=np.float32)
    grey = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    wide = _cells(grey, 8, 9)
    tall = _cells(grey, 9, 8)
    bits = np.concatenate([(wide[:, 1:] > wide[:, :-1]).ravel(), (tall[1:] > tall[:-1]).ravel()])
    return np.packbits(bits).tobytes() + np.rint(colours).astype(np.uint8).tobytes()


def _cells(grey: npt.NDArray[np.float32], rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Means of rows x columns cells of nearly equal size."""
    sums = np.add.reduceat(grey, np.arange(rows) * SIDE // rows, axis=0)
    sums = np.add.reduceat(sums, np.arange(columns) * SIDE // columns, axis=1)
    heights = np.diff(np.append(np.arange(rows) * SIDE // rows, SIDE))
    widths = np.diff(np.append(np.arange(columns) * SIDE // columns, SIDE))
    # Whole numbers of brightness: what is not seen must not flip a bit.
    means: npt.NDArray[np.float32] = np.rint(sums / np.outer(heights, widths))
    return means


def copies(
    digests: Sequence[bytes], signatures: Sequence[bytes], bits: int = BITS
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """For each row the earlier row that it repeats, or -1; and whether it is the same file.

    A row repeats the first row that is alike and repeats none itself, so that chains of small changes do not join
    pictures that differ.

    Args:
        digests: SHA-256 of each file; empty where there is none, which repeats nothing.
        signatures: of each picture, 64 bytes; empty where it was not decoded.
        bits: how many of the 128 may differ, 0 to 12.
    """
    rows = len(digests)
    found = np.full(rows, -1, np.int64)
    exact = np.zeros(rows, np.bool_)
    first: dict[bytes, int] = {}
    for row, digest in enumerate(digests):
        if digest:
            earlier = first.setdefault(digest, row)
            if earlier != row:
                found[row], exact[row] = earlier, True
    seen = np.array([row for row in range(rows) if signatures[row] and found[row] < 0], np.int64)
    if len(seen) < 2:
        return found, exact
    stacked = np.frombuffer(b"".join(signatures[row] for row in seen), np.uint8).reshape(-1, LENGTH)
    pairs = np.unique(np.concatenate(list(_alike(stacked, bits)) or [np.empty((0, 2), np.int64)]), axis=0)
    for left, right in seen[pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]]:
        if found[left] < 0 and found[right] < 0:
            found[right] = left
    # A file that repeats a near copy repeats what that one repeats.
    again = exact & (found[found] >= 0) & (found >= 0)
    found[again] = found[found[again]]
    return found, exact


def _alike(signatures: npt.NDArray[np.uint8], bits: int) -> Iterator[npt.NDArray[np.int64]]:
    """Pairs (i < j) of near copies, some of them more than once."""
    hashes, colours = signatures[:, :16], signatures[:, 16:].astype(np.int16)
    bands = np.ascontiguousarray(hashes).view(np.uint16)
    for band in range(_BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        values = bands[order, band]
        edges = np.flatnonzero(np.diff(values)) + 1
        for start, stop in zip([0, *edges], [*edges, len(order)], strict=True):
            if stop - start < 2:
                continue
            members = np.sort(order[start:stop])
            if len(members) > _CROWD:
                members = members[np.lexsort(hashes[members].T)]
                for shift in range(1, _WINDOW):
                    yield from _close(members[:-shift], members[shift:], hashes, colours, bits)
                continue
            for place in range(len(members) - 1):
                others = members[place + 1 :]
                yield from _close(np.broadcast_to(members[place], others.shape), others, hashes, colours, bits)


def _close(
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.uint8],
    colours: npt.NDArray[np.int16],
    bits: int,
) -> Iterator[npt.NDArray[np.int64]]:
    near = np.bitwise_count(hashes[left] ^ hashes[right]).sum(axis=1, dtype=np.int32) <= bits
    left, right = left[near], right[near]
    if len(left):
        near = np.abs(colours[left] - colours[right]).mean(axis=1) <= COLOURS
        pairs = np.stack([np.minimum(left[near], right[near]), np.maximum(left[near], right[near])], axis=1)
        if len(pairs):
            yield pairs
