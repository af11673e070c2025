"""Chunks on the workers of a Dask cluster: this machine or many.

Covers: a sliding window, moving a chunk away from a worker that retires, workers that die, stage times on Dask's Fine
Performance Metrics page.
Does not cover: starting a cluster (`deploy`), pages of our own on the dashboard.

Tasks carry neither `resources=` nor `workers=`: those bypass the scheduler's queue, and a dead worker then blames all
that were assigned to it.
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
"""Stages that fill the task's own thread; reading and decoding run beside it and would count twice."""


class DaskExecutor:
    """Runs on every worker that the scheduler has, and on those that join.

    Args:
        connect: makes the connection; called by `start`.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._workers, self._counted = 0, float("-inf")

    def start(self) -> ExecutorInfo:
        """Connect, and count the workers.

        Raises:
            SchedulerError: no scheduler, or one without workers.
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
                "Start some (`dask worker ADDRESS`), and run the same command again."
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
        """Each item with its result or its error, in order of completion. See `protocols.Executor.run`."""
        assert self._connection is not None, "start() comes first"
        client = self._connection.client
        source = iter(items)
        flying: dict[Future, T] = {}
        suspects: list[T] = []

        def submit(item: T) -> Future:
            # Equal calls would share one future; a chunk is never "the same" as its retry.
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
                        "The scheduler is gone, and with it the work that was in flight. What is committed stays; "
                        "start the cluster again and run the same command: it goes on."
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
        """Two items per worker. Workers come and go; counting them asks the scheduler, so not for every item."""
        assert self._connection is not None
        if monotonic() - self._counted > _COUNT_SECONDS and self._connection.client.status == "running":
            self._counted = monotonic()
            _forget(self._connection.client)
            with suppress(OSError, RuntimeError, TimeoutError):  # a scheduler that goes away is told where it matters
                self._workers = len(workers_of(self._connection.client))
        return 2 * max(1, self._workers)


def _forget(client: Client) -> None:
    """Drop what Dask keeps in this process of every task that ever ran, about 0.6 KB each.

    `key_split` remembers 100,000 names of tasks; the connection keeps its last messages, a chunk's with its captions.
    A scheduler keeps its own: `deploy.cluster_process` empties that of a cluster that we started.
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
    """Free what the frames of an error hold. Dask keeps errors until Python looks for garbage, and memory may be short.

    The lines of the traceback stay.
    """
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _on_worker(work: Callable[[T], R], item: T) -> R:
    """One item in a Dask worker."""
    worker = get_worker()
    key = worker.get_current_task()

    def check() -> None:
        # Retirement, lifetime and adaptive scaling do not wait for a running task; a chunk that goes on there would
        # be computed twice, and its worker killed in the middle of it.
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
    if failed is not None:  # raised out here, lest it gets the one that does not travel as its context
        _forget_locals(failed)
        try:
            raise failed
        finally:
            del failed  # else it and this frame hold each other
    for stage, value in (getattr(result, "seconds", None) or {}).items():
        if stage in _IN_THREAD:
            context_meter.digest_metric(stage, value, "seconds")
    return result
