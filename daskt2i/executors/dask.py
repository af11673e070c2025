"""Chunks on the workers of a Dask cluster: this machine or many.

Covers: a sliding window, moving a chunk away from a retiring worker, workers that die or get no more items, a cluster
without workers, stage times on Dask's Fine Performance Metrics page.
Does not cover: starting a cluster (`deploy`), dashboard pages of daskt2i.

Tasks use no `resources=`, and `workers=` only after a worker was set aside. Both bypass the scheduler's queue: then all
tasks that were assigned to a worker are blamed for its death.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager, nullcontext, suppress
from time import monotonic
from typing import Any, Generic, TypeVar

import dask
from dask.utils import key_split
from distributed import Client, Future, KilledWorker, Reschedule, as_completed, get_worker
from distributed.core import Status

from daskt2i.deploy.connect import Connection, dashboard_of
from daskt2i.deploy.scheduler_side import page_of, unreadable_by
from daskt2i.deploy.workers import workers_of
from daskt2i.encode.model_cache import process_name
from daskt2i.encode.worker import interruption
from daskt2i.errors import SchedulerError
from daskt2i.events import Waiting
from daskt2i.executors.attempts import described, lost
from daskt2i.executors.dask_losses import Losses
from daskt2i.executors.dask_names import key_of, measure, span_of
from daskt2i.executors.dask_questions import ask_each, on_this_machine
from daskt2i.portable_errors import portable
from daskt2i.protocols import ExecutorInfo, WorkerDeath
from daskt2i.retries import ALLOWED_DEATHS, FIRST_WORKER_SECONDS, NO_WORKERS_SECONDS

T = TypeVar("T")
R = TypeVar("R")

_COUNT_SECONDS = 5.0

_LEAVING = (Status.closing, Status.closing_gracefully, Status.closed, Status.stopping)


class DaskExecutor:
    """Runs on all workers of the scheduler, including workers that join later.

    Args:
        connect: makes the connection; `start` calls it.

    Attributes:
        waiting: what `run` waits for now, if that is not the end of an item.
        worker_deaths: as in `protocols.Executor`.
    """

    waiting: Waiting | None = None

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._workers, self._counted = 0, float("-inf")
        self._absent: float | None = None
        self._flight: _Flight[Any, Any] | None = None
        self._avoided: frozenset[str] = frozenset()
        self._left_out: frozenset[str] = frozenset()
        self._allowed: list[str] | None = None
        self._addresses: dict[str, str] = {}
        self._losses = Losses()
        self.worker_deaths: deque[WorkerDeath] = deque()

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
            dashboard=page_of(dashboard_of(client)),
        )

    def run(
        self, work: Callable[[T], R], items: Iterable[T], alone: bool = False
    ) -> Iterator[tuple[T, R | BaseException]]:
        """Yield each item with its result or its error, in order of completion. See `protocols.Executor.run`.

        Raises:
            SchedulerError: the scheduler is lost, or it has no workers for too long.
        """
        assert self._connection is not None, "start() comes first"
        source = iter(items)
        client = self._connection.client
        # The caller tells of the death of an item that runs alone.
        heard = nullcontext() if alone else self._losses.heard(client)
        with closing(_Flight(client, work)) as flight, self._deaths(alone), heard:
            self._flight, flight.allowed = flight, self._allowed
            suspects: list[T] = []
            flight.fill(source, 1 if alone else self._window())
            while (ended := self._next(flight)) is not None:
                item, outcome = ended
                if isinstance(outcome, KilledWorker) and not alone:
                    suspects.append(item)
                    flight.fill(source, self._window())
                    continue
                if not alone:
                    flight.fill(source, self._window())
                yield item, lost(item) if isinstance(outcome, KilledWorker) else self._blamed(outcome)
                if alone:
                    flight.fill(source, 1)
            for item in suspects:
                flight.fill(iter([item]), 1)
                ended = self._next(flight)
                assert ended is not None
                yield item, lost(item) if isinstance(ended[1], KilledWorker) else self._blamed(ended[1])

    def avoid(self, workers: Collection[str]) -> int:
        """Give no more items to these workers. No worker is retired or restarted: it may belong to somebody else."""
        assert self._connection is not None, "start() comes first"
        avoided = {self._addresses[name] for name in workers if name in self._addresses} | self._left_out
        present = set(workers_of(self._connection.client))
        self._avoided, self._workers = frozenset(avoided), len(present - avoided)
        self._allowed = sorted(present - avoided) if avoided else None
        if self._flight is not None:
            self._flight.allowed = self._allowed
        return len(present - avoided)

    def ask(self, question: Callable[[], R], seconds: float) -> Mapping[str, R]:
        """See `protocols.AsksWorkers.ask`. The workers of a cluster on this machine see what the driver sees."""
        assert self._connection is not None, "start() comes first"
        if self._connection.owned and on_this_machine(workers_of(self._connection.client)):
            return {}
        return ask_each(self._connection.client, question, seconds)

    def leave_out(self, workers: Collection[str]) -> int:
        """See `protocols.AsksWorkers.leave_out`."""
        self._left_out = frozenset(workers)
        return self.avoid(())

    def close(self) -> None:
        """Close the client, and the cluster if it was started here."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _next(self, flight: _Flight[T, R]) -> tuple[T, R | BaseException] | None:
        """The next item that ended, or None if none is in flight."""
        client = flight.client
        while not flight.has_ended():
            if not flight.flying:
                return None
            self._count()
            self._mourn(flight)
            flight.pause()
        self._mourn(flight)
        item, outcome = flight.take()
        self.waiting = self._absent = None
        if (unreadable := unreadable_by(client, outcome)) is not None:
            raise unreadable
        if isinstance(outcome, CancelledError) or client.status != "running":
            flight.flying.clear()
            raise SchedulerError(
                "The scheduler is gone, and the work in flight is lost. Finished work is kept. "
                "Start the cluster and run it again: it continues from there."
            )
        return item, outcome

    def _mourn(self, flight: _Flight[T, R]) -> None:
        """Record workers that were lost with items of ours."""
        while self._losses.told:
            about = self._losses.told.popleft()
            keys = set(about.get("processing-tasks", ()))
            items = tuple(item for future, (item, _) in flight.flying.items() if future.key in keys)
            if items:
                with suppress(OSError, RuntimeError, TimeoutError):
                    self._workers = len(set(workers_of(flight.client)) - self._avoided)
                how = "was lost: it was killed, it crashed, or its connection broke"
                self.worker_deaths.append(WorkerDeath(str(about.get("worker", "")), how, items, self._workers))

    def _blamed(self, outcome: R | BaseException) -> R | BaseException:
        if isinstance(outcome, BaseException) and (address := getattr(outcome, "worker_address", None)):
            self._addresses[getattr(outcome, "worker", "")] = address
        return outcome

    @contextmanager
    def _deaths(self, alone: bool) -> Iterator[None]:
        """For items that run alone, one death is enough: on a scheduler of our own nothing else runs meanwhile."""
        assert self._connection is not None
        client, change = self._connection.client, alone and self._connection.owned
        if change:
            client.run_on_scheduler(_allow_deaths, 0)
        try:
            yield
        finally:
            if change:
                with suppress(OSError, RuntimeError, TimeoutError):
                    client.run_on_scheduler(_allow_deaths, ALLOWED_DEATHS)

    def _window(self) -> int:
        """Two items per worker. Workers come and go."""
        self._count()
        return 2 * max(1, self._workers)

    def _count(self) -> None:
        """Count the workers. This asks the scheduler, so not for every item.

        Raises:
            SchedulerError: there were none for too long.
        """
        assert self._connection is not None
        client = self._connection.client
        if monotonic() - self._counted <= _COUNT_SECONDS or client.status != "running":
            return
        self._counted = monotonic()
        _forget(client)
        try:
            present = set(workers_of(client))
        except (OSError, RuntimeError, TimeoutError):  # `run` reports a lost scheduler
            return
        self._workers = len(present - self._avoided)
        if self._flight is not None and self._avoided:
            self._allowed = sorted(present - self._avoided) or self._allowed
            self._flight.move(self._allowed or [])
        if self._workers:
            self.waiting = self._absent = None
            return
        self._absent = self._absent or monotonic()
        seconds = monotonic() - self._absent
        if why := self._connection.ended():
            raise SchedulerError(f"{why} Finished work is kept. Run it again: it continues from there.")
        self.waiting = Waiting("workers: the scheduler has none", client.scheduler.address, seconds, NO_WORKERS_SECONDS)
        if seconds > NO_WORKERS_SECONDS:
            named = ", ".join(self._flight.names()) if self._flight is not None else "nothing"
            raise SchedulerError(
                f"The scheduler at {client.scheduler.address} has had no workers for {seconds / 60:.0f} min. In flight "
                f"when they left: {named}. Finished work is kept. Start workers (`dask worker ADDRESS`), and run it "
                "again: it continues from there."
            )


