"""The training loop on one rank, shared by all trainers.

Covers: resuming from the newest checkpoint, when to save, validate and draw, writing the result.
Does not cover: the model and its loss (a `task.TrainTask`: `denoiser_rank`, `autoencoder_rank`), one step
(`optimisation`), figures and values that are not finite (`figures`), the rate of a step and the settings that may
change on resume (`resume`), communication between ranks (`launch.process_group`), starting ranks (`launch`).

The loss curve depends on the settings and the seed. It does not depend on the number of ranks (except for the order of
additions) or on interruptions: row and epoch decide a sample and its noise, torch gets a new seed at each step, and
everything else is in the checkpoint. Every rank computes the same share of each batch, so the mean of the ranks'
gradients is the gradient of the batch.
"""

from __future__ import annotations

import contextlib
import json
import math
import textwrap
from collections.abc import Iterator, Mapping
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from daskt2i.config.settings import LaunchSettings, OptimiserSettings
from daskt2i.errors import FingerprintMismatch, StoreError
from daskt2i.launch import rank as ranks
from daskt2i.launch.process_group import ProcessGroup, joined
from daskt2i.launch.vitals import heartbeat
from daskt2i.machine.allocator import keep_memory
from daskt2i.machine.precision import rank_device
from daskt2i.store.artifacts.finished import STEP
from daskt2i.store.artifacts.full_disk import explaining_full_disk
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.averages import HELDOUT, Exported, exported, validated
from daskt2i.train.checkpoint import Checkpoint, Checkpoints, not_finite
from daskt2i.train.figures.not_finite import NotFinite
from daskt2i.train.figures.step_figures import StepFigures
from daskt2i.train.metrics import NEW, Metrics
from daskt2i.train.optimisation.schedule import rate as rate
from daskt2i.train.optimisation.train_state import TrainState
from daskt2i.train.resume import Continuing, check, continuing, label, refuse_all_poisoned
from daskt2i.train.task import DrawsPictures, KeepsLabel, seed_of
from daskt2i.train.task import TrainTask as TrainTask
from daskt2i.train.task import cut as cut
from daskt2i.train.upkeep import requests
from daskt2i.train.upkeep.precision_probe import Choice, choose, step_of
from daskt2i.train.upkeep.save_times import SaveTimes

if TYPE_CHECKING:
    from torch import Tensor, nn

TELL_SECONDS = 0.5
"""Minimum time between two steps that are reported to the driver."""

MOST_OF_AN_ERROR = 300
"""Maximum number of characters from an error of torch in our message: torch names every weight that does not fit."""

