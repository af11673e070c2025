"""The arrays of a batch: rows that are in memory, with their random numbers.

Covers: gathering rows and captions, dropout, the draw from the posterior, scaling.
Does not cover: which samples a batch has (`dataset`), decoded rows (`loaded_rows`), random numbers (`random_numbers`).

The large arrays of a batch lie in a block of memory that is used again when nobody holds the batch (`used_again`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.loader.joined.joined_reader import AnyReader
from daskt2i.loader.joined.size_conditions import Sized, sized_of
from daskt2i.loader.memory.loaded_rows import Group, LoadedRows, Values, copy_rows
from daskt2i.loader.memory.used_again import Blocks
from daskt2i.loader.random_numbers import Draw
from daskt2i.loader.sample_order import Purpose, RandomStreams, Sample, Weights, Whole
from daskt2i.loader.shards import POOLED, Floats

AT_ONCE = 32_000
"""Numbers that are computed together. They stay in the cache of a core, and torch starts threads for 32,768 or more,
though a batch is made in one of several threads."""

Placed = tuple[LoadedRows, int]
"""(rows, index of a row among them)"""


@dataclass(frozen=True, slots=True)
class Batch:
    """A rank's part of a batch.

    Attributes:
        latents: `float32[b, channel, y, x]`, scaled and shifted for the denoiser.
        noise: `float32[b, channel, y, x]`, standard normal.
        uniform: `float32[b]` in [0, 1); it chooses the step of a schedule.
        normal: `float32[b]`, standard normal; it chooses the time of flow.
        text_states: `float16[b, token, feature]` or `float32`, of the chosen captions.
        text_mask: `bool[b, token]`, True for tokens of the caption.
        rows: `int64[b]`, rows of the store.
        slots: `int64[b]`, index of the caption in the row; -1 if the empty prompt replaces it.
        sized: sizes, crops and pooled text, for a model that is told them; None for others.
    """

    latents: Floats
    noise: Floats
    uniform: Floats
    normal: Floats
    text_states: Values
    text_mask: npt.NDArray[np.bool_]
    rows: Whole
    slots: Whole
    sized: Sized | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> Batch:
        values = (getattr(self, field.name) for field in fields(self))
        parts: list[Any] = [None if value is None else value[part] for value in values]
        return Batch(*parts)


class BatchArrays:
    """Makes batches. Several threads may call it.

    Args:
        reader: the store of the rows.
        key: key of the random numbers.
        draw: how the random numbers are made.
        dropout: share of captions replaced by the empty prompt.
    """

    def __init__(self, reader: AnyReader, key: int, draw: Draw, dropout: float) -> None:
        self._reader, self._draw, self._dropout = reader, draw, dropout
        self._blocks = Blocks()
        self._mine = PerThread(key)

    def make(self, samples: Sequence[Sample], found: Sequence[Placed], purpose: Purpose) -> Batch:
        """Samples as arrays, each from its row."""
        reader, streams, count = self._reader, self._mine.streams(), len(samples)
        latent = found[0][0].mean.shape[1:]  # the rows of a batch are of one bucket
        shape, size = (count, *latent), math.prod(latent)
        text_shape = (count, reader.tokens, reader.features)
        noise, latents, text = self._blocks.block(
            (np.float32, shape), (np.float32, shape), (reader.text_kind, text_shape)
        )
        drawn = self._mine.scratch("drawn", (count, size), np.float32)
        numbers = self._draw(streams, purpose, samples, size, reader.draws, (noise.reshape(count, size), drawn))
        dropped = numbers.lot < (self._dropout if purpose == Purpose.SAMPLE else 0.0)
        groups = grouped(found)
        slots, kept = slots_of(groups, samples, self._mine, reader.slots > 1, reader.weights)
        mask = np.empty((count, *reader.empty_mask.shape), np.bool_)
        half = self._mine.scratch("half", (1 + reader.draws, *shape), reader.latent_kind)
        for rows, indexes, places in groups:
            mask[places] = rows.mask[indexes, kept[places]]
            copy_rows(rows.mean, indexes, half[0], places)
            if rows.std is not None:
                copy_rows(rows.std, indexes, half[1], places)
        mask[dropped] = reader.empty_mask
        slots[dropped] = -1
        width = int(reader.widths(mask).max())
        text = text.ravel()[: count * width * reader.features].reshape(count, width, reader.features)
        for rows, indexes, places in groups:
            rows.copy_tokens(indexes, kept[places], text, places)
        text[dropped] = reader.empty_states[:width]
        step = max(1, AT_ONCE // size)
        spread = self._mine.scratch("spread", (step, *latent), np.float32)
        for first in range(0, count, step):
            some = latents[first : first + step]
            as_float32(half[0, first : first + step], some)
            if reader.draws:
                part = spread[: len(some)]
                as_float32(half[1, first : first + step], part)
                part *= drawn[first : first + step].reshape(part.shape)
                some += part
            reader.final(some)
        return Batch(
            latents,
            noise,
            numbers.uniform,
            numbers.normal,
            text,
            np.ascontiguousarray(mask[:, :width]),
            np.array([row for _, row in samples], np.int64),
            slots,
            sized_of(reader, samples, groups, slots) if POOLED in found[0][0].extra else None,
        )

    def close(self) -> None:
        """Free the memory that nobody holds."""
        self._blocks.close()


def grouped(found: Sequence[Placed]) -> list[Group]:
    """The samples of a batch by the rows that were loaded together."""
    by_rows: dict[int, tuple[LoadedRows, list[int], list[int]]] = {}
    for place, (rows, index) in enumerate(found):
        _, indexes, places = by_rows.setdefault(id(rows), (rows, [], []))
        indexes.append(index)
        places.append(place)
    return [(rows, np.array(indexes), np.array(places)) for rows, indexes, places in by_rows.values()]


def as_float32(half: Values, made: Floats) -> None:
    """The same numbers in single precision. torch converts with SIMD, eight times as fast as numpy."""
    import torch

    target, given = torch.from_numpy(made.ravel()), torch.from_numpy(half.ravel())
    for start in range(0, half.size, AT_ONCE):
        target[start : start + AT_ONCE].copy_(given[start : start + AT_ONCE])


class PerThread:
    """What each thread that makes batches keeps for its next batch.

    Args:
        key: of the random numbers of a training.
    """

    def __init__(self, key: int) -> None:
        self._mine, self._key = threading.local(), key

    def streams(self) -> RandomStreams:
        """The random numbers of this thread. Making them takes 300 microseconds."""
        if not hasattr(self._mine, "streams"):
            self._mine.streams = RandomStreams(self._key)
        found: RandomStreams = self._mine.streams
        return found

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        """Memory of this thread that is used again in its next batch."""
        wanted = math.prod(shape)
        found = getattr(self._mine, name, None)
        if found is None or len(found) < wanted:
            found = np.empty(wanted, dtype)
            setattr(self._mine, name, found)
        made: npt.NDArray[Any] = found[:wanted].reshape(shape)
        return made


def slots_of(
    groups: Sequence[Group], samples: Sequence[Sample], mine: PerThread, draws: bool, weights: Weights | None
) -> tuple[Whole, Whole]:
    """Slot of the caption of each sample in its row, and its index among the captions that are loaded.

    Args:
        draws: whether a caption is drawn; else the first one is taken.
        weights: how often each slot is drawn.
    """
    slots, kept = np.zeros((2, len(samples)), np.int64)
    for rows, indexes, places in groups:
        if rows.slots is not None:
            slots[places] = rows.slots[indexes]
        elif draws:
            streams, counts = mine.streams(), rows.captions[indexes].tolist()
            for place, n in zip(places.tolist(), counts, strict=True):
                epoch, row = samples[place]
                slots[place] = kept[place] = streams.slot(epoch, row, n, weights)
    return slots, kept
