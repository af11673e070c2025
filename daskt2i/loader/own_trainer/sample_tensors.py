"""The tensors of a batch for a trainer that is not ours.

Covers: latents drawn from the posterior and scaled, texts with their masks, other columns.
Does not cover: noise and times, which a trainer draws; which samples (`epochs`); rows in memory (`loader.memory`).

For the same seed, epoch and row the latents are those of our own trainer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.loader.batch_arrays import AT_ONCE, PerThread, Placed, as_float32, grouped, slots_of
from daskt2i.loader.joined.joined_reader import AnyReader
from daskt2i.loader.memory.loaded_rows import Group, Values, copy_rows
from daskt2i.loader.memory.used_again import Blocks
from daskt2i.loader.own_trainer.columns import LATENTS, TEXT, TEXT_MASK
from daskt2i.loader.random_numbers import draw_posterior
from daskt2i.loader.sample_order import Purpose, Sample, Whole
from daskt2i.loader.shards import Captions, Floats

Tensors = dict[str, Any]
"""Column -> a tensor, or a list of texts; and `row`, `caption_index`."""


class SampleTensors:
    """Makes the tensors of batches. Several threads may call it.

    Args:
        reader: the store of the rows.
        key: key of the random numbers.
        columns: the columns of a sample.
        captions: which captions of a row.
        whole_text: whether texts have all tokens of the encoder, and not only as many as the longest of the batch.
    """

    def __init__(
        self, reader: AnyReader, key: int, columns: Sequence[str], captions: Captions, whole_text: bool = False
    ) -> None:
        self._reader, self._columns, self._captions = reader, columns, captions
        self._whole_text = whole_text
        self._blocks = Blocks()
        self._mine = PerThread(key)

    def make(self, samples: Sequence[Sample], found: Sequence[Placed], purpose: Purpose) -> Tensors:
        """Samples as tensors, each from its row."""
        import torch

        parts = grouped(found)
        made: Tensors = {}
        if LATENTS in self._columns:
            made[LATENTS] = torch.from_numpy(self._latents(samples, parts, purpose))
        draws = self._reader.slots > 1 and self._captions == "random"
        slots, kept = slots_of(parts, samples, self._mine, draws, self._reader.weights)
        if TEXT in self._columns or TEXT_MASK in self._columns:
            mask, states = self._texts(len(samples), parts, kept)
            if states is not None:
                made[TEXT] = torch.from_numpy(states)
            made[TEXT_MASK] = torch.from_numpy(mask)
        for name in self._columns:
            if name not in (LATENTS, TEXT, TEXT_MASK):
                made[name] = _extra(name, len(samples), parts)
        made["row"] = torch.tensor([row for _, row in samples], dtype=torch.int64)
        if self._captions != "all":
            made["caption_index"] = torch.from_numpy(slots)
        return made

    def close(self) -> None:
        """Free the memory that nobody holds."""
        self._blocks.close()

    def _latents(self, samples: Sequence[Sample], parts: Sequence[Group], purpose: Purpose) -> Floats:
        reader, count = self._reader, len(samples)
        latent = parts[0][0].mean.shape[1:]  # the rows of a batch are of one bucket
        size = math.prod(latent)
        latents: Floats
        (latents,) = self._blocks.block((np.float32, (count, *latent)))
        half = self._mine.scratch("half", (1 + reader.draws, count, *latent), reader.latent_kind)
        for rows, indexes, places in parts:
            copy_rows(rows.mean, indexes, half[0], places)
            if rows.std is not None:
                copy_rows(rows.std, indexes, half[1], places)
        step = max(1, AT_ONCE // size)
        spread, drawn = (self._mine.scratch(name, (step, *latent), np.float32) for name in ("spread", "drawn"))
        for first in range(0, count, step):
            some = latents[first : first + step]
            as_float32(half[0, first : first + step], some)
            if reader.draws:
                part = spread[: len(some)]
                as_float32(half[1, first : first + step], part)
                numbers = drawn[: len(some)]
                draw_posterior(
                    self._mine.streams(), purpose, samples[first : first + step], numbers.reshape(len(some), size)
                )
                part *= numbers
                some += part
            reader.final(some)
        return latents

    def _texts(self, count: int, parts: Sequence[Group], kept: Whole) -> tuple[npt.NDArray[np.bool_], Values | None]:
        """Masks, and states unless only the masks are wanted."""
        reader = self._reader
        slots = reader.slots if self._captions == "all" else 1
        mask = np.empty((count, slots, reader.tokens), np.bool_)
        for rows, indexes, places in parts:
            mask[places] = rows.mask[indexes] if self._captions == "all" else rows.mask[indexes, kept[places]][:, None]
        width = reader.tokens if self._whole_text else int(reader.widths(mask).max())
        states: Values | None = None
        if TEXT in self._columns:
            (states,) = self._blocks.block((reader.text_kind, (slots, count, width, reader.features)))
            assert states is not None
            for slot in range(slots):
                for rows, indexes, places in parts:
                    chosen = np.full(len(indexes), slot) if self._captions == "all" else kept[places]
                    rows.copy_tokens(indexes, chosen, states[slot], places)
            states = states[0] if slots == 1 and self._captions != "all" else states.swapaxes(0, 1)
        mask = np.ascontiguousarray(mask[..., :width])
        return (mask if self._captions == "all" else mask[:, 0]), states


def _extra(name: str, count: int, parts: Sequence[Group]) -> Any:
    """A column as it is stored: a tensor, or a list of texts."""
    import torch

    like = parts[0][0].extra[name]
    values = np.empty((count, *like.shape[1:]), like.dtype)
    for rows, indexes, places in parts:
        values[places] = rows.extra[name][indexes]
    return values.tolist() if values.dtype == object else torch.from_numpy(values)