QUEUED_STEPS = 10
"""Steps of a GPU between two reads of its figures. Each read waits until the GPU's queue is empty."""


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
        identity: JSON values that decide the loss curve. A checkpoint with another identity is refused. In its section
            `train` or `vae`, the settings of `resume.MAY_CHANGE` may differ.
        prefix: folder of checkpoints and figures inside the run folder.

    Returns:
        On rank 0 the final figures, on other ranks an empty dict.

    Raises:
        NonFiniteLoss: the loss or its gradient is not finite; the last good checkpoint is kept.
        LossSpike: a step is a spike, and `on_spike` is `stop`.
        FingerprintMismatch: the newest checkpoint was made with other settings or other data.
        ConfigError: the newest checkpoint is of a later step than the last one of this training.
        StoreFull, StoreError: a checkpoint or the figures cannot be written, or the checkpoint does not fit the model.
    """
    import torch

    me = ranks.rank()
    torch.set_num_threads(me.threads)
    if launch.keep_memory and not launch.is_sharded(me.world):  # else weights that were gathered once would stay
        keep_memory()
    with explaining_full_disk("train"), contextlib.closing(task), joined(me) as group:
        return _Run(task, settings, launch, folder, json.loads(json.dumps(identity)), prefix, me, group).go()


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
        self.identity, self.group, self.prefix = identity, group, prefix
        self.device = rank_device(launch.device)
        heartbeat.at(0, heartbeat.STARTS)
        self.checkpoints = Checkpoints(folder, f"{prefix}/checkpoints", launch.keep_checkpoints)
        found = self._newest()
        model: Any = task.build(self.device)
        if launch.gradient_checkpointing and hasattr(model, "enable_gradient_checkpointing"):
            model.enable_gradient_checkpointing()
        self.choice = self._choose_precision(found, model)
        self.precision = self.choice.name
        self.state = TrainState(
            *(model, settings, self.device, self.precision, me.world, launch.compile, launch.profile_allreduce),
            launch.is_sharded(me.world),
        )
        self.plan = Continuing(0) if found is None else self._restore(found)
        self.step = self.plan.step
        self.metrics = Metrics(folder, self.step, prefix) if me.rank == 0 else None
        self.bad = NotFinite(self.checkpoints, settings.learning_rate, self.precision, me.rank == 0)
        self.figures = StepFigures(settings, group, self.metrics, self.bad)
        self.figures.spikes.restore({} if found is None else found.about.get("spikes", {}))
        self.requests = requests.Requests(folder, prefix, me.rank == 0)
        self.stopped = False
        self.heldout: dict[str, float] = {}
        self._record(prefix)

    def _newest(self) -> Checkpoint | None:
        """The newest intact checkpoint. Rank 0 chooses it: on a network disk other ranks may not see it yet."""
        if self.me.rank:
            step = self.group.broadcast(None)
            return None if step is None else self.checkpoints.load(step)
        self.checkpoints.sweep()
        told: dict[str, None] = {}
        while (found := self.checkpoints.newest(told.setdefault)) and (name := not_finite(found.tensors)):
            self.checkpoints.mark_poisoned(found.step, f"{name} in it holds values that are not finite")
        for text in told:
            ranks.tell("note", text=text)
        if found is None:
            refuse_all_poisoned(self.checkpoints)
        self.group.broadcast(found and found.step)
        return found

    def _record(self, prefix: str) -> None:
        """Tell and record which settings change from this step on."""
        if self.metrics is None or not self.plan.note:
            return
        ranks.tell("note", text=self.plan.note)
        for change in self.plan.changes[-1:]:
            if change[STEP] == self.step:
                given = {name: values[1] for name, values in change.items() if name != STEP}
                numbers = {name: float(value) for name, value in given.items() if not isinstance(value, str)}
                if numbers:  # a line of figures has no words; the checkpoint and the model keep them
                    self.metrics.add(self.step, **{f"{NEW}{name}": value for name, value in numbers.items()})

    def _choose_precision(self, found: Checkpoint | None, model: Any) -> Choice:
        before, first = None if found is None else found.about, self.me.rank == 0
        step = step_of(model, self.task, self.launch.gradient_accumulation_steps, self.device)
        # Ranks with shards compute in step, so they cannot measure each for itself; and the whole may not fit.
        measured = None if self.launch.is_sharded(self.me.world) else step
        return choose(self.launch.precision, self.device, self.me.threads, before, self.group, first, measured)

    def _kind(self) -> str:
        return self.device.partition(":")[0]

    def _restore(self, found: Checkpoint) -> Continuing:
        """Load a checkpoint, and return how the training continues from it."""
        place = self.folder.address(self.checkpoints.name)
        stands = f"The checkpoint of step {found.step} in {place}"
        again = "Nothing was changed. Use another run folder (out), or remove the checkpoints."
        plan = continuing(found.step, found.about, self.identity)
        check(plan, self.settings.steps, place, self.folder.root)
        if found.position != found.step * self.settings.batch:
            raise FingerprintMismatch(
                f"{stands} was made with another batch: its step {found.step} is sample {found.position}, not "
                f"{found.step * self.settings.batch}. {again} To continue from it, go back to its batch."
            )
        try:
            self.state.restore(found.tensors, found.about)
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            why = textwrap.shorten(str(error), MOST_OF_AN_ERROR, placeholder=" …")
            raise StoreError(f"{stands} belongs to another model ({why}). {again}") from error
        return plan

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
        batches = self.task.batches(self.step * self.settings.batch)
        speed: dict[str, Any] = {}
        heartbeat.listen()
        saved = SaveTimes(self.launch)
        if self.step == 0 and self.launch.grid_every:  # what the model draws before it has learned anything
            self._draw()
        while self.step < self.settings.steps and not self.stopped:
            asked = perf_counter()
            heartbeat.at(self.step + 1, heartbeat.READS)
            batch = next(batches)
            waited += perf_counter() - asked
            heartbeat.at(self.step + 1, heartbeat.COMPUTES)
            self.figures.add(self.step + 1, *self._learn(batch))
            self.step += 1
            last, wanted = self.step == self.settings.steps, frozenset[str]()
            counts = self.step > first
            reads = self._kind() == "cpu" or self.step % QUEUED_STEPS == 0
            if last or reads or not counts or any(self._due(last)):
                line, code = self.figures.settle(self.requests.look())
                wanted = requests.names(code)
                now = perf_counter()
                if not counts:
                    waited, begun = 0.0, now
                    self.state.seconds = dict.fromkeys(self.state.seconds, 0.0)
                if now - told > TELL_SECONDS or last:
                    told, speed = now, self._speed(self.step - first, now - begun, waited)
                    heartbeat.spent(speed["shares"])
                    if self.me.rank == 0:
                        ranks.tell("step", **line, **speed)
            self.stopped = requests.STOP in wanted and not last
            saves, looks, draws = self._due(last or self.stopped)
            if looks:
                heartbeat.at(self.step, heartbeat.VALIDATES)
                self._look()
            # Without figures that wait, so that every gradient up to here was checked. Rank 0 decides it alone.
            if saves or (self.figures.read and saved.due()):
                heartbeat.at(self.step, heartbeat.SAVES)
                self._save()
                saved.now(self.step)
            if draws or requests.PICTURES in wanted:
                self._draw()
                self.requests.done(requests.PICTURES)
        heartbeat.at(self.step, heartbeat.FINISHES)
        heartbeat.rest(self.step)
        return speed

    def _due(self, ends: bool) -> tuple[bool, bool, bool]:
        """Whether this step saves, validates and draws by plan.

        Args:
            ends: whether it is the last one of this call.
        """
        saves = ends or self.step % self.launch.checkpoint_every == 0
        looks = bool(self.settings.validation) and (ends or self.step % self.launch.validation_every == 0)
        draws = bool(self.launch.grid_every) and not ends and self.step % self.launch.grid_every == 0
        return saves, looks, draws

    def _speed(self, steps: int, seconds: float, waited: float) -> dict[str, Any]:
        """Samples per second of all ranks, and this rank's shares of the time. The rest up to 1 is not measured."""
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
        torch.manual_seed(seed_of(self.settings.seed, self.step, self.me.rank))
        parts = cut(batch, self.launch.gradient_accumulation_steps)
        takes = partial(self.figures.takes, self.step + 1) if self.settings.on_spike == "skip" else None
        return self.state.learn(parts, self.task.loss, rate(self.settings, self.step), takes)

    def _look(self) -> None:
        """Compute the figures of the moving average on validation rows, and the loss of each further average."""
        found = validated(self.task, self.state, self.group)
        if not math.isfinite(found.get(HELDOUT, 0.0)):
            self.bad.stop("The loss on held-out rows", self.step, found[HELDOUT])
        self.heldout = found = _finite(found)
        if found and self.metrics is not None:
            self.metrics.add(self.step, **found)
            ranks.tell("heldout", step=self.step, **found)

    def _save(self) -> None:
        """Rank 0 writes the checkpoint. The other ranks do not wait; with shards they give their parts meanwhile."""
        spread = self.state.layout.spread
        if self.metrics is None and not spread:
            return
        tensors = self.state.tensors()
        if name := self._not_finite(tensors):
            self.bad.stop(f"A value of {name}", self.step, math.nan)
        if self.metrics is None:
            self.checkpoints.give(tensors)
            return
        about = {"identity": self.identity, "precision": self.precision, "device": self._kind(), **self.state.about()}
        about["spikes"] = self.figures.spikes.about()
        if self.choice.step_seconds:
            about["step_seconds"] = dict(self.choice.step_seconds)
        if self.plan.changes:
            about["changes"] = list(self.plan.changes)
        self.metrics.flush()
        self.checkpoints.save(self.step, self.step * self.settings.batch, tensors, about)
        ranks.tell("checkpoint", step=self.step)

    def _not_finite(self, tensors: Mapping[str, Any]) -> str:
        """Name of a tensor for a checkpoint with a value that is not finite, or "". With shards all ranks agree."""
        import torch

        name = not_finite(tensors)
        if self.state.layout.spread and float(self.group.sum(torch.tensor([float(bool(name))]))):
            return name or "a part of a weight on another rank"
        return name

    @contextlib.contextmanager
    def _averaged(self, further: str | None = None) -> Iterator[nn.Module | None]:
        """On rank 0 the whole model with a moving average, None on the others. Every rank calls it."""
        if self.me.rank and not self.state.layout.spread:
            yield None
            return
        with self.state.averaged(further), self.state.layout.on_first(self.me.rank) as model:
            yield model

    def _draw(self) -> None:
        """Draw a sheet of pictures, if the task can."""
        heartbeat.at(self.step, heartbeat.DRAWS)
        if not isinstance(self.task, DrawsPictures):
            return
        with self._averaged() as model:
            if model is not None:
                with self.state.autocast():
                    name = self.task.sheet(model, self.step, self.folder)
                ranks.tell("sheet", step=self.step, file=name)

    def _choose_average(self) -> Exported:
        if self.settings.export_ema is None:
            return exported(self.settings, {})
        if self.settings.validation and not self.heldout:  # no step was left
            self.heldout = _finite(validated(self.task, self.state, self.group))
        return exported(self.settings, self.group.broadcast(self.heldout))

    def _finish(self, speed: dict[str, Any]) -> dict[str, Any]:
        import torch

        found: dict[str, Any] = {}
        chosen = self._choose_average()
        if isinstance(self.task, KeepsLabel):
            self.task.label = {**label(self.identity, self.step, self.plan.changes), **chosen.label()}
        with self._averaged(chosen.further) as model:
            if model is not None:
                found = self.task.finish(model, self.folder)
        if self.me.rank == 0:
            found |= (speed if speed.get("shares") else {}) | chosen.figures()
            if text := chosen.note():
                ranks.tell("note", text=text)
            if spikes := self.figures.spikes.count:
                found["spikes"] = spikes
            if self.stopped:
                self._say_stopped()
            ranks.tell("done", step=self.step, **found)
        self.group.sum(torch.zeros(1))  # the other ranks wait until rank 0 is ready
        return found

    def _say_stopped(self) -> None:
        """Tell that the training ended early, and remove the request only now: the model of this step is written."""
        self.requests.done(requests.STOP)
        steps = self.settings.steps
        ranks.tell(
            "note",
            text=f"The training stopped at step {self.step:,} of {steps:,}, as {requests.STOP} in "
            f"{self.folder.address(self.prefix)}/requests asked. The checkpoint and the model are those of this step. "
            "Train again to go on.",
        )


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if math.isfinite(value)}
