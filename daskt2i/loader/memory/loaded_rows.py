"""Decoded rows of one shard in few arrays, and what a batch takes of them.

Covers: the arrays, filling them from decoded blocks, rows copied into the arrays of a batch.
Does not cover: decoding (`inner_chunks`), which rows (`shards`), when they are freed (`upcoming_rows`).

A copy for each row would take most of the time of reading: each is a call of some microseconds, in which threads wait
for each other. So many rows are copied with one call. Texts have different lengths. They lie one after the other in one
array of tokens, and a row knows where its texts begin.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.loader.sample_order import Sample, Whole

Values = npt.NDArray[np.float16] | npt.NDArray[np.float32]
"""As the store has them: float16, or float32 for every wider dtype. In float16 a value above 65,504 is infinite."""


@dataclass(frozen=True, slots=True)
class LoadedRows:
    """n decoded rows with k captions each: all slots of a row, or only the one of the sample's epoch.

    Attributes:
        samples: (epoch, row) of each; the epoch is negative if all captions are loaded.
        mean, std: `float16[n, c, y, x]` or `float32`, raw; std is None if nothing is drawn from the posterior.
        captions: `int64[n]`, number of captions of each row.
        slots: `int64[n]`, slot of the caption; None if all are loaded.
        mask: `bool[n, k, token]`.
        begins, lengths: `int64[n, k]`, where the tokens of a caption begin in `tokens`, and how many they are.
        tokens: `float16[t + 1, feature]` or `float32`. The last one is zeros, for padding.
        extra: other arrays of the store, `[n, ...]`, by name.
        mirrored: `bool[n]`, whether the latent is that of the mirrored picture; None if none is.
    """

    samples: Sequence[Sample]
    mean: Values
    std: Values | None
    captions: Whole
    slots: Whole | None
    mask: npt.NDArray[np.bool_]
    begins: Whole
    lengths: Whole
    tokens: Values
    extra: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    mirrored: npt.NDArray[np.bool_] | None = None

    @property
    def nbytes(self) -> int:
        std = 0 if self.std is None else self.std.nbytes
        extra = sum(one.nbytes for one in self.extra.values())
        return self.mean.nbytes + std + self.mask.nbytes + self.tokens.nbytes - self.tokens[-1:].nbytes + extra

    def first_numbers(self) -> Values:
        """One number of each latent and caption. A shard that is missing has only NaN."""
        latents = [one.reshape(len(one), -1)[:, 0] for one in (self.mean, self.std) if one is not None and one.size]
        texts = [self.tokens[self.begins[self.lengths > 0], 0]] if self.tokens.size else []
        return np.concatenate([*latents, *texts]) if latents or texts else self.mean.ravel()

    def fill_rows(
        self, target: Values, block: npt.NDArray[Any], first: int, only: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Copy the rows of a decoded block that begins with row `first` into `target`, `mean` or `std`.

        Args:
            only: `bool[n]`, the rows to copy; None for all that the block has.
        """
        low, high = self._within(first, len(block))
        if low == high:
            return
        rows = np.array([row - first for _, row in self.samples[low:high]])
        if only is None:
            np.take(block, rows, axis=0, out=target[low:high], mode="clip")
        else:
            target[low:high][only[low:high]] = block[rows[only[low:high]]]

    def fill_tokens(self, block: npt.NDArray[Any], first: int) -> None:
        """Copy the texts of a decoded block, `[row, slot, token, feature]`, that begins with row `first`."""
        low, high = self._within(first, len(block))
        if low == high:
            return
        _, slots, width, features = block.shape
        rows = np.array([row - first for _, row in self.samples[low:high]])
        chosen = np.arange(slots)[None] if self.slots is None else self.slots[low:high, None]
        places = ((rows[:, None] * slots + chosen) * width).ravel()
        lengths = self.lengths[low:high].ravel()
        begin, count = int(self.begins[low, 0]), int(lengths.sum())
        ends = np.cumsum(lengths)
        tokens = np.repeat(places - (ends - lengths), lengths) + np.arange(count)
        target = self.tokens[begin : begin + count]
        np.take(block.reshape(-1, features), tokens, axis=0, out=target, mode="clip")

    def copy_tokens(self, rows: Whole, kept: Whole, target: Values, places: Whole) -> None:
        """Copy texts with zeros behind them to places of a batch, `[b, width, feature]`.

        Args:
            rows: index of each row here.
            kept: index of its caption among the k that are loaded.
        """
        count, width, features = len(rows), target.shape[1], target.shape[2]
        column = np.arange(width)
        begins, lengths = self.begins[rows, kept][:, None], self.lengths[rows, kept][:, None]
        tokens = np.where(column < lengths, begins + column, len(self.tokens) - 1).ravel()
        flat = target.reshape(-1, features)
        if _in_turn(places):
            first = int(places[0]) * width
            np.take(self.tokens, tokens, axis=0, out=flat[first : first + count * width], mode="clip")
        else:
            target[places] = self.tokens[tokens].reshape(count, width, features)

    def _within(self, first: int, count: int) -> tuple[int, int]:
        """First and last index of the rows of a block, which are in ascending order."""
        by_row: Any = {"key": lambda sample: sample[1]}
        return bisect_left(self.samples, first, **by_row), bisect_left(self.samples, first + count, **by_row)


Group = tuple[LoadedRows, Whole, Whole]
"""(rows, indexes of rows among them, their places in a batch)"""


def copy_rows(source: npt.NDArray[Any], rows: Whole, target: npt.NDArray[Any], places: Whole) -> None:
    """Copy rows of `source` to ascending places of a batch."""
    if _in_turn(places):
        np.take(source, rows, axis=0, out=target[int(places[0]) : int(places[0]) + len(rows)], mode="clip")
    else:
        target[places] = source[rows]


def _in_turn(places: Whole) -> bool:
    return int(places[-1]) - int(places[0]) == len(places) - 1
