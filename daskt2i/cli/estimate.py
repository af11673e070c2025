"""The command `estimate`: hours, disk, memory and money of an encode, before it runs.

Covers: its options, which workers are measured, what is said where a device is not there.
Does not cover: measuring (`encode.calibration`), the arithmetic (`estimate.arithmetic`), how it looks
(`display.estimate`).
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from daskt2i.cli.bench import numbers
from daskt2i.cli.console import answer, err, report_errors
from daskt2i.cli.data import with_where
from daskt2i.cli.options import (
    CaptionsOption,
    ImagesOption,
    JsonOption,
    OutOption,
    SchedulerOption,
    SetOption,
    WhereOption,
    WorkflowOption,
)

_SHORTEST_SECONDS = 15.0
_HERE = ("serial", "multiprocessing", "joblib", "local")


def estimate(
    workflow: WorkflowOption = "demo",
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    where: WhereOption = None,
    workers: Annotated[
        str | None, typer.Option(help="Numbers of workers, e.g. 1,2,8. [default: as encode would take]")
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="cpu, cuda, or cpu,cuda to compare. [default: run.device]")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Rows to measure. [default: as many as a minute allows]")
    ] = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Measure some rows, and say what a whole encode will take.

    Time, disk, memory, and cost by the workflow's `prices:`. Kept in reports/estimate.json; encode compares itself
    with it at its end.
    """
    with report_errors():
        from daskt2i.config.workflow_file import load_workflow
        from daskt2i.display.estimate import estimate_of, estimate_table
        from daskt2i.display.listener import progress_for
        from daskt2i.encode.calibration import SECONDS, calibrate
        from daskt2i.encode.prepare import prepare
        from daskt2i.errors import ConfigError
        from daskt2i.estimate.arithmetic import Work
        from daskt2i.estimate.forecast import keep
        from daskt2i.machine.machine import this_machine
        from daskt2i.session.schedulers import Scheduler, open_executor
        from daskt2i.session.worker_layout import encode_layout

        settings = load_workflow(workflow, with_where(set_, where), images, captions)
        chosen = Scheduler.parse(scheduler or settings.run.scheduler)
        counts = [] if workers is None else list(dict.fromkeys(numbers(workers, "--workers")))
        here = chosen.kind in _HERE
        kinds = _devices(devices, settings.run.device)
        prepared = prepare(settings, out_folder or f"runs/{settings.name}")
        found: list[Any] = []
        notes: list[str] = []
        wanted = counts
        for kind in kinds:
            if kind.startswith("cuda") and here and not this_machine().gpus:
                notes.append(
                    "No GPU is here, so cuda was not calibrated. Give an instance of prices: its images_per_second "
                    "where it was measured elsewhere."
                )
                continue
            mine = prepare(_on(settings, kind), str(prepared.folder))
            measured = _to_measure(chosen, mine, counts, here)
            for one in measured:
                found.append(
                    calibrate(
                        mine,
                        open_executor(one, encode_layout(one, mine)),
                        shared=here,
                        rows=rows,
                        seconds=max(_SHORTEST_SECONDS, SECONDS / len(measured)),
                        listener=progress_for(err, as_json),
                    )
                )
            wanted = wanted or [found[-1].workers]
        if not found:
            raise ConfigError(" ".join(notes) + " Nothing was measured; leave out --devices, or add cpu to it.")
        info = prepared.source_info
        threads = None if settings.run.threads == "auto" else settings.run.threads
        result = estimate_of(
            settings.name,
            Work(info.rows, prepared.grid.rows_per_chunk, info.captions),
            found,
            wanted,
            this_machine().memory if here and chosen.kind != "serial" else None,
            threads,
            settings.prices,
            notes,
        )
        keep(prepared.folder, prepared.content, found, result.to_json())
        answer(result.to_json(), as_json, estimate_table(result))


def _devices(text: str | None, usual: str) -> list[str]:
    from daskt2i.errors import ConfigError

    kinds = [usual] if text is None else [part.strip() for part in text.split(",")]
    if not all(kind == usual or kind.partition(":")[0] in ("cpu", "cuda") for kind in kinds):
        raise ConfigError(f"--devices {text!r} is not of the form cpu,cuda.")
    return list(dict.fromkeys(kinds))


def _on(settings: Any, device: str) -> Any:
    """The workflow on another device."""
    return settings.model_copy(update={"run": settings.run.model_copy(update={"device": device})})


def _to_measure(chosen: Any, prepared: Any, counts: list[int], here: bool) -> list[Any]:
    """The schedulers to measure on: of the numbers asked for, those that this machine has cores and memory for.

    Elsewhere one worker, or all those of a cluster that is there already.
    """
    from dataclasses import replace

    from daskt2i.machine.machine import this_machine
    from daskt2i.plan import PAUSE_FRACTION

    if chosen.kind == "address" or chosen.workers is not None or chosen.kind == "serial":
        return [chosen]
    if not here:
        return [replace(chosen, workers=1)]
    machine = this_machine()
    if not counts or prepared.on_gpu:
        return [chosen]
    room = int(machine.memory * PAUSE_FRACTION // prepared.requirements.worker_memory)
    return [replace(chosen, workers=n) for n in counts if n <= min(machine.cores, room)] or [chosen]
