"""A task of milliseconds for the tests of the loop, in this process and as a rank."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.config
import numpy as np

from daskt2i.config.settings import LaunchSettings, OptimiserSettings
from daskt2i.config.workflow_file import load_defaults
from daskt2i.launch import rank as ranks
from daskt2i.store.run_folder import RunFolder
from daskt2i.train import loop
from daskt2i.train.metrics import read_metrics

STEPS, BATCH = 12, 8
IDENTITY = {"train": {"seed": 0, "learning_rate": 0.01}}


@dataclass(frozen=True)
class Batch:
    """Tensors `float32[b, 3, 6, 6]`, and what is wrong with them."""

    pixels: Any
    target: Any
    what: str

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, part: slice) -> Batch:
        return Batch(self.pixels[part], self.target[part], self.what)


class Toy:
    """A small convolution, in channels_last as the real models are, learns to halve a picture and shift it.

    Args:
        spoil: by step, what is wrong there: `loss` or `gradient` is no number, or the process comes to its `end`.
        width: channels inside.
    """

    def __init__(self, rank: int = 0, world: int = 1, spoil: dict[int, str] | None = None, width: int = 6) -> None:
        self.rank, self.world, self.spoil, self.width = rank, world, spoil or {}, width
        self.closed = False
        self.device = "cpu"
        self.learning: list[bool] = []

    def build(self, device: str) -> Any:
        import torch
        from torch import nn

        self.device = device
        torch.manual_seed(0)
        first, last = nn.Conv2d(3, self.width, 3, padding=1), nn.Conv2d(self.width, 3, 3, padding=1)
        layers = first, nn.SiLU(), nn.Dropout(0.0), last
        if self.width > 6:
            layers = (
                *layers[:3],
                nn.Conv2d(self.width, 2 * self.width, 1),
                nn.Conv2d(2 * self.width, self.width, 1),
                last,
            )
        return nn.Sequential(*layers).to(device).to(memory_format=torch.channels_last)

    def batches(self, position: int) -> Iterator[Batch]:
        share = BATCH // self.world
        while (what := self.spoil.get(position // BATCH + 1, "")) != "end":
            yield self._batch(range(position + self.rank * share, position + (self.rank + 1) * share), what)
            position += BATCH

    def _batch(self, rows: range, what: str = "") -> Batch:
        import torch

        pixels = np.stack([np.random.default_rng(row).standard_normal((3, 6, 6), np.float32) for row in rows])
        target = np.roll(pixels, 1, axis=2) * np.float32("nan" if what == "loss" else 0.5)
        inputs = torch.from_numpy(pixels).to(memory_format=torch.channels_last)
        return Batch(inputs.to(self.device), torch.from_numpy(target).to(self.device), what)

    def loss(self, model: Any, batch: Batch) -> tuple[Any, dict[str, Any]]:
        made = model(batch.pixels).float()
        loss = (made - batch.target).square().mean()
        if batch.what == "gradient":
            loss = loss + (made * 0).sum().sqrt()  # nothing is added, with an infinite slope
        return loss, {"mean": made.detach().mean()}

    def heldout(self, model: Any) -> tuple[float, int, dict[str, float]]:
        self.learning.append(model.training)
        size = 4 // self.world
        batch = self._batch(range(10**6 + self.rank * size, 10**6 + (self.rank + 1) * size))
        return float(self.loss(model, batch)[0]) * size, size, {"rows": float(size)}

    def finish(self, model: Any, folder: RunFolder) -> dict[str, Any]:
        weights = b"".join(p.detach().cpu().contiguous().numpy().tobytes() for p in model.parameters())
        folder.write("weights", weights)
        return {"weights": "weights"}

    def close(self) -> None:
        self.closed = True


class Drawing(Toy):
    """One that draws as well."""

    def sheet(self, model: Any, step: int, folder: RunFolder) -> str:
        folder.write(f"sheets/{step}", str(float(next(model.parameters()).sum())).encode())
        return f"sheets/{step}"


class Dying(Toy):
    """One whose last rank is killed at a step, once."""

    def __init__(self, rank: int, world: int, step: int, mark: Path, width: int) -> None:
        super().__init__(rank, world, width=width)
        self.step, self.mark = step, mark

    def batches(self, position: int) -> Iterator[Batch]:
        for step, batch in enumerate(super().batches(position), position // BATCH + 1):
            if step == self.step and self.rank == self.world - 1 and not self.mark.exists():
                self.mark.touch()
                os.kill(os.getpid(), 9)
            yield batch


def settings(**changes: Any) -> OptimiserSettings:
    chosen = {
        "steps": STEPS,
        "batch": BATCH,
        "learning_rate": 1e-2,
        "warmup": 3,
        "ema": 0.9,
        "validation": 4,
        **changes,
    }
    return OptimiserSettings.model_validate(chosen)


def launching(**changes: Any) -> LaunchSettings:
    load_defaults()
    chosen = {"precision": "fp32", "device": "cpu", "checkpoint_every": 4, "validation_every": 6, **changes}
    return LaunchSettings.model_validate({**dask.config.get("daskt2i.launch"), **chosen})


def run_folder(folder: Path | RunFolder) -> RunFolder:
    return folder if isinstance(folder, RunFolder) else RunFolder(folder)


def fit(folder: Path | RunFolder, task: Any = None, identity: Any = None, **changes: Any) -> dict[str, Any]:
    """All steps on one rank in this process. Changes go to the settings that have such a name."""
    how = {name: changes.pop(name) for name in list(changes) if name in LaunchSettings.model_fields}
    return loop.fit(
        task or Toy(), settings(**changes), launching(**how), run_folder(folder), identity or IDENTITY
    )  # fmt: skip


def fit_with(folder: Path | RunFolder, task: Any = None, **changes: Any) -> dict[str, Any]:
    """The same with an identity that holds the settings, as that of a real training does."""
    how = {name: changes.pop(name) for name in list(changes) if name in LaunchSettings.model_fields}
    identity = {"train": {**settings(**changes).model_dump(mode="json"), **IDENTITY["train"], **changes}}
    return loop.fit(task or Toy(), settings(**changes), launching(**how), run_folder(folder), identity)


def losses(folder: Path | RunFolder, name: str = "loss") -> list[float]:
    """By step; each step must be there once."""
    lines = [line for line in read_metrics(run_folder(folder)) if name in line]
    if name == "loss":
        assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line[name] for line in lines]


def main() -> None:
    """As a rank."""
    job, me = ranks.job(), ranks.rank()
    task = Dying(me.rank, me.world, job["die_at"], Path(job["folder"], "died"), job.get("width", 6))
    loop.fit(task, settings(**job["settings"]), launching(**job["launch"]), RunFolder(job["folder"]), IDENTITY)


if __name__ == "__main__":
    main()
