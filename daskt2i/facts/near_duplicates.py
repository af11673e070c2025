"""Finds duplicate pictures: a signature of 64 bytes for each picture, and the rows that repeat an earlier row.

Covers: exact copies (SHA-256 of the file), near copies (rescaled, recompressed, slightly retouched).
Does not cover: reading files (`survey`); pictures of the same thing from another viewpoint, which are not copies.

The signature has 128 bits of a difference hash (whether each of 9 x 8 grey cells is brighter than its right and its
lower neighbour) and the mean colours of 4 x 4 cells. Two pictures are near copies if few bits differ and the colours
are similar. The colours separate flat pictures, which have no gradients. To avoid comparing every pair, the 128 bits
are cut into 8 bands of 16, and only pictures that agree in a band are compared. Pictures that differ in up to 7 bits
always agree in a band; with 10 bits 97 % do, with 12 bits 91 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from daskt2i.types import Pixels

SIDE = 32
"""Side of the square from which a signature is made, pixels."""

LENGTH = 64
"""Bytes of a signature: 16 for gradients, 48 for colours."""

BITS = 10
"""Default for the bits of 128 that may differ. Any two of 80 photographs differ in 42 or more
(docs/benchmarks/insights.md)."""

COLOURS = 12.0
"""Largest mean difference of the colours (0 to 255) of near copies."""

_BANDS = 8
_CROWD = 4096
"""In a larger bucket of a band, only neighbours in the order of all bits are compared."""
_WINDOW = 64


def signature(pixels: Pixels) -> bytes:
    """The signature of a picture `uint8[32, 32, 3]`, 64 bytes."""
    return signatures(pixels[None])[0]


def signatures(pixels: Pixels) -> list[bytes]:
    """The signature of each picture, `uint8[n, 32, 32, 3]`."""
    count = len(pixels)
    colours = pixels.reshape(count, 4, 8, 4, 8, 3).mean(axis=(2, 4), dtype=np.float32)
    grey = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    wide = _cells(grey, 8, 9)
    tall = _cells(grey, 9, 8)
    across = (wide[:, :, 1:] > wide[:, :, :-1]).reshape(count, -1)
    down = (tall[:, 1:] > tall[:, :-1]).reshape(count, -1)
    bits = np.packbits(np.concatenate([across, down], axis=1), axis=1)
    tones = np.rint(colours).astype(np.uint8).reshape(count, -1)
    return [one.tobytes() + other.tobytes() for one, other in zip(bits, tones, strict=True)]


def _cells(grey: npt.NDArray[np.float32], rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Means of rows x columns cells of nearly equal size, of each picture."""
    sums = np.add.reduceat(grey, np.arange(rows) * SIDE // rows, axis=1)
    sums = np.add.reduceat(sums, np.arange(columns) * SIDE // columns, axis=2)
    heights = np.diff(np.append(np.arange(rows) * SIDE // rows, SIDE))
    widths = np.diff(np.append(np.arange(columns) * SIDE // columns, SIDE))
    # Brightness is rounded, so that an invisible difference does not flip a bit.
    means: npt.NDArray[np.float32] = np.rint(sums / np.outer(heights, widths))
    return means


def copies(
    digests: Sequence[bytes], signatures: Sequence[bytes], bits: int = BITS
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """For each row the earlier row that it repeats, or -1; and whether both are the same file.

    A row repeats the first similar row that is not itself a repeat. So a chain of small changes does not join different
    pictures.

    Args:
        digests: SHA-256 of each file; empty for a row without a file, which repeats nothing.
        signatures: signature of each picture, 64 bytes; empty if it was not decoded.
        bits: number of the 128 bits that may differ, 0 to 12.
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
    # An exact copy of a near copy repeats the same row as the near copy.
    again = exact & (found[found] >= 0) & (found >= 0)
    found[again] = found[found[again]]
    return found, exact


def _alike(signatures: npt.NDArray[np.uint8], bits: int) -> Iterator[npt.NDArray[np.int64]]:
    """Pairs (i < j) of near copies. A pair may come more than once."""
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
