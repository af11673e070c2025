"""One simulated run: the real plan, window, scheduler, receipts and manifest; workers sleep instead of encoding.

Covers: `encode` from start to end with `encode_chunk` replaced; memory and processor time over chunks.
Does not cover: the choice of runs (`scheduler`).

Workers are threads of the scheduler's process, so they share one Python interpreter and about one core. The measured
cost of a chunk also includes the driver. So it is more than the cost of a scheduler alone.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import dask
import psutil

from daskt2i.bench.measured import BenchTask
from daskt2i.config.settings import Workflow
from daskt2i.encode import driver as encode
from daskt2i.encode import prepare
from daskt2i.encode.job import EncodeJob
from daskt2i.encode.model_cache import models_for, process_name
from daskt2i.encode.worker import encode_chunk
from daskt2i.errors import ExecutorError
from daskt2i.events import ChunkDone, Event
from daskt2i.machine.machine import peak_bytes
from daskt2i.plan import WorkerLayout
from daskt2i.protocols import Executor, ExecutorInfo
from daskt2i.session.schedulers import Scheduler, open_executor
from daskt2i.store.layout import empty_chunk, store_arrays
from daskt2i.store.publishing.attempts import begin_attempt
from daskt2i.store.receipts import Receipts
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Chunk, Encoded, Receipt, Shard, Staged

T = TypeVar("T")
R = TypeVar("R")

SCHEDULER = "simulation"
"""Name of the cluster file."""

SAMPLES = 200
"""Number of memory measurements over a run."""

_CONNECT_SECONDS_PER_WORKER = 0.2
"""All workers shake hands with the scheduler in one Python interpreter, and who connects meanwhile waits so long."""

_LIMIT = 1 << 40
"""Memory limit of each worker in bytes: effectively none, because all workers share one process."""


def simulated_chunk(seconds: float, arrays: bool, job: EncodeJob, chunk: Chunk) -> Staged:
    """Replaces `encode_chunk`: sleep, perhaps write the chunk, and write its receipt.

    Args:
        seconds: duration of the sleep.
        arrays: write the arrays, with fill values. Otherwise the receipt names an empty object that all chunks share,
            and the store cannot be verified.
    """
    begun = time.perf_counter()
    time.sleep(seconds)
    shards: tuple[Shard, ...] = (Shard("none", "0" * 64, 0),)
    attempt = begin_attempt(job.folder, job.run, chunk.index)
    if arrays:
        models = models_for(job)
        specs = store_arrays(models.image_info, models.text_info, job.slots, job.store)
        shards = ZarrStore(job.folder).write(chunk, Encoded(empty_chunk(specs, len(chunk))), attempt)
    else:
        attempt.write("none", b"")
    receipt = Receipt(
        chunk=chunk.index,
        start=chunk.start,
        stop=chunk.stop,
        fingerprint=job.fingerprint,
        accepted=len(chunk),
        captions=sum(len(row.captions) for row in chunk.rows),
        truncated=0,
        rejected=(),
        inputs=hashlib.sha256().hexdigest(),
        seconds={"encode_image": seconds, "total": time.perf_counter() - begun},
        worker=process_name(),
        loads={"image": 1, "text": 1},
        batch=1,
        peak_bytes=peak_bytes(),
        shards=shards,
    )
    Receipts(job.folder).write(receipt, attempt)
    return Staged(receipt, attempt.name)


class SimulatedExecutor:
    """Wraps an executor, and uses `simulated_chunk` in place of `encode_chunk`."""

    def __init__(self, inner: Executor, seconds: float, arrays: bool) -> None:
        self._inner, self._seconds, self._arrays = inner, seconds, arrays
        self.begun = self.last = 0.0

    def start(self) -> ExecutorInfo:
        """Start the wrapped executor."""
        return self._inner.start()

    def run(
        self, work: Callable[[T], R], items: Iterable[T], alone: bool = False
    ) -> Iterator[tuple[T, R | BaseException]]:
        """Run on the wrapped executor. Only chunks are simulated; the inspection runs unchanged."""
        replaced: Callable[[Any], Any] = work
        if isinstance(work, functools.partial) and work.func is encode_chunk:
            replaced = functools.partial(simulated_chunk, self._seconds, self._arrays, work.args[0])
            self.begun = self.begun or time.perf_counter()
        for outcome in self._inner.run(replaced, items, alone):
            self.last = time.perf_counter()
            yield outcome

    def avoid(self, workers: Collection[str]) -> int:
        """As the wrapped executor."""
        return self._inner.avoid(workers)

    def close(self) -> None:
        """Close the wrapped executor."""
        self._inner.close()


@dataclass(frozen=True, slots=True)
class Simulated:
    """The result of one run.

    Attributes:
        chunks, rows: numbers of committed chunks and rows.
        steady: wall seconds from the first chunk's start to the last chunk's end.
        finish: seconds from there to the end: the manifest, closing.
        cpu: processor seconds of the driver and of the process with scheduler and workers, in the steady part.
        memory: (finished chunks, resident bytes of both processes), over the run.
    """

    workers: int
    chunks: int
    rows: int
    steady: float
    finish: float
    cpu: float
    memory: tuple[tuple[int, int], ...]


def simulate(task: BenchTask, workflow: Workflow) -> Simulated:
    """Run the simulation in this process.

    Raises:
        ExecutorError: rows are missing, or chunks failed.
    """
    prepared = prepare.prepare(workflow, task.folder, draw=False)
    chosen = Scheduler.parse(f"{SCHEDULER}:{task.workers}")
    layout = WorkerLayout(task.workers, 1, _LIMIT, "simulated")
    executor = SimulatedExecutor(open_executor(chosen, layout), task.chunk_seconds, task.arrays)
    process = psutil.Process()
    family: list[psutil.Process] = []  # this process and the scheduler's, filled at the first chunk
    every = max(1, len(prepared.grid) // SAMPLES)
    memory: list[tuple[int, int]] = []
    done, cpu, before = 0, 0.0, 0.0

    def listen(event: Event) -> None:
        nonlocal done, cpu, before
        if isinstance(event, ChunkDone):
            done += 1
            if not family:
                family.extend([process, *process.children(recursive=True)])
            if done == 1 or done % every == 0 or done == len(prepared.grid):
                memory.append((done, sum(p.memory_info().rss for p in family)))
                cpu = sum(sum(p.cpu_times()[:2]) for p in family)
                before = before or cpu

    patience = f"{30 + _CONNECT_SECONDS_PER_WORKER * task.workers:.0f}s"
    with dask.config.set({"distributed.comm.timeouts.connect": patience}):
        summary = encode.encode(prepared, executor, listen)
    ended = time.perf_counter()
    if summary.failed or summary.accepted != prepared.source_info.rows:
        raise ExecutorError(
            f"Only {summary.accepted:,} of {prepared.source_info.rows:,} rows were counted, and "
            f"{len(summary.failed):,} chunks failed, so this run has no figures."
        )
    return Simulated(
        workers=summary.workers,
        chunks=summary.done,
        rows=summary.accepted,
        steady=executor.last - executor.begun,
        finish=ended - executor.last,
        cpu=cpu - before,
        memory=tuple(memory),
    )
