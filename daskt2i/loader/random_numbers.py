"""All random numbers of the samples of a batch: noise, the draw from the posterior, times and caption dropout.

Covers: numbers in bulk (`in_bulk`), only those of the posterior (`draw_posterior`), the numbers of older versions
(`one_by_one`).
Does not cover: the order of samples and the caption of an epoch (`sample_order`), what the numbers are used for
(`dataset`).

The numbers of a sample depend only on seed, epoch and row. Each sample has its own counter of Philox 4x64 (Salmon et
al. 2011), which gives random bits. All samples together are made normal by the transform of Box and Muller (1958):
two uniform numbers u, v become sqrt(-2 ln u) cos(2 pi v) and sqrt(-2 ln u) sin(2 pi v). numpy has SIMD code for the
logarithm and the cosine, but draws normal numbers one after the other. For 8,192 numbers (latents of 4 x 32 x 32, noise
and posterior) the bits take 16 microseconds and the transform 18. numpy's ziggurat method takes 126 on the same
machine. Another processor may round the last bit otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from daskt2i.loader.sample_order import Purpose, RandomStreams, Sample

Floats = npt.NDArray[np.float32]

_WORDS = 2
"""64-bit words of a sample before its noise: uniform and lot, then the two numbers that make `normal`."""

_AT_ONCE = 16_384
"""Pairs of numbers that are transformed together: their 5 arrays fit into the cache of a core."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """The random numbers of b samples.

    Attributes:
        uniform: `float32[b]` in [0, 1).
        lot: `float32[b]` in [0, 1), for caption dropout.
        normal: `float32[b]`, standard normal.
        noise: `float32[b, n]`, standard normal.
        drawn: `float32[b, n]`, standard normal, for the posterior; None if nothing is drawn from it.
    """

    uniform: Floats
    lot: Floats
    normal: Floats
    noise: Floats
    drawn: Floats | None


Draw = Callable[[RandomStreams, Purpose, Sequence[Sample], int, bool, Sequence[Floats] | None], Numbers]
"""(streams, purpose, samples, n, whether there is a posterior, memory for noise and drawn) -> the numbers."""


def in_bulk(
    streams: RandomStreams,
    purpose: Purpose,
    samples: Sequence[Sample],
    size: int,
    posterior: bool,
    memory: Sequence[Floats] | None = None,
) -> Numbers:
    """The numbers of samples, from few transforms over all of them.

    Args:
        size: length of the noise of a sample.
        memory: where to put noise and drawn, each `float32[b, size]`; None for new memory.
    """
    count, pairs, parts = len(samples), -(-size // 2), 1 + posterior
    words = _WORDS + pairs * parts
    step = max(1, _AT_ONCE // max(pairs, 1))
    bits = streams.memory(min(step, count), words)
    unit, normal = np.empty((2, count), np.float32), np.empty((count, 2), np.float32)
    targets = [np.empty((count, size), np.float32) for _ in range(parts)] if memory is None else memory[:parts]
    wide = None if size == 2 * pairs else np.empty((min(step, count), 2 * pairs), np.float32)
    for first in range(0, count, step):
        some = samples[first : first + step]
        for target, (epoch, row) in zip(bits, some, strict=False):
            target[:] = streams.bits(purpose, epoch, row, words)
        halves, here = bits[: len(some)].astype("<u8", copy=False).view("<u4"), slice(first, first + len(some))
        unit[:, here] = (halves[:, :2] >> np.uint32(8)).T * np.float32(2**-24)
        _normal(halves[:, 2 : 2 * _WORDS], normal[here])
        for number, made in enumerate(targets):
            start = 2 * (_WORDS + number * pairs)
            _normal(halves[:, start : start + 2 * pairs], made[here] if wide is None else wide[: len(some)])
            if wide is not None:
                made[here] = wide[: len(some), :size]
    noise, *drawn = targets
    return Numbers(unit[0], unit[1], np.ascontiguousarray(normal[:, 0]), noise, drawn[0] if drawn else None)


def draw_posterior(streams: RandomStreams, purpose: Purpose, samples: Sequence[Sample], drawn: Floats) -> None:
    """The numbers `drawn` of `in_bulk`, without the others.

    Args:
        drawn: where to put them, `float32[b, size]`.
    """
    size = drawn.shape[1]
    pairs = -(-size // 2)
    step = max(1, _AT_ONCE // max(pairs, 1))
    bits = streams.memory(min(step, len(samples)), pairs)
    wide = None if size == 2 * pairs else np.empty((min(step, len(samples)), 2 * pairs), np.float32)
    for first in range(0, len(samples), step):
        some = samples[first : first + step]
        for target, (epoch, row) in zip(bits, some, strict=False):
            target[:] = streams.bits(purpose, epoch, row, pairs, _WORDS + pairs)
        halves, here = bits[: len(some)].astype("<u8", copy=False).view("<u4"), slice(first, first + len(some))
        _normal(halves, drawn[here] if wide is None else wide[: len(some)])
        if wide is not None:
            drawn[here] = wide[: len(some), :size]


def _normal(halves: npt.NDArray[np.uint32], target: Floats) -> None:
    """Make standard normal numbers from random bits, both `[b, 2 n]`: n by cosine, then n by sine.

    u is one of 2^31 numbers in (0, 1], so a number is at most 6.7.
    """
    pairs = halves.shape[1] // 2
    radius = (halves[:, :pairs] >> np.uint32(1)).view(np.int32).astype(np.float32)
    radius += np.float32(0.5)
    radius *= np.float32(2**-31)
    np.log(radius, out=radius)
    radius *= np.float32(-2)
    np.sqrt(radius, out=radius)
    angle = halves[:, pairs:].view(np.int32).astype(np.float32)
    angle *= np.float32(np.pi * 2**-31)
    cosine, sine = target[:, :pairs], target[:, pairs:]
    np.cos(angle, out=cosine)
    np.sin(angle, out=sine)
    cosine *= radius
    sine *= radius


def one_by_one(
    streams: RandomStreams,
    purpose: Purpose,
    samples: Sequence[Sample],
    size: int,
    posterior: bool,
    memory: Sequence[Floats] | None = None,
) -> Numbers:
    """The numbers that older versions drew for these samples. Trainings that began with them go on with them."""
    count = len(samples)
    uniform, lot, normal = (np.empty(count, np.float32) for _ in range(3))
    noise, drawn = memory or [np.empty((count, size), np.float32) for _ in range(2)]
    for i, (epoch, row) in enumerate(samples):
        generator = streams.at(purpose, epoch, row)
        uniform[i], lot[i] = generator.random(2, np.float32)
        normal[i] = generator.standard_normal(dtype=np.float32)
        generator.standard_normal(out=noise[i], dtype=np.float32)
        if posterior:
            generator.standard_normal(out=drawn[i], dtype=np.float32)
    return Numbers(uniform, lot, normal, noise, drawn if posterior else None)
