"""Fitting a model on one rank of many: the loop that the trainers share.

Covers: the schedule of the rate, going on from the newest checkpoint, when to save, to look at held-out rows and to
draw, figures of all ranks, stopping where they are no numbers any more.
Does not cover: what is fitted to what (a `TrainTask`: `denoiser_rank`, `autoencoder_rank`), one step of it
(`train_state`), how ranks talk (`launch.process_group`), who starts them (`launch`).

The loss curve depends on the settings and the seed, not on the number of ranks (but for the order of additions) nor on
interruptions: samples and their noise are keyed by row and epoch, torch is seeded anew at each step, and everything
else is in the checkpoint. Every rank computes the same share of each batch, so the mean of the ranks' gradients is the
gradient of the batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import textwrap
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from daskt2i.config.settings import LaunchSettings, OptimiserSettings, completed
from daskt2i.config.workflow_file import differences
from daskt2i.errors import FingerprintMismatch, NonFiniteLoss, StoreError
from daskt2i.launch import rank as ranks
from daskt2i.launch.process_group import ProcessGroup, joined
from daskt2i.machine.precision import check_device, resolve
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.checkpoint import Checkpoint, Checkpoints
from daskt2i.train.metrics import Metrics
from daskt2i.train.train_state import TrainState

if TYPE_CHECKING:
    from torch import Tensor, nn

TELL_SECONDS = 0.5
"""Shortest time between two steps that are told to the driver."""

MOST_OVERFLOWS = 50
"""Steps in a row that fp16 may leave out. The scale halves each time, from 65,536: with so many it is nothing."""

MOST_OF_AN_ERROR = 300
"""Characters of torch's own words in a sentence of ours: it names every weight that does not fit."""

QUEUED_STEPS = 10
"""Steps of a GPU between two looks at its figures, each of which stops its queue."""


class TrainTask(Protocol):
    """What is fitted. One object per rank, made there."""

    def build(self, device: str) -> nn.Module:
        """The model that is fitted, on the device, the same on every rank."""

    def batches(self, position: int) -> Iterator[Any]:
        """This rank's part of each batch, from a stream position on, without end. A batch has a length and slices."""

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over this rank's part, and figures to log. `model` is what `build` made, perhaps wrapped."""

    def heldout(self, model: nn.Module) -> tuple[float, int, dict[str, float]]:
        """Over this rank's share of the held-out rows: sum of losses, how many, and sums of other figures."""

    def finish(self, model: nn.Module, folder: RunFolder) -> dict[str, Any]:
        """On rank 0, at the end: write what comes out, and return its figures."""

    def close(self) -> None:
        """Let go of threads and files."""


@runtime_checkable
class DrawsPictures(Protocol):
    """What a `TrainTask` may have beside, to be looked at every `launch.grid_every` steps."""

    def sheet(self, model: nn.Module, step: int, folder: RunFolder) -> str | None:
        """On rank 0, under the moving average: write a picture, and return its name below the run folder.

        The other ranks wait meanwhile, for `process_group.GROUP_TIMEOUT` at most. After the last step the driver draws.
        """


def rate(settings: OptimiserSettings, step: int) -> float:
    """Learning rate of a step, counted from 0: up a line to the peak, then down a half cosine."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    low = settings.final_rate
    return settings.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def cut(batch: Any, count: int) -> list[tuple[Any, float]]:
    """A rank's batch in `count` parts as equal as can be, none of them empty, each with its share of the samples."""
    edges = np.linspace(0, len(batch), min(count, len(batch)) + 1).round().astype(int)
    return [(batch[a:b], (b - a) / len(batch)) for a, b in itertools.pairwise(edges)]


