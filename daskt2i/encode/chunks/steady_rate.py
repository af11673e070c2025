"""The steady rate of a calibration: what a row and a chunk cost while all workers are busy.

Covers: a finished chunk with its time, seconds for a row and for a chunk, seconds of each stage.
Does not cover: which chunks are encoded and when (`encode.calibration`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from daskt2i.types import Receipt


@dataclass(frozen=True, slots=True)
class FinishedChunk:
    """One finished chunk: the time, whether it counts for the steady rate, and its receipt."""

    at: float
    steady: bool
    receipt: Receipt

    @property
    def rows(self) -> int:
        return self.receipt.stop - self.receipt.start

    def took(self, *without: str) -> float:
        """Seconds on the worker, without the stages that are named."""
        seconds = self.receipt.seconds
        return seconds["total"] - sum(seconds.get(stage, 0.0) for stage in without)


def steady_rate(lanes: Mapping[str, Sequence[FinishedChunk]]) -> tuple[int, int, float, float]:
    """Number of chunks and rows that count, a worker's seconds for a row, and its fixed seconds for a chunk (no gate).

    A chunk's time runs from the end of the chunk before on the same worker, so it includes the wait between them.
    """
    chunks = rows = 0
    whole = fixed = gates_seconds = 0.0
    for lane in lanes.values():
        for before, seen in itertools.pairwise(lane):
            if not seen.steady:
                continue
            gate = seen.receipt.seconds.get("gate", 0.0)
            span = seen.at - before.at
            between = max(0.0, span - seen.took())
            chunks, rows = chunks + 1, rows + seen.rows
            whole, fixed, gates_seconds = whole + span, fixed + between, gates_seconds + gate
    if not chunks:  # each worker did only one chunk, so use the times that the workers measured
        alone = [seen for lane in lanes.values() for seen in lane if seen.steady]
        chunks, rows = len(alone), sum(seen.rows for seen in alone)
        gates_seconds = sum(seen.receipt.seconds.get("gate", 0.0) for seen in alone)
        whole = sum(seen.took("load") for seen in alone)
    return chunks, rows, max(0.0, whole - fixed - gates_seconds) / rows, fixed / chunks


def stage_seconds(receipts: Sequence[Receipt]) -> dict[str, float]:
    """Stage -> a worker's seconds for a row."""
    rows = sum(r.stop - r.start for r in receipts)
    names = sorted({name for r in receipts for name in r.seconds} - {"load"})
    return {name: round(sum(r.seconds.get(name, 0.0) for r in receipts) / rows, 6) for name in names}
