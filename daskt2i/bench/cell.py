"""One measurement in a separate process: `python -m daskt2i.bench.cell TASK RESULT`, two JSON files.

Covers: running `encode` with a warm start and a meter, `encode.naive`, `encode.peak`, `simulation`; writing one result
object in every case.
Does not cover: the choice of cells and their reports (`bench.encode`). People do not type this command.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from daskt2i import documents
from daskt2i.bench import simulation
from daskt2i.bench.encode import naive, peak
from daskt2i.bench.encode.warm import WarmExecutor
from daskt2i.bench.measured import BenchTask, Measured
from daskt2i.bench.meter import Meter
from daskt2i.config.settings import Workflow
from daskt2i.config.workflow_file import load_defaults, parse_workflow
from daskt2i.deploy.child_processes import end_with_parent
from daskt2i.encode import driver as encode
from daskt2i.encode import prepare
from daskt2i.events import ChunkDone, ChunkFailed, Event
from daskt2i.machine.machine import peak_bytes
from daskt2i.portable_errors import to_json
from daskt2i.session.schedulers import Scheduler, open_executor
from daskt2i.session.worker_layout import encode_layout
from daskt2i.types import Receipt


def main(arguments: list[str]) -> None:
    """Do the task, and write its result: `{"measured": …}`, `peak`, `simulated`, or `{"error": …}`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process ignores SIGINT by default
    task = BenchTask.from_json(Path(arguments[0]).read_text(encoding="utf-8"))
    end_with_parent(task.parent)
    try:
        result = perform(task)
    except Exception as error:
        result = {"error": to_json(error)}
    Path(arguments[1]).write_text(json.dumps(result), encoding="utf-8")


def perform(task: BenchTask) -> dict[str, Any]:
    """Do the task in this process, and return its result."""
    load_defaults()
    workflow = parse_workflow(documents.read_yaml(task.workflow), "of a benchmark")
    if task.kind == "peak":
        return {"peak": peak.measure(task, workflow)}
    if task.kind == "scheduler":
        return {"simulated": asdict(simulation.simulate(task, workflow))}
    measured = naive.run_naive(task, workflow) if task.kind == "naive" else run_encode(task, workflow)
    return {"measured": asdict(measured)}


class _Receipts:
    """A listener that keeps the figures of each receipt that the tables need."""

    def __init__(self) -> None:
        self.stages: Counter[str] = Counter()
        self.chunk_seconds: list[float] = []
        self.peak = self.batch = 0
        self.problem: BaseException | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, ChunkFailed):
            self.problem = event.error
        if isinstance(event, ChunkDone):
            self._add(event.receipt)

    def _add(self, receipt: Receipt) -> None:
        seconds = dict(receipt.seconds)
        load = seconds.pop("load", 0.0)
        seconds["total"] -= load
        self.stages.update(seconds)
        self.chunk_seconds.append(seconds["total"])
        self.peak, self.batch = max(self.peak, receipt.peak_bytes), max(self.batch, receipt.batch)


def run_encode(task: BenchTask, workflow: Workflow) -> Measured:
    """Run `encode` as a user does, except that all workers load before the first chunk.

    Raises:
        Daskt2iError: an error of `encode`, or of a chunk that failed after all tries.
    """
    run = workflow.run.model_copy(update={"workers": task.workers, "threads": task.threads})
    prepared = prepare.prepare(workflow.model_copy(update={"run": run}), task.folder, draw=False)
    chosen = Scheduler.parse(task.scheduler)
    meter, receipts = Meter(), _Receipts()
    layout = encode_layout(chosen, prepared)
    executor = WarmExecutor(open_executor(chosen, layout), prepared.folder, meter)
    try:
        summary = encode.encode(prepared, executor, receipts)
    finally:
        meter.close()
    ended = time.time()
    if receipts.problem is not None and summary.failed:
        raise receipts.problem
    summary.raise_for_failed()
    return Measured(
        workers=summary.workers,
        threads=summary.threads,
        precision=summary.precision,
        rows=prepared.source_info.rows,
        accepted=summary.accepted,
        rejected=sum(summary.rejected.values()),
        cold=executor.loaded - task.begun,
        steady=executor.last - executor.loaded,
        finish=ended - executor.last,
        cpu=meter.cpu,
        elsewhere=meter.elsewhere,
        stages=dict(receipts.stages),
        chunk_seconds=tuple(receipts.chunk_seconds),
        worker_peak=receipts.peak,
        driver_peak=peak_bytes(),
        written=summary.bytes,
        captions=summary.captions,
        distinct=_distinct(prepared),
        batch=receipts.batch,
        memory=tuple(meter.memory),
    )


def _distinct(prepared: prepare.EncodePlan) -> int:
    """Number of captions that were encoded: equal captions of a chunk count once."""
    chunks = (prepared.source.rows(chunk.start, chunk.stop) for chunk in prepared.grid)
    return sum(len({caption for row in rows if row.usable for caption in row.captions}) for rows in chunks)


if __name__ == "__main__":
    main(sys.argv[1:])
