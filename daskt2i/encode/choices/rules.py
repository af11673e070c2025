"""Choices that follow from a rule and not from a measurement.

Covers: batch, threads, and the memory that an engine may take; in words.
Does not cover: computing a batch or a layout of workers (`plan`), engine and precision (`on_worker`).

docs/decisions/0019-processors.md has the figures that say why batch and threads are not measured.
"""

from __future__ import annotations

from daskt2i.config.settings import RunSettings
from daskt2i.formatting import many, size
from daskt2i.machine.machine import this_machine
from daskt2i.plan import CPU_BATCH_BYTES, GPU_BATCH_BYTES, PAUSE_FRACTION
from daskt2i.types import Chosen

BY_NCNN = "ncnn computes in fp32"
"""Why the precision is fp32 with ncnn."""


def by_rule(run: RunSettings, batch: int, threads: int, device: str) -> tuple[Chosen, ...]:
    """The choices of batch and threads.

    Args:
        batch: images in a batch.
        threads: torch threads of each worker; 0 if they are not known.
        device: `cpu`, `cuda` or `cuda:N`.
    """
    images = batch_choice(run.batch, batch, run.text_batch, device)
    return (images, threads_choice(run.threads, threads)) if threads else (images,)


def batch_choice(asked: int | str, batch: int, text_batch: int, device: str) -> Chosen:
    """How many images and captions are in a batch, and why.

    Args:
        asked: `run.batch`.
        batch, text_batch: the numbers.
    """
    budget = GPU_BATCH_BYTES if device.startswith("cuda") else CPU_BATCH_BYTES
    rule = f"as many images as {size(budget)} hold" if asked == "auto" else "given in the settings"
    return Chosen("batch", f"{many(batch, 'image')}, {many(text_batch, 'caption')}", rule)


def threads_choice(asked: int | str, threads: int) -> Chosen:
    """How many threads a worker has, and why.

    Args:
        asked: `run.threads`.
    """
    rule = "one worker for each core; cores that are left over are shared"
    return Chosen("threads", f"{threads} a worker", rule if asked == "auto" else "given in the settings")


def too_large(engine: str, need: int | None, allowed: int | None) -> str:
    """Why a worker has no memory for an engine, as a clause; "" if it has.

    Args:
        need: memory of a worker with this engine, bytes; None if it is not known.
        allowed: what it may use, bytes; None for most of this machine.
    """
    if allowed is None:
        allowed = int(PAUSE_FRACTION * this_machine().memory)
    if need is None or need <= allowed:
        return ""
    return f"a worker with {engine} needs about {size(need)}, and {size(allowed)} are allowed"
