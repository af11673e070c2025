"""The figures of a training run on disk: `metrics.jsonl`, one JSON object per line, and TensorBoard events.

Covers: appending figures, and dropping the steps after a checkpoint, so that each step is in the file once.
Does not cover: the figures themselves (`loop`).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from daskt2i.formatting import many
from daskt2i.store.run_folder import RunFolder

METRICS = "train/metrics.jsonl"
EVENTS = "train/events"

NEW = "new_"
"""Begins the name of a figure that is a setting: it counts from the step of its line on (`new_learning_rate`)."""


class Metrics:
    """Figures by step. Lines of steps after `step` are dropped, because these steps run again.

    In a remote run folder both files are written only by `flush`.

    Args:
        step: the last step to keep; 0 for a fresh start.
        prefix: folder inside the run folder, `train` or `train-vae`.
    """

    def __init__(self, folder: RunFolder, step: int = 0, prefix: str = "train") -> None:
        self.folder = folder
        self._name = f"{prefix}/metrics.jsonl"
        self._remote = None if folder.is_local else tempfile.TemporaryDirectory(prefix="daskt2i-")
        self._events_name = f"{prefix}/events"
        lines = read_metrics(folder, prefix)
        # A setting that changed after the last kept step did so in a run that wrote no checkpoint.
        kept = [one for one in lines if one["step"] < step or (one["step"] == step and not _is_change(one))]
        folder.write(self._name, "".join(json.dumps(line) + "\n" for line in kept).encode())
        if self._remote is None:
            self._path = folder.local_path(self._name)
            events = folder.local_path(self._events_name)
        else:
            self._path = Path(self._remote.name) / "metrics.jsonl"
            self._path.write_bytes(folder.read(self._name))
            events = Path(self._remote.name) / "events"
        from torch.utils.tensorboard import SummaryWriter

        _quiet_board()
        with folder.explaining(f"write {self._events_name}"):
            # With purge_step TensorBoard hides the figures that an earlier writer wrote for later steps.
            self._board: Any = SummaryWriter(str(events), purge_step=step + 1)

    def add(self, step: int, **figures: float) -> None:
        """Add figures of one step, which must be finite. A step may have several lines with different names.

        Raises:
            StoreFull, StoreError: the figures cannot be written; earlier lines are kept.
        """
        line = {"step": step, **{name: _rounded(value) for name, value in figures.items()}}
        with self.folder.explaining(f"write {self._name}"), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        with self.folder.explaining(f"write {self._events_name}"):
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write all figures to the run folder, and to its disk.

        Raises:
            StoreFull, StoreError: the figures cannot be written.
        """
        with self.folder.explaining(f"write {self._events_name}"):
            self._board.flush()
        if self._remote is None:
            with self.folder.explaining(f"write {self._name}"), self._path.open("rb") as file:
                os.fsync(file.fileno())
            return
        self.folder.write(self._name, self._path.read_bytes())
        for path in sorted((Path(self._remote.name) / "events").iterdir()):
            self.folder.write(f"{self._events_name}/{path.name}", path.read_bytes())

    def close(self) -> None:
        """Flush and close the files. Raises the same errors as `flush`."""
        try:
            self.flush()
        finally:
            with self.folder.explaining(f"write {self._events_name}"):
                self._board.close()
            if self._remote is not None:
                self._remote.cleanup()


def read_metrics(folder: RunFolder, prefix: str = "train") -> list[dict[str, Any]]:
    """All lines, in the order of steps, without incomplete lines."""
    try:
        text = folder.read(f"{prefix}/metrics.jsonl").decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    lines: list[dict[str, Any]] = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(line)
            if isinstance(found, Mapping) and isinstance(found.get("step"), int):
                lines.append(dict(found))
    return lines


def _quiet_board() -> None:
    """Print no traceback of TensorBoard's thread, such as on a full disk: it keeps its error, and the next call of it
    raises that."""
    printed = threading.excepthook
    if getattr(printed, "__module__", "") == __name__:
        return

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            printed(args)

    threading.excepthook = hook


def _is_change(line: Mapping[str, Any]) -> bool:
    return any(name.startswith(NEW) for name in line)


def _rounded(value: float) -> float:
    """Round to nine significant digits, which represent a float32 exactly."""
    return float(f"{value:.9g}")


def loss_curves(
    lines: Sequence[Mapping[str, Any]], most: int = 240
) -> tuple[tuple[tuple[int, float], ...], tuple[tuple[int, float], ...]]:
    """Loss and held-out loss by step, for a chart.

    Args:
        lines: the result of `read_metrics`.
        most: maximum number of points of each curve. If there are more steps, neighbours are averaged.
    """
    return _thinned(lines, "loss", most), _thinned(lines, "heldout_loss", most)


def _thinned(lines: Sequence[Mapping[str, Any]], name: str, most: int) -> tuple[tuple[int, float], ...]:
    points = [(int(line["step"]), float(line[name])) for line in lines if name in line]
    points = [point for point in points if math.isfinite(point[1])]
    size = max(1, -(-len(points) // most))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return tuple((group[-1][0], sum(value for _, value in group) / len(group)) for group in groups)


LAST_STEPS = 50
"""Steps of the mean loss that results tell: the loss of one step is too noisy."""


def mean_loss(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean loss of the last `LAST_STEPS` steps; None without steps."""
    losses = [line["loss"] for line in lines if "loss" in line][-LAST_STEPS:]
    return sum(losses) / len(losses) if losses else None


def loss_words(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The losses at the end with their names: `["mean loss of the last 50 steps 0.1234", "held-out loss 0.1301"]`."""
    found, steps = mean_loss(lines), min(LAST_STEPS, sum("loss" in line for line in lines))
    words = [f"mean loss of the last {many(steps, 'step')} {found:.4f}"] if found is not None else []
    heldout = [line["heldout_loss"] for line in lines if "heldout_loss" in line][-1:]
    return words + [f"held-out loss {one:.4f}" for one in heldout]
