"""What a worker chooses before the first chunk: precision and engine, by measuring.

Covers: the runtime of a job, why it is so, what the user should know.
Does not cover: the measurements (`machine.precision`, `protocols.ChoosesEngine`), loading models (`model_cache`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from daskt2i.encode.choices.rules import BY_NCNN, too_large
from daskt2i.encode.job import EncodeJob
from daskt2i.machine import precision as precisions
from daskt2i.machine.allocator import keep_memory
from daskt2i.protocols import ChoosesEngine, ImageEncoder
from daskt2i.types import Chosen, Runtime


@dataclass(frozen=True, slots=True)
class WorkerChoice:
    """The choice of a worker.

    Attributes:
        runtime: device, precision, threads and engine.
        by_torch: the same if torch computes the image encoder.
        choices: engine, if the encoder has one, and precision.
        notes: sentences for the user.
    """

    runtime: Runtime
    by_torch: Runtime
    choices: tuple[Chosen, ...]
    notes: tuple[str, ...]


def choose(job: EncodeJob, device: str, precision: str, engine: str) -> WorkerChoice:
    """Choose precision and engine.

    Args:
        job: its `runtime.threads` counts.
        device: `cpu`, `cuda` or `cuda:N`.
        precision: from the workflow or the store: `auto`, `fp32`, `bf16` or `fp16`.
        engine: from the workflow or the store: `auto`, `torch` or `ncnn`.

    Raises:
        ConfigError: the device does not support this precision.
    """
    if job.keep_memory:
        keep_memory()
    precise = precisions.choose(precision, device)
    plain = precisions.FORMATS[precise.value]
    by_torch = replace(job.runtime, device=device, precision=plain)
    runtime, chosen = _engine(job, by_torch, precision == "auto", engine)
    if runtime.precision != plain:
        precise = replace(precise, value=runtime.precision, why=BY_NCNN)
    choices = (precise,) if chosen is None else (chosen, precise)
    notes = dict.fromkeys(note for one in (precise, *choices) for note in one.notes)
    return WorkerChoice(runtime, by_torch, choices, tuple(notes))


def without_engine(choices: tuple[Chosen, ...], by_torch: Runtime, why: str) -> tuple[Chosen, ...]:
    """The choices after an engine was given up, because it cannot run the model."""
    changed = {"engine": by_torch.engine, "precision": by_torch.precision}
    return tuple(replace(one, value=changed[one.setting], why=why) for one in choices)


def _engine(job: EncodeJob, by_torch: Runtime, free: bool, engine: str) -> tuple[Runtime, Chosen | None]:
    image = job.encoders.image.build(ImageEncoder, "dataset.encoders.image")
    if not isinstance(image, ChoosesEngine):
        return by_torch, None
    if engine != "auto":
        why = "the settings or the store name it"
        runtime = by_torch
        if engine != "torch":
            runtime = replace(by_torch, engine=engine, precision="fp32" if free else by_torch.precision)
        return runtime, Chosen("engine", engine, why)
    if by_torch.device != "cpu":
        return by_torch, Chosen("engine", "torch", f"the device is {by_torch.device}")
    for name, need in job.engine_bytes.items():
        if why := too_large(name, need, job.allowed_bytes):
            return by_torch, Chosen("engine", "torch", why)
    return image.choose_engine(job.image.side, by_torch, free)
