"""The training loop on one rank, shared by all trainers.

Covers: the learning rate schedule, resuming from the newest checkpoint, when to save, validate and draw, figures over
all ranks, stopping when a loss or gradient is not finite.
Does not cover: the model and its loss (a `TrainTask`: `denoiser_rank`, `autoencoder_rank`), one step (`train_state`),
communication between ranks (`launch.process_group`), starting ranks (`launch`).

The loss curve depends on the settings and the seed. It does not depend on the number of ranks (except for the order of
additions) or on interruptions: row and epoch decide a sample and its noise, torch gets a new seed at each step, and
everything else is in the checkpoint. Every rank computes the same share of each batch, so the mean of the ranks'
gradients is the gradient of the batch.
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
from daskt2i.launch.vitals import heartbeat
from daskt2i.machine.precision import check_device
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.checkpoint import Checkpoint, Checkpoints
from daskt2i.train.metrics import Metrics
from daskt2i.train.train_state import TrainState
from daskt2i.train.upkeep.precision_probe import Choice, choose, step_of
from daskt2i.train.upkeep.save_times import SaveTimes

if TYPE_CHECKING:
    from torch import Tensor, nn

TELL_SECONDS = 0.5
"""Minimum time between two steps that are reported to the driver."""

MOST_OVERFLOWS = 50
"""Steps in a row that fp16 may skip. The scale halves each time from 65,536, so after 50 steps it is almost 0."""

MOST_OF_AN_ERROR = 300
"""Maximum number of characters from an error of torch in our message: torch names every weight that does not fit."""

QUEUED_STEPS = 10
"""Steps of a GPU between two reads of its figures. Each read waits until the GPU's queue is empty."""


class TrainTask(Protocol):
    """A model with its data and loss. Each rank makes its own object."""

    def build(self, device: str) -> nn.Module:
        """The model to train, on the device, the same on every rank."""

    def batches(self, position: int) -> Iterator[Any]:
        """This rank's part of each batch, from a stream position on, without end. A batch has a length and slices."""

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over this rank's part, and figures to log. `model` is the result of `build`, perhaps wrapped."""

    def heldout(self, model: nn.Module) -> tuple[float, int, dict[str, float]]:
        """For this rank's share of the held-out rows: sum of losses, number of rows, sums of other figures."""

    def finish(self, model: nn.Module, folder: RunFolder) -> dict[str, Any]:
        """On rank 0, at the end: write the result, and return its figures."""

    def close(self) -> None:
        """Close threads and files."""


@runtime_checkable
class DrawsPictures(Protocol):
    """An optional part of a `TrainTask`: draw pictures every `launch.grid_every` steps."""

    def sheet(self, model: nn.Module, step: int, folder: RunFolder) -> str | None:
        """On rank 0, with the moving average: write a picture, and return its name inside the run folder.

        Meanwhile the other ranks wait, for `process_group.GROUP_TIMEOUT` at most. After the last step the driver draws.
        """


def rate(settings: OptimiserSettings, step: int) -> float:
    """Learning rate of a step (from 0): a linear warm-up to the peak, then a half cosine down."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    low = settings.final_rate
    return settings.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def cut(batch: Any, count: int) -> list[tuple[Any, float]]:
    """Cut a rank's batch into at most `count` parts of almost equal size, each with its share of the samples."""
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
    """Train the task's model from its newest checkpoint to the last step. Call it on every rank.

    Args:
        identity: JSON values that decide the loss curve. A checkpoint with another identity is refused.
        prefix: folder of checkpoints and figures inside the run folder.

    Returns:
        On rank 0 the final figures, on other ranks an empty dict.

    Raises:
        NonFiniteLoss: the loss or its gradient is not finite; the last good checkpoint is kept.
        FingerprintMismatch: the newest checkpoint was made with other settings or other data.
        StoreFull, StoreError: a checkpoint or the figures cannot be written, or the checkpoint does not fit the model.
    """
    import torch

    me = ranks.rank()
    torch.set_num_threads(me.threads)
    with contextlib.closing(task), joined(me) as group:
        return _Run(task, settings, launch, folder, json.loads(json.dumps(identity)), prefix, me, group).go()


