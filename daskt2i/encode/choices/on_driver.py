"""What a plan knows about the choices of its workers: figures that this machine measured before.

Covers: engine, precision, batch and threads before an encode starts. It measures nothing.
Does not cover: the choice (`on_worker`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from daskt2i.config.settings import Workflow
from daskt2i.encode.choices.rules import BY_NCNN, by_rule, too_large
from daskt2i.machine import precision as precisions
from daskt2i.machine.versions import OPTIONAL, versions
from daskt2i.plan import PAUSE_FRACTION, Requirements, WorkerLayout
from daskt2i.protocols import ChoosesEngine, ImageEncoder
from daskt2i.types import MEASURED_LATER, Chosen, Runtime

_STORED = "the store has it"


def planned(
    workflow: Workflow,
    need: Requirements,
    layout: WorkerLayout | None,
    device: str,
    stored: tuple[str, str] | None,
) -> tuple[Chosen, ...]:
    """The choices of an encode, as far as they are known.

    Args:
        layout: workers and threads on this machine; None or no workers if others will encode.
        device: `cpu` or `cuda`.
        stored: engine and precision of the store, if there is one.
    """
    run, here = workflow.run, layout is not None and layout.workers > 0
    threads = layout.threads if layout is not None and here else 0
    precise = _precision(workflow.dataset.precision, stored, device, threads)
    engine, precise = _engine(workflow, need, layout, device, stored, precise)
    ruled = by_rule(run, need.batch, threads, device)
    return (precise, *ruled) if engine is None else (engine, precise, *ruled)


def lacking(choices: Sequence[Chosen], worker: str) -> tuple[str, ...]:
    """A sentence for each package that the worker which chose lacks, and that this process has.

    Args:
        worker: `host:pid`.
    """
    here = versions(OPTIONAL)
    return tuple(
        f"{one.value} computes the image encoder on all workers, because {one.missing} is not installed on {worker}."
        for one in choices
        if one.missing and one.missing in here
    )


def _precision(asked: str, stored: tuple[str, str] | None, device: str, threads: int) -> Chosen:
    if asked != "auto":
        return Chosen("precision", asked, "given in the settings")
    if stored is not None:
        return Chosen("precision", stored[1], _STORED)
    if threads and device == "cpu":
        return precisions.choose("auto", device, measure=False)
    return Chosen("precision", "auto", MEASURED_LATER)


def _engine(
    workflow: Workflow,
    need: Requirements,
    layout: WorkerLayout | None,
    device: str,
    stored: tuple[str, str] | None,
    precise: Chosen,
) -> tuple[Chosen | None, Chosen]:
    """The engine, if the encoder has one, and the precision with it."""
    dataset = workflow.dataset
    image = dataset.encoders.image.build(ImageEncoder, "dataset.encoders.image")
    if not isinstance(image, ChoosesEngine):
        return None, precise
    named = dataset.encoders.image.arguments.get("engine", "auto")
    if named == "auto" and stored is not None:
        return Chosen("engine", stored[0], _STORED), precise
    if named == "ncnn" and precise.value == "auto":
        precise = Chosen("precision", "fp32", BY_NCNN)
    later = Chosen("engine", "auto", MEASURED_LATER)
    if device != "cpu":
        return (Chosen("engine", "torch", "the device is a GPU") if named == "auto" else later), precise
    free = dataset.precision == "auto"
    threads = layout.threads if layout is not None and layout.workers else 0
    assumed = precisions.FORMATS.get(precise.value, "fp32")
    runtime, chosen = image.choose_engine(
        dataset.image.side, Runtime("cpu", assumed, max(1, threads)), free, measure=False
    )
    if chosen.seconds and (not threads or precise.value == "auto"):  # the figures of another kind of worker
        return later, precise
    if layout is not None and layout.workers:
        allowed = int(PAUSE_FRACTION * layout.memory_limit)
        for name, memory in need.engine_memory.items():
            if named == "auto" and (why := too_large(name, memory, allowed)):
                return Chosen("engine", "torch", why), precise
    if runtime.precision != precise.value and chosen.seconds:
        precise = replace(precise, value=runtime.precision, why=BY_NCNN)
    return chosen, precise