class _Flight(Generic[T, R]):
    """The items that a scheduler has.

    Attributes:
        flying: future -> its item, and the workers that it may run on (None for all).
        allowed: addresses of the workers for new items; None for all.
    """

    def __init__(self, client: Client, work: Callable[[T], R]) -> None:
        self.client, self._work, self._span = client, work, span_of(work)
        self.flying: dict[Future, tuple[T, list[str] | None]] = {}
        self.allowed: list[str] | None = None
        self._completed = as_completed(with_results=False, loop=client.loop)

    def fill(self, source: Iterator[T], window: int) -> None:
        """Submit items until there are `window` in flight."""
        while len(self.flying) < window:
            try:
                item = next(source)
            except StopIteration:
                return
            self._submit(item)

    def move(self, present: list[str]) -> None:
        """Submit again what may run only on workers that are gone."""
        self.allowed = present or None
        stuck = [
            future for future, (_, on) in self.flying.items() if on is not None and present and not {*on} & {*present}
        ]
        for future in stuck:
            item, _ = self.flying.pop(future)
            future.cancel()
            self._submit(item)

    def has_ended(self) -> bool:
        """Whether an item ended that was not taken."""
        return bool(self._completed.has_ready())

    def pause(self) -> None:
        """Wait a moment for an item to end."""
        with self._completed.thread_condition:
            self._completed.thread_condition.wait(0.1)

    def take(self) -> tuple[T, R | BaseException]:
        """An item that ended, with its result or its error."""
        while True:
            future = next(self._completed)
            if future in self.flying:
                return self.flying.pop(future)[0], _outcome(future)

    def names(self) -> list[str]:
        """Words for the items in flight."""
        return [described(item) for item, _ in self.flying.values()]

    def close(self) -> None:
        """Cancel what is in flight."""
        if self.flying:
            self.client.cancel(list(self.flying), asynchronous=False)
            self.flying.clear()

    def _submit(self, item: T) -> None:
        # Without pure=False equal calls would share one future, and a retry of a chunk would not run.
        # `workers=` bypasses the scheduler's queue, so it is used only after a worker was set aside.
        places = {} if self.allowed is None else {"workers": self.allowed, "allow_other_workers": False}
        with dask.annotate(**self._span):
            future = self.client.submit(_on_worker, self._work, item, pure=False, key=key_of(self._work), **places)
        self.flying[future] = (item, self.allowed)
        self._completed.add(future)


def _allow_deaths(count: int, dask_scheduler: Any = None) -> None:
    dask_scheduler.allowed_failures = count


def _forget(client: Client) -> None:
    """Delete what Dask keeps in this process about every finished task, about 0.6 KB each.

    `key_split` remembers 100,000 names of tasks. The connection keeps its last messages, with the captions of chunks.
    The scheduler keeps records too: `deploy.cluster_child` deletes them in a cluster that daskt2i started.
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
        with suppress(AttributeError, TypeError):  # a class with slots
            failed.worker, failed.worker_address = process_name(), worker.address  # type: ignore[attr-defined]
    finally:
        interruption.reset(token)
    if failed is not None:  # raised outside the except block: its context would be the error that cannot be pickled
        _forget_locals(failed)
        try:
            raise failed
        finally:
            del failed  # breaks the reference cycle between the error and this frame
    # The result of a chunk is its receipt and where it lies.
    measure(getattr(getattr(result, "receipt", result), "seconds", None) or {})
    return result