def _device(wanted: str) -> str:
    """The device of this rank. A rank sees only its own GPU, if it has one."""
    import torch

    if wanted == "auto":
        mine = os.environ.get("CUDA_VISIBLE_DEVICES", "") != "" and torch.cuda.is_available()
        return "cuda" if mine else "cpu"
    return check_device(wanted, "launch.device")


class _Run:
    """The work of one rank from a checkpoint to the last step."""

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
        heartbeat.at(0, heartbeat.STARTS)
        self.checkpoints = Checkpoints(folder, f"{prefix}/checkpoints", launch.keep_checkpoints)
        found = self._newest()
        model: Any = task.build(self.device)
        if launch.gradient_checkpointing and hasattr(model, "enable_gradient_checkpointing"):
            model.enable_gradient_checkpointing()
        self.choice = self._choose_precision(found, model)
        self.precision = self.choice.name
        self.state = TrainState(
            model, settings, self.device, self.precision, me.world, launch.compile, launch.profile_allreduce
        )
        self.step = 0 if found is None else self._restore(found)
        self.overflows = 0
        self.metrics = Metrics(folder, self.step, prefix) if me.rank == 0 else None

    def _newest(self) -> Checkpoint | None:
        """The newest intact checkpoint. Rank 0 chooses it: on a network disk other ranks may not see it yet."""
        if self.me.rank:
            step = self.group.broadcast(None)
            return None if step is None else self.checkpoints.load(step)
        self.checkpoints.sweep()
        found = self.checkpoints.newest(lambda text: ranks.tell("note", text=text))
        self.group.broadcast(found and found.step)
        return found

    def _choose_precision(self, found: Checkpoint | None, model: Any) -> Choice:
        step = step_of(model, self.task, self.launch.gradient_accumulation_steps, self.device)
        before, first = None if found is None else found.about, self.me.rank == 0
        return choose(self.launch.precision, self.device, self.me.threads, before, self.group, first, step)

    def _kind(self) -> str:
        return self.device.partition(":")[0]

    def _restore(self, found: Checkpoint) -> int:
        """Load a checkpoint, and return its step."""
        stands = f"The checkpoint of step {found.step} in {self.folder.address(self.checkpoints.name)}"
        again = "Nothing was changed. Use another run folder (out), or remove the checkpoints."
        differ = differences(completed(found.about.get("identity", {})), completed(self.identity), "")
        if found.position != found.step * self.settings.batch:
            differ.append(f"its step {found.step} is sample {found.position}, not {found.step * self.settings.batch}")
        if differ:
            raise FingerprintMismatch(
                f"{stands} was made with different settings: {'; '.join(differ)}. {again} To continue from it, go back "
                "to its settings."
            )
        try:
            self.state.restore(found.tensors, found.about)
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            why = textwrap.shorten(str(error), MOST_OF_AN_ERROR, placeholder=" …")
            raise StoreError(f"{stands} belongs to another model ({why}). {again}") from error
        return found.step

    def go(self) -> dict[str, Any]:
        """Train to the last step, and return the result of `fit`."""
        try:
            speed = self._fit()
            return self._finish(speed)
        finally:
            if self.metrics is not None:
                with contextlib.suppress(OSError, StoreError):  # a full disk was reported already
                    self.metrics.close()

    def _fit(self) -> dict[str, Any]:
        """Do all steps. Returns samples per second and time shares without the first step, which also compiles."""
        if self.me.rank == 0:
            ranks.tell(
                "started",
                step=self.step,
                steps=self.settings.steps,
                ranks=self.me.world,
                threads=self.me.threads,
                precision=self.precision,
                step_seconds=dict(self.choice.step_seconds),
                device=self.device,
                parameters=sum(p.numel() for p in self.state.parameters),
            )
        first, told, waited, begun = self.step + 1, 0.0, 0.0, perf_counter()
        pending: list[tuple[int, Tensor, dict[str, Tensor]]] = []
        batches = self.task.batches(self.step * self.settings.batch)
        speed: dict[str, Any] = {}
        heartbeat.listen()
        saved = SaveTimes(self.launch)
        while self.step < self.settings.steps:
            asked = perf_counter()
            heartbeat.at(self.step + 1, heartbeat.READS)
            batch = next(batches)
            waited += perf_counter() - asked
            heartbeat.at(self.step + 1, heartbeat.COMPUTES)
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
                heartbeat.at(self.step, heartbeat.VALIDATES)
                self._look()
            # Without figures that wait, so that every gradient up to here was checked. Rank 0 decides it alone.
            if saves or (not pending and saved.due()):
                heartbeat.at(self.step, heartbeat.SAVES)
                self._save()
                saved.now(self.step)
            if draws:
                heartbeat.at(self.step, heartbeat.DRAWS)
                self._draw()
        heartbeat.at(self.step, heartbeat.FINISHES)
        heartbeat.rest(self.step)
        return speed

    def _speed(self, steps: int, seconds: float, waited: float) -> dict[str, Any]:
        """Samples per second of all ranks, and rank 0's shares of the time. The rest up to 1 is not measured."""
        if not steps:
            return {"samples_per_second": 0.0, "shares": {}}
        # On a GPU the work is only queued when these times are taken, so they would be wrong.
        times = {"waiting": waited} | (self.state.seconds if self._kind() == "cpu" else {})
        return {
            "samples_per_second": round(steps * self.settings.batch / max(seconds, 1e-9), 2),
            "shares": {name: round(value / max(seconds, 1e-9), 4) for name, value in times.items()},
        }

    def _learn(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        import torch

        # With this seed random numbers in the model are the same after a resume, and different on each rank.
        torch.manual_seed(_seed(self.settings.seed, self.step, self.me.rank))
        parts = cut(batch, self.launch.gradient_accumulation_steps)
        return self.state.learn(parts, self.task.loss, rate(self.settings, self.step))

    def _settle(self, pending: list[tuple[int, Tensor, dict[str, Tensor]]]) -> dict[str, float]:
        """Compute the figures of these steps over all ranks, write them, and return those of the last step.

        Raises:
            NonFiniteLoss: a loss or a gradient is not finite.
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
            # A gradient that is not finite damages the weights. The loss shows this one step later, too late if a
            # checkpoint is saved in between. In fp16 the scaler skips such a step, and tries a smaller scale.
            if overflow and (self.precision != "fp16" or self.overflows > MOST_OVERFLOWS):
                raise self._no_number("The gradient", step, found["norm"])
            found = {name: value for name, value in found.items() if math.isfinite(value)}  # JSON has no NaN
            line = {"loss": loss, **found, "rate": rate(self.settings, step - 1)} | (
                {"overflow": 1.0} if overflow else {}
            )
            if self.metrics is not None:
                self.metrics.add(step, **line)
        return {"step": self.step, **line}

    def _no_number(self, what: str, step: int, value: float) -> NonFiniteLoss:
        newest = self.checkpoints.newest(tensors=False)
        stands = f"The checkpoint of step {newest.step} is kept" if newest else "There is no checkpoint yet"
        # A checkpoint of other settings is refused, but its precision may change.
        again = f"remove {self.folder.address(self.checkpoints.name)} and train with" if newest else "train with"
        then = f"{again[0].upper()}{again[1:]}"
        if self.precision != "fp32":
            then = f"Train again with launch.precision=fp32, or {again}"
        return NonFiniteLoss(
            f"{what} at step {step} is {value}, so training stopped. {stands}. {then} a lower learning_rate (it is "
            f"{self.settings.learning_rate:g}) or a longer warmup."
        )

    def _look(self) -> None:
        """Compute the figures of the moving average on validation rows."""
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
        """Rank 0 writes the checkpoint; the other ranks do not wait."""
        if self.metrics is None:
            return
        about = {"identity": self.identity, "precision": self.precision, "device": self._kind(), **self.state.about()}
        if self.choice.step_seconds:
            about["step_seconds"] = dict(self.choice.step_seconds)
        self.metrics.flush()
        self.checkpoints.save(self.step, self.step * self.settings.batch, self.state.tensors(), about)
        ranks.tell("checkpoint", step=self.step)

    def _draw(self) -> None:
        """Draw a sheet of pictures, if the task can."""
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
        self.group.sum(torch.zeros(1))  # the other ranks wait until rank 0 is ready
        return found


def _seed(*parts: int) -> int:
    """A seed of 63 bits from these numbers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1
