"""The estimate of a run: which workers and devices it measures.

Covers: making an `EstimateResult` from a workflow and workers, and keeping it in `reports/estimate.json`.
Does not cover: measuring (`encode.calibration`), the arithmetic (`estimate.arithmetic`), how it looks
(`display.estimate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from daskt2i.config.settings import Workflow
from daskt2i.encode.calibration import SECONDS, calibrate
from daskt2i.encode.prepare import EncodePlan, prepare
from daskt2i.errors import ConfigError
from daskt2i.estimate.arithmetic import Calibration, Work
from daskt2i.estimate.forecast import keep
from daskt2i.estimate.result import EstimateResult, estimate_of
from daskt2i.events import Listener, ignore
from daskt2i.machine.machine import this_machine
from daskt2i.plan import PAUSE_FRACTION
from daskt2i.session.schedulers import Scheduler, open_executor
from daskt2i.session.session import Session
from daskt2i.session.worker_layout import encode_layout

_SHORTEST_SECONDS = 15.0
_HERE = ("serial", "multiprocessing", "joblib", "local")
_NO_GPU = (
    "This machine has no GPU, so cuda was not measured. If you measured cuda on another machine, set images_per_second "
    "of an instance in prices: of the workflow."
)


def estimate(
    workflow: Workflow,
    out: str,
    session: Session,
    *,
    workers: Sequence[int] = (),
    devices: Sequence[str] = (),
    rows: int | None = None,
    listener: Listener = ignore,
) -> EstimateResult:
    """Measure some rows, and predict the whole encode.

    Args:
        out: the run folder.
        session: where to measure: on its client if the user gave one, else on workers that run only for this.
        workers: numbers of workers to predict for. Empty: the number that `encode` would use.
        devices: `cpu`, `cuda`, `cuda:N`. Empty: `run.device`.
        rows: number of rows to measure. None: as many as a minute allows.

    Raises:
        ConfigError: a device is unknown, or no device could be measured.
        Daskt2iError: any error that `encode` raises.
    """
    chosen = session.scheduler
    wanted = list(dict.fromkeys(workers))
    here = chosen.kind in _HERE
    kinds = _devices(devices, workflow.run.device)
    prepared = prepare(workflow, out)
    found: list[Calibration] = []
    notes: list[str] = []
    for kind in kinds:
        if kind.startswith("cuda") and here and not this_machine().gpus:
            notes.append(_NO_GPU)
            continue
        mine = prepare(_on(workflow, kind), str(prepared.folder))
        measured = _to_measure(chosen, mine, list(workers), here)
        for one in measured:
            layout = encode_layout(one, mine)
            # A running cluster would hide the time that it needs to start.
            executor = session.executor(layout) if session.borrowed else open_executor(one, layout)
            seconds = max(_SHORTEST_SECONDS, SECONDS / len(measured))
            found.append(calibrate(mine, executor, shared=here, rows=rows, seconds=seconds, listener=listener))
        wanted = wanted or [found[-1].workers]
    if not found:
        raise ConfigError(" ".join(notes) + " Nothing was measured; give cpu, or cpu,cuda (devices).")
    info = prepared.source_info
    result = estimate_of(
        workflow.name,
        Work(info.rows, prepared.grid.rows_per_chunk, info.captions),
        found,
        wanted,
        this_machine().memory if here and chosen.kind != "serial" else None,
        None if workflow.run.threads == "auto" else workflow.run.threads,
        workflow.prices,
        notes,
    )
    keep(prepared.folder, prepared.content, found, result.to_json())
    return result


def _devices(given: Sequence[str], usual: str) -> list[str]:
    kinds = list(given) or [usual]
    if not all(kind == usual or kind.partition(":")[0] in ("cpu", "cuda") for kind in kinds):
        raise ConfigError(
            f"The devices {','.join(kinds)!r} are unknown. Nothing was measured; use cpu, cuda or cuda:N, separated by "
            "commas (devices)."
        )
    return list(dict.fromkeys(kinds))


def _on(workflow: Workflow, device: str) -> Workflow:
    """A copy of the workflow with another device."""
    return workflow.model_copy(update={"run": workflow.run.model_copy(update={"device": device})})


def _to_measure(chosen: Scheduler, prepared: EncodePlan, counts: Sequence[int], here: bool) -> list[Scheduler]:
    """The schedulers to measure on: one for each requested number of workers that fits this machine's cores and memory.

    On other machines it is one worker, or all workers of an existing cluster.
    """
    if chosen.kind == "address" or chosen.workers is not None or chosen.kind == "serial":
        return [chosen]
    if not here:
        return [replace(chosen, workers=1)]
    machine = this_machine()
    if not counts or prepared.on_gpu:
        return [chosen]
    room = int(machine.memory * PAUSE_FRACTION // prepared.requirements.worker_memory)
    return [replace(chosen, workers=n) for n in counts if n <= min(machine.cores, room)] or [chosen]