def fit(
    task: TrainTask,
    settings: OptimiserSettings,
    launch: LaunchSettings,
    folder: RunFolder,
    identity: Mapping[str, Any],
    prefix: str = "train",
) -> dict[str, Any]:
    """Fit the task's model, from its newest checkpoint on, to the last step. Call it on every rank.

    Args:
        identity: JSON values: what decides the loss curve. A checkpoint keeps them, and one of others is refused.
        prefix: folder of checkpoints and figures below the run folder.

    Returns:
        On rank 0 the figures of the end, elsewhere nothing.

    Raises:
        NonFiniteLoss: the loss or its gradient is no number any more; the last good checkpoint stands.
        FingerprintMismatch: the newest checkpoint was made with other settings or other data.
        StoreFull, StoreError: a checkpoint or the figures cannot be written, or the checkpoint fits no such model.
    """
    import torch

    me = ranks.rank()
    torch.set_num_threads(me.threads)
    with contextlib.closing(task), joined(me) as group:
        return _Run(task, settings, launch, folder, json.loads(json.dumps(identity)), prefix, me, group).go()


def _device(wanted: str) -> str:
    """A rank sees its own GPU alone, if it was given one."""
    import torch

    if wanted == "auto":
        mine = os.environ.get("CUDA_VISIBLE_DEVICES", "") != "" and torch.cuda.is_available()
        return "cuda" if mine else "cpu"
    return check_device(wanted, "launch.device")


