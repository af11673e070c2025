"""The figures of a training as curves: any part of them, in few points, while the training goes on.

Covers: reading what was added to `metrics.jsonl` since the last look, a window of a curve in buckets.
Does not cover: writing figures (`train.metrics`), drawing curves.

A curve of 500,000 steps has more points than a screen has columns. A window is cut into buckets of equally many points,
and each tells its smallest, mean and largest value, so no spike is lost.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.store.run_folder import RunFolder

_TAIL = 256
"""Bytes before the place up to which a file was read. If they are others now, the file was written anew."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a curve.

    Attributes:
        steps: the last step of each bucket, `int64[buckets]`.
        low, mean, high: smallest, mean and largest value in it, `float64[buckets]`. With few points each bucket holds
            one, and the three are equal.
    """

    steps: npt.NDArray[np.int64]
    low: Values
    mean: Values
    high: Values


class Curves:
    """The figures of one training. Each question first reads what is new. It may be asked by several threads.

    Args:
        folder: the run folder.
        prefix: `train`, or `train-vae`.
    """

    def __init__(self, folder: RunFolder, prefix: str = "train") -> None:
        self._folder, self._name = folder, f"{prefix}/metrics.jsonl"
        self._turn = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._read, self._tail = 0, b""
        self._steps: dict[str, list[npt.NDArray[np.int64]]] = {}
        self._values: dict[str, list[Values]] = {}

    def figures(self) -> Mapping[str, int]:
        """Name of each figure -> its last step; empty before a training."""
        with self._turn:
            self._catch_up()
            return {name: int(parts[-1][-1]) for name, parts in self._steps.items()}

    def window(self, figure: str, first: float = 0, last: float = float("inf"), points: int = 600) -> Window:
        """The part of a curve between two steps.

        Args:
            figure: its name, e.g. `loss`. A figure that was never measured has no points.
            first, last: steps; both count.
            points: most buckets of the result.
        """
        with self._turn:
            self._catch_up()
            steps, values = self._whole(figure)
        start, stop = np.searchsorted(steps, first, "left"), np.searchsorted(steps, last, "right")
        return _in_buckets(steps[start:stop], values[start:stop], max(1, points))

    def _whole(self, figure: str) -> tuple[npt.NDArray[np.int64], Values]:
        """A curve as one array. The parts are joined once, so that the next question is fast."""
        if figure not in self._steps:
            return np.empty(0, np.int64), np.empty(0)
        if len(self._steps[figure]) > 1:
            self._steps[figure] = [np.concatenate(self._steps[figure])]
            self._values[figure] = [np.concatenate(self._values[figure])]
        return self._steps[figure][0], self._values[figure][0]

    def _catch_up(self) -> None:
        """Read the lines that were added. A training that goes on from an earlier step writes the file anew."""
        try:
            data = self._new_bytes()
        except FileNotFoundError:
            self._forget()
            return
        whole = data[: data.rfind(b"\n") + 1]  # the last line may be half written
        self._read += len(whole)
        self._tail = (self._tail + whole)[-_TAIL:]
        for name, (steps, values) in _figures_in(whole).items():
            self._steps.setdefault(name, []).append(steps)
            self._values.setdefault(name, []).append(values)

    def _new_bytes(self) -> bytes:
        """What the file holds behind the place up to which it was read; all of it, if it was written anew."""
        start = self._read - len(self._tail)
        if self._folder.is_local:
            with self._folder.local_path(self._name).open("rb") as file:
                file.seek(start)
                data = file.read()
                if data.startswith(self._tail):
                    return data[len(self._tail) :]
                self._forget()
                file.seek(0)
                return file.read()
        data = self._folder.read(self._name)
        if data[start:].startswith(self._tail):
            return data[self._read :]
        self._forget()
        return data


def _figures_in(data: bytes) -> dict[str, tuple[npt.NDArray[np.int64], Values]]:
    """Figure -> its steps and finite values in some lines."""
    if not data:
        return {}
    try:
        return _by_arrow(data)
    except (ValueError, KeyError):  # a damaged line; pyarrow's errors are ValueErrors
        return _by_line(data)


def _by_arrow(data: bytes) -> dict[str, tuple[npt.NDArray[np.int64], Values]]:
    """As `_figures_in`, ten times as fast as line by line."""
    import pyarrow as pa
    from pyarrow import compute
    from pyarrow import json as arrow_json

    block = arrow_json.ReadOptions(block_size=max(2**20, min(len(data), 2**26)))
    table = arrow_json.read_json(io.BytesIO(data), read_options=block)
    steps = table["step"]
    if not pa.types.is_integer(steps.type) or steps.null_count:
        raise ValueError("a step is missing")
    found = {}
    for name in table.column_names:
        column = table[name]
        if name == "step" or not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            continue
        there = compute.is_valid(column)
        values = column.filter(there).to_numpy().astype(np.float64)
        own = steps.filter(there).to_numpy().astype(np.int64)
        finite = np.isfinite(values)
        if finite.any():
            found[name] = own[finite], values[finite]
    return found


def _by_line(data: bytes) -> dict[str, tuple[npt.NDArray[np.int64], Values]]:
    """As `_figures_in`. Lines that cannot be read are passed over."""
    points: dict[str, list[tuple[int, float]]] = {}
    for text in data.splitlines():
        try:
            line: Any = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            continue
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float) and np.isfinite(value):
                points.setdefault(name, []).append((line["step"], float(value)))
    return {
        name: (np.array([step for step, _ in found], np.int64), np.array([value for _, value in found]))
        for name, found in points.items()
    }


def _in_buckets(steps: npt.NDArray[np.int64], values: Values, points: int) -> Window:
    """The values in at most `points` buckets of equally many."""
    if len(steps) <= points:
        return Window(steps, values, values, values)
    edges = np.linspace(0, len(steps), points + 1).astype(np.int64)
    begins = edges[:-1]
    sums, counts = np.add.reduceat(values, begins), np.diff(edges)
    low, high = np.minimum.reduceat(values, begins), np.maximum.reduceat(values, begins)
    return Window(steps[edges[1:] - 1], low, sums / counts, high)
