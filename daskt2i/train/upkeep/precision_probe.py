"""The precision of a training: for `auto`, what makes a real step of this model faster on these ranks.

Covers: measuring forward and backward of the model with its own batch, in fp32 and in bf16; the choice.
Does not cover: devices and precisions that are refused, whether the processor has bf16 at all (`machine.precision`).

A single convolution is no measure: on a processor with AMX it runs 7.3 times as fast in bf16, and a step of the demo
ran 60 samples/s in bf16 and 75 in fp32, because a small model mostly converts its weights. Weights, optimiser and the
exchange of gradients are fp32 in both, so they are left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from daskt2i.machine.precision import resolve

if TYPE_CHECKING:
    from torch import nn

    from daskt2i.launch.process_group import ProcessGroup

FORMATS = ("fp32", "bf16")

STEP_GAIN = 1.05
"""bf16 is used if a step is at least this many times faster. Less is within the noise of the measurement."""

HOPELESS_GAIN = 0.8
"""If a convolution alone is slower than that in bf16, a step is not measured: the processor emulates bf16."""

PROBE_STEP_SECONDS = 10.0
"""The probe begins no further repetition after this time."""

PROBE_REPEATS = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """A precision, and why.

    Attributes:
        name: `fp32`, `bf16` or `fp16`.
        step_seconds: seconds of forward and backward by precision, the mean over the ranks; empty if nothing was
            measured.
    """

    name: str
    step_seconds: Mapping[str, float] = field(default_factory=dict)


def choose(
    wanted: str,
    device: str,
    threads: int,
    before: Mapping[str, Any] | None,
    group: ProcessGroup,
    first: bool,
    step: Callable[[str], None] | None,
) -> Choice:
    """The precision to train in, the same on all ranks. Call it on every rank.

    Args:
        wanted: the setting `launch.precision`.
        before: what the newest checkpoint of this training says, if there is one. Its precision stays: another
            measurement may give another one.
        first: whether this is rank 0, which decides whether to measure.
        step: does forward and backward in a precision. None: nothing is measured, and `auto` is what suits the device.

    Raises:
        ConfigError: the precision is unknown, or does not run on this device.
    """
    import torch

    known: dict[str, Any] | None = None
    if first:
        if wanted == "auto" and before is not None and before.get("device") == device.partition(":")[0]:
            known = {"name": str(before["precision"]), "step_seconds": before.get("step_seconds", {})}
        else:
            name = resolve(wanted, device, "launch.precision", HOPELESS_GAIN)
            # Where bf16 is emulated, a step may take ten times as long, so it is not tried.
            measures = wanted == "auto" and name != "fp32" and step is not None
            known = None if measures else {"name": str(name), "step_seconds": {}}
    known = group.broadcast(known)
    if known is not None:
        return Choice(**known)
    assert step is not None
    mine = measure(step)
    # All ranks measure at the same time, because they share processors and memory, as they will in training.
    total = group.sum(torch.tensor([mine[name] for name in FORMATS], dtype=torch.float64)) / group.world
    seconds = {name: round(value, 6) for name, value in zip(FORMATS, total.tolist(), strict=True)}
    return Choice("bf16" if seconds["fp32"] >= STEP_GAIN * seconds["bf16"] else "fp32", seconds)


def measure(step: Callable[[str], None], clock: Callable[[], float] = perf_counter) -> dict[str, float]:
    """Seconds of a step by precision: the best of a few, in turns, so that other work disturbs both alike.

    Args:
        step: does forward and backward in a precision, and waits for the device.
    """

    def timed(name: str) -> float:
        begun = clock()
        step(name)
        return clock() - begun

    start = clock()
    best = {name: timed(name) for name in FORMATS}
    if max(best.values()) < PROBE_STEP_SECONDS / 2:  # else the first run counts, with what is done only once
        best = dict.fromkeys(FORMATS, float("inf"))
        for _ in range(PROBE_REPEATS):
            for name in FORMATS:
                best[name] = min(best[name], timed(name))
            if clock() - start > PROBE_STEP_SECONDS:
                break
    return best


class Task(Protocol):
    """What a `TrainTask` needs for this."""

    def batches(self, position: int) -> Iterator[Any]: ...

    def loss(self, model: Any, batch: Any) -> tuple[Any, Any]: ...


def step_of(model: nn.Module, task: Task, parts: int, device: str) -> Callable[[str], None]:
    """Forward and backward on a first batch, which leaves weights, buffers and random numbers as they are.

    Args:
        parts: into how many parts a rank cuts its batch.
    """
    import torch

    found: list[Any] = []
    kind = device.partition(":")[0]

    def step(name: str) -> None:
        if not found:
            with contextlib.closing(task.batches(0)) as stream:  # type: ignore[type-var]
                batch = next(stream)
            found.append(batch[: -(-len(batch) // parts)])
        buffers = [buffer.clone() for buffer in model.buffers()]
        autocast = torch.autocast(kind, dtype=torch.bfloat16) if name == "bf16" else contextlib.nullcontext()
        with torch.random.fork_rng():
            with autocast:
                value = task.loss(model, found[0])[0]
            value.backward()
            if kind == "cuda":
                torch.cuda.synchronize(device)
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, old in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(old)

    return step
