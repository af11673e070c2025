"""Chunks on the workers of a Dask cluster: this machine or many.

Covers: a sliding window, moving a chunk away from a retiring worker, workers that die, stage times on Dask's Fine
Performance Metrics page.
Does not cover: starting a cluster (`deploy`), dashboard pages of daskt2i.

Tasks use neither `resources=` nor `workers=`. Both bypass the scheduler's queue: then all tasks that were assigned to a
worker are blamed for its death.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

from dask.utils import key_split
from distributed import Client, Future, KilledWorker, Reschedule, as_completed, get_worker
from distributed.core import Status
from distributed.metrics import context_meter

from daskt2i.deploy.connect import Connection
from daskt2i.deploy.workers import workers_of
from daskt2i.encode.worker import interruption
from daskt2i.errors import SchedulerError
from daskt2i.executors.attempts import lost
from daskt2i.portable_errors import portable
from daskt2i.protocols import ExecutorInfo
from daskt2i.retries import FIRST_WORKER_SECONDS

T = TypeVar("T")
R = TypeVar("R")

_COUNT_SECONDS = 5.0

_LEAVING = (Status.closing, Status.closing_gracefully, Status.closed, Status.stopping)

_IN_THREAD = ("load", "wait", "encode_image", "encode_text", "gate", "write")
"""Stages in the task's own thread. Reading and decoding run in other threads at the same time, so they do not count."""


class DaskExecutor:
    """Runs on all workers of the scheduler, including workers that join later.

    Args:
        connect: makes the connection; `start` calls it.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._workers, self._counted = 0, float("-inf")

    def start(self) -> ExecutorInfo:
        """Connect, and count the workers.

        Raises:
            SchedulerError: there is no scheduler, or it has no workers.
        """
        self._connection = self._connect()
        client = self._connection.client
        try:
            client.wait_for_workers(1, timeout=FIRST_WORKER_SECONDS)
        except TimeoutError:
            address = client.scheduler.address
            self.close()
            raise SchedulerError(
                f"The scheduler at {address} has no workers, so nothing was started. "
                "Start workers (`dask worker ADDRESS`), and run it again."
            ) from None
        workers = workers_of(client)
        limits = [w["memory_limit"] for w in workers.values() if w.get("memory_limit")]
        return ExecutorInfo(
            workers=len(workers),
            threads=self._connection.threads,
            memory_limit=min(limits) if limits else None,
            address=client.scheduler.address,
            dashboard=client.dashboard_link or "",
        )

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R | BaseException]]:
        """Yield each item with its result or its error, in order of completion. See `protocols.Executor.run`."""
        assert self._connection is not None, "start() comes first"
        client = self._connection.client
        source = iter(items)
        flying: dict[Future, T] = {}
        suspects: list[T] = []

        def submit(item: T) -> Future:
            # Without pure=False equal calls would share one future, and a retry of a chunk would not run.
            future = client.submit(_on_worker, work, item, pure=False, key=None)
            flying[future] = item
            return future

        try:
            completed = as_completed(with_results=False, loop=client.loop)
            for item in source:
                completed.add(submit(item))
                if len(flying) >= self._window():
                    break
            for future in completed:
                item = flying.pop(future)
                outcome = _outcome(future)
                if isinstance(outcome, CancelledError) or client.status != "running":
                    flying.clear()
                    raise SchedulerError(
                        "The scheduler is gone, and the work in flight is lost. Finished work is kept. "
                        "Start the cluster and run it again: it continues from there."
                    )
                while len(flying) < self._window():
                    try:
                        completed.add(submit(next(source)))
                    except StopIteration:
                        break
                if isinstance(outcome, KilledWorker):
                    suspects.append(item)
                else:
                    yield item, outcome
            for item in suspects:
                future = submit(item)
                outcome = _outcome(future)
                del flying[future]
                yield item, lost(item) if isinstance(outcome, KilledWorker) else outcome
        finally:
            if flying:
                client.cancel(list(flying), asynchronous=False)

    def close(self) -> None:
        """Close the client, and the cluster if it was started here."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _window(self) -> int:
        """Two items per worker. Workers come and go. Counting them asks the scheduler, so not for every item."""
        assert self._connection is not None
        if monotonic() - self._counted > _COUNT_SECONDS and self._connection.client.status == "running":
            self._counted = monotonic()
            _forget(self._connection.client)
            with suppress(OSError, RuntimeError, TimeoutError):  # `run` reports a lost scheduler
                self._workers = len(workers_of(self._connection.client))
        return 2 * max(1, self._workers)


def _forget(client: Client) -> None:
    """Delete what Dask keeps in this process about every finished task, about 0.6 KB each.

    `key_split` remembers 100,000 names of tasks. The connection keeps its last messages, with the captions of chunks.
    The scheduler keeps records too: `deploy.cluster_process` deletes them in a cluster that daskt2i started.
    """
    key_split.cache_clear()
    with suppress(AttributeError):  # another version of distributed
        client.scheduler_comm.recent_message_log.clear()


def _outcome(future: Future) -> Any:
    try:
        error = future.exception()
        return future.result() if error is None else error
    except Exception as error:  # the future was lost with its scheduler
        return error


def _forget_locals(error: BaseException | None) -> None:
    """Free the local variables in the frames of an error; the lines of the traceback stay.

    Dask keeps errors until Python's garbage collection runs, and memory may be short.
    """
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _on_worker(work: Callable[[T], R], item: T) -> R:
    """Run one item in a Dask worker."""
    worker = get_worker()
    key = worker.get_current_task()

    def check() -> None:
        # Retirement, lifetime and adaptive scaling do not wait for a running task. If the chunk continued, its worker
        # would be killed in the middle of it, and the chunk would be computed twice.
        if worker.status in _LEAVING:
            raise Reschedule
        task = worker.state.tasks.get(key)
        if task is not None and task.state == "cancelled":
            raise Reschedule

    token, failed = interruption.set(check), None
    try:
        result = work(item)
    except Exception as error:
        failed = portable(error)
    finally:
        interruption.reset(token)
    if failed is not None:  # raised outside the except block: its context would be the error that cannot be pickled
        _forget_locals(failed)
        try:
            raise failed
        finally:
            del failed  # breaks the reference cycle between the error and this frame
    for stage, value in (getattr(result, "seconds", None) or {}).items():
        if stage in _IN_THREAD:
            context_meter.digest_metric(stage, value, "seconds")
    return result