class _Run:
    """One rank's way from a checkpoint to the last step."""

    def __init__(
        self,
        task: TrainTask,
        settings: OptimiserSettings,
        launch: LaunchSettings,
        folder: RunFolder,
        identity: dict[str, Any],
        prefix: str,
        me: ranks.Rank,
        group: ProcessGroup,
    ) -> None:
        self.task, self.settings, self.launch, self.folder, self.me = task, settings, launch, folder, me
        self.identity, self.group = identity, group
        self.device = _device(launch.device)
        self.checkpoints = Checkpoints(folder, f"{prefix}/checkpoints", launch.keep_checkpoints)
        found = self._newest()
        self.precision = self.group.broadcast(self._choose_precision(found) if me.rank == 0 else None)
        model: Any = task.build(self.device)
        if launch.gradient_checkpointing and hasattr(model, "enable_gradient_checkpointing"):
            model.enable_gradient_checkpointing()
        self.state = TrainState(
            model, settings, self.device, self.precision, me.world, launch.compile, launch.profile_allreduce
        )
        self.step = 0 if found is None else self._restore(found)
        self.overflows = 0
        self.metrics = Metrics(folder, self.step, prefix) if me.rank == 0 else None

    def _newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole. Rank 0 chooses: on a network disk others may not see it listed yet."""
        if self.me.rank:
            step = self.group.broadcast(None)
            return None if step is None else self.checkpoints.load(step)
        self.checkpoints.sweep()
        found = self.checkpoints.newest(lambda text: ranks.tell("note", text=text))
        self.group.broadcast(found and found.step)
        return found

    def _choose_precision(self, found: Checkpoint | None) -> str:
        """What is asked for; `auto` stays what it was, for a probe on a busy machine may come out otherwise."""
        if self.launch.precision == "auto" and found is not None and found.about.get("device") == self._kind():
            return str(found.about["precision"])
        return resolve(self.launch.precision, self.device, self.me.threads, "launch.precision")

    def _kind(self) -> str:
        return self.device.partition(":")[0]

    def _restore(self, found: Checkpoint) -> int:
        """Go on from there; its step."""
        stands = f"The checkpoint of step {found.step} in {self.folder.address(self.checkpoints.name)}"
        again = (
            "It was not loaded, and nothing was changed; choose another folder with --out, or remove the checkpoints."
        )
        differ = differences(completed(found.about.get("identity", {})), completed(self.identity), "")
        if found.position != found.step * self.settings.batch:
            differ.append(f"its step {found.step} is sample {found.position}, not {found.step * self.settings.batch}")
        if differ:
            raise FingerprintMismatch(
                f"{stands} was made with something else: {'; '.join(differ)}. {again} With the settings as they were, "
                "the same command goes on from it."
            )
        try:
            self.state.restore(found.tensors, found.about)
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            why = textwrap.shorten(str(error), MOST_OF_AN_ERROR, placeholder=" …")
            raise StoreError(f"{stands} is of another model ({why}). {again}") from error
        return found.step

    def go(self) -> dict[str, Any]:
        """To the last step, and what `fit` returns."""
        try:
            speed = self._fit()
            return self._finish(speed)
        finally:
            if self.metrics is not None:
                with contextlib.suppress(OSError, StoreError):  # of a disk that is full the reason is told already
                    self.metrics.close()

    def _fit(self) -> dict[str, Any]:
        """All steps; samples per second and shares of time of all but the first, which allocates and compiles."""
        if self.me.rank == 0:
            ranks.tell(
                "started",
                step=self.step,
                steps=self.settings.steps,
                ranks=self.me.world,
                threads=self.me.threads,
                precision=self.precision,
                device=self.device,
                parameters=sum(p.numel() for p in self.state.parameters),
            )
        first, told, waited, begun = self.step + 1, 0.0, 0.0, perf_counter()
        pending: list[tuple[int, Tensor, dict[str, Tensor]]] = []
        batches = self.task.batches(self.step * self.settings.batch)
        speed: dict[str, Any] = {}
        while self.step < self.settings.steps:
            asked = perf_counter()
            batch = next(batches)
            waited += perf_counter() - asked
            pending.append((self.step + 1, *self._learn(batch)))
            self.step += 1
            last = self.step == self.settings.steps
            saves = last or self.step % self.launch.checkpoint_every == 0
            looks = bool(self.settings.validation) and (last or self.step % self.launch.validation_every == 0)
            draws = bool(self.launch.grid_every) and not last and self.step % self.launch.grid_every == 0
            counts = self.step > first
            if saves or looks or draws or not counts or self._kind() == "cpu" or self.step % QUEUED_STEPS == 0:
                line = self._settle(pending)
                pending.clear()
                now = perf_counter()
                if not counts:
                    waited, begun = 0.0, now
                    self.state.seconds = dict.fromkeys(self.state.seconds, 0.0)
                if self.me.rank == 0 and (now - told > TELL_SECONDS or last):
                    told, speed = now, self._speed(self.step - first, now - begun, waited)
                    ranks.tell("step", **line, **speed)
            if looks:
                self._look()
            if saves:
                self._save()
            if draws:
                self._draw()
        return speed

    def _speed(self, steps: int, seconds: float, waited: float) -> dict[str, Any]:
        """Samples per second of all ranks, and rank 0's shares of the time. What is missing from 1 is the rest."""
        if not steps:
            return {"samples_per_second": 0.0, "shares": {}}
        # A GPU's work is only queued by then, so that its times would say nothing.
        times = {"waiting": waited} | (self.state.seconds if self._kind() == "cpu" else {})
        return {
            "samples_per_second": round(steps * self.settings.batch / max(seconds, 1e-9), 2),
            "shares": {name: round(value / max(seconds, 1e-9), 4) for name, value in times.items()},
        }

    def _learn(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        import torch

        # Whatever draws inside the model draws the same after a resume; ranks draw differently.
        torch.manual_seed(_seed(self.settings.seed, self.step, self.me.rank))
        parts = cut(batch, self.launch.gradient_accumulation_steps)
        return self.state.learn(parts, self.task.loss, rate(self.settings, self.step))

    def _settle(self, pending: list[tuple[int, Tensor, dict[str, Tensor]]]) -> dict[str, float]:
        """Figures of these steps over all ranks, written down; the last step's are returned.

        Raises:
            NonFiniteLoss: a loss or a gradient is no number.
        """
        import torch

        names = sorted(pending[-1][2])
        table = torch.stack([torch.stack([loss, *(f[name] for name in names)]) for _, loss, f in pending])
        values = (self.group.sum(table.float()) / self.me.world).tolist()
        line: dict[str, float] = {}
        for (step, _, _), (loss, *rest) in zip(pending, values, strict=True):
            found = dict(zip(names, rest, strict=True))
            if not math.isfinite(loss):
                raise self._no_number("The loss", step, loss)
            overflow = not math.isfinite(found["norm"])
            self.overflows = self.overflows + 1 if overflow else 0
            # A gradient that is no number spoils the weights, which the loss shows at the next step only: too late for
            # a checkpoint between. In fp16 the scaler leaves such a step out, and tries a smaller scale.
            if overflow and (self.precision != "fp16" or self.overflows > MOST_OVERFLOWS):
                raise self._no_number("The gradient", step, found["norm"])
            found = {name: value for name, value in found.items() if math.isfinite(value)}  # JSON has no others
            line = {"loss": loss, **found, "rate": rate(self.settings, step - 1)} | (
                {"overflow": 1.0} if overflow else {}
            )
            if self.metrics is not None:
                self.metrics.add(step, **line)
        return {"step": self.step, **line}

    def _no_number(self, what: str, step: int, value: float) -> NonFiniteLoss:
        newest = self.checkpoints.newest(tensors=False)
        stands = f"the checkpoint of step {newest.step} stands" if newest else "no checkpoint was written yet"
        # A checkpoint of other settings is refused, but its precision may change.
        again = f"remove {self.folder.address(self.checkpoints.name)} and begin again with" if newest else "try"
        if self.precision != "fp32":
            again = f"go on with launch.precision=fp32, or {again}"
        return NonFiniteLoss(
            f"{what} at step {step} is {value}, so training stopped there; {stands}. What helps: {again} a lower "
            f"learning_rate (it is {self.settings.learning_rate:g}) or a longer warmup."
        )

    def _look(self) -> None:
        """Figures of the moving average on the rows that training never sees."""
        import torch

        with self.state.averaged() as model, self.state.autocast():
            total, count, sums = self.task.heldout(model)
        names = sorted(sums)
        total, count, *rest = self.group.sum(
            torch.tensor([total, count, *(sums[name] for name in names)]).double()
        ).tolist()
        found = {"heldout_loss": total / max(count, 1)} | {
            f"heldout_{name}": value / max(count, 1) for name, value in zip(names, rest, strict=True)
        }
        if not math.isfinite(found["heldout_loss"]):
            raise self._no_number("The loss on held-out rows", self.step, found["heldout_loss"])
        if self.metrics is not None:
            found = {name: value for name, value in found.items() if math.isfinite(value)}
            self.metrics.add(self.step, **found)
            ranks.tell("heldout", step=self.step, **found)

    def _save(self) -> None:
        """Rank 0 writes; the others need not wait for it."""
        if self.metrics is None:
            return
        about = {"identity": self.identity, "precision": self.precision, "device": self._kind(), **self.state.about()}
        self.metrics.flush()
        self.checkpoints.save(self.step, self.step * self.settings.batch, self.state.tensors(), about)
        ranks.tell("checkpoint", step=self.step)

    def _draw(self) -> None:
        """A sheet of pictures, if the task has any."""
        if self.me.rank == 0 and isinstance(self.task, DrawsPictures):
            with self.state.averaged() as model, self.state.autocast():
                name = self.task.sheet(model, self.step, self.folder)
            ranks.tell("sheet", step=self.step, file=name)

    def _finish(self, speed: dict[str, Any]) -> dict[str, Any]:
        import torch

        found: dict[str, Any] = {}
        if self.me.rank == 0:
            with self.state.averaged() as model:
                found = self.task.finish(model, self.folder)
            if speed.get("shares"):
                found = {**found, **speed}
            ranks.tell("done", step=self.step, **found)
        self.group.sum(torch.zeros(1))  # the others stay until rank 0 is ready
        return found


def _seed(*parts: int) -> int:
    """A seed of 63 bits for these numbers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1
