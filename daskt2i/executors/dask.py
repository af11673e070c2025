"""Chunks on the workers of a Dask cluster: this machine or many.

Covers: a sliding window, workers that die or get no more items, workers of different speed, a cluster without workers.
Does not cover: starting a cluster (`deploy`), dashboard pages of daskt2i, who gets the next item (`window.lanes`), the
items that the scheduler has (`window.flight`), what runs on the worker (`dask_task`).

Equal workers with one thread each share the scheduler's queue: tasks use neither `resources=` nor `workers=`. Both
bypass the queue, and all tasks that were assigned to a worker are blamed for its death. Where the queue is no help, the
driver itself gives each worker its items (`workers=`), at most two. These are clusters with workers of several threads,
of which the queue would give eight chunks to one with eight threads, though it computes one after the other; workers of
different speed; and clusters of which only some workers may be used.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from operator import length_hint
from time import monotonic
from typing import Any, TypeVar

from dask.utils import key_split
from distributed import Client, KilledWorker
from distributed.core import Status

from daskt2i.deploy.connect import Connection, dashboard_of
from daskt2i.deploy.only import ALL, Only
from daskt2i.deploy.scheduler_side import page_of, unreadable_by
from daskt2i.deploy.workers import RANK_MEMORY, workers_of
from daskt2i.errors import SchedulerError
from daskt2i.events import Waiting
from daskt2i.executors.attempts import lost
from daskt2i.executors.dask_questions import ask_each, on_this_machine
from daskt2i.executors.dask_task import Ran, on_worker
from daskt2i.executors.window.flight import Flight, Flying
from daskt2i.executors.window.lanes import Lanes
from daskt2i.executors.window.losses import Losses
from daskt2i.protocols import ExecutorInfo, WorkerDeath, WorkersJoined
from daskt2i.retries import ALLOWED_DEATHS, FIRST_WORKER_SECONDS, NO_WORKERS_SECONDS

T = TypeVar("T")
R = TypeVar("R")

_COUNT_SECONDS = 5.0

_STAYING = {Status.init.name, Status.running.name, Status.paused.name}


class DaskExecutor:
    """Runs on all workers of the scheduler, including workers that join later.

    Args:
        connect: makes the connection; `start` calls it.
        own_threads: whether torch uses all threads of each worker, and not the same number everywhere.
        only: which workers get items, as `run.only`. A worker that runs a rank of a training gets none, if others do
            not.

    Attributes:
        waiting: what `run` waits for now, if that is not the end of an item.
        worker_deaths, worker_joins, processes: as in `protocols.Executor`.
    """

    waiting: Waiting | None = None

    def __init__(self, connect: Callable[[], Connection], own_threads: bool = False, only: str = ALL) -> None:
        self._connect, self._own_threads, self._only = connect, own_threads, Only(only)
        self._connection: Connection | None = None
        self._workers, self._counted = 0, float("-inf")
        self._usable: Mapping[str, Any] = {}
        self._absent: float | None = None
        self._flight: Flight[Any] | None = None
        self._avoided: frozenset[str] = frozenset()
        self._left_out: frozenset[str] = frozenset()
        self._allowed: list[str] | None = None
        self._lanes, self._places, self._wide = Lanes(), False, False
        self._addresses: dict[str, str] = {}
        self._losses = Losses()
        self._told, self._before = 0, 0
        self.worker_deaths: deque[WorkerDeath] = deque()
        self.worker_joins: deque[WorkersJoined] = deque()
        self.processes: dict[str, tuple[str, int]] = {}

    def start(self) -> ExecutorInfo:
        """Connect, and count the workers.

        Raises:
            SchedulerError: there is no scheduler, or it has no workers, or none that may get items.
        """
        self._connection = connection = self._connect()
        client = connection.client
        try:
            client.wait_for_workers(1, timeout=FIRST_WORKER_SECONDS)
        except TimeoutError:
            address = client.scheduler.address
            self.close()
            raise SchedulerError(
                f"The scheduler at {address} has no workers, so nothing was started. "
                "Start workers (`dask worker ADDRESS`), and run it again."
            ) from None
        try:
            workers = self._only.required(client, FIRST_WORKER_SECONDS)
        except SchedulerError:
            self.close()
            raise
        self._see(workers_of(client))
        return self._info(self._usable or workers)

    def run(
        self, work: Callable[[T], R], items: Iterable[T], alone: bool = False
    ) -> Iterator[tuple[T, R | BaseException]]:
        """Yield each item with its result or its error, in order of completion. See `protocols.Executor.run`.

        If `items` has a length, or its iterator a `__length_hint__`, workers of different speed end together.

        Raises:
            SchedulerError: the scheduler is lost, or it has no workers for too long.
        """
        assert self._connection is not None, "start() comes first"
        client = self._connection.client
        # The caller tells of the death of an item that runs alone.
        heard = nullcontext() if alone else self._losses.heard(client)
        self._lanes.empty()
        with closing(Flight[T](client, on_worker, work)) as flight, self._deaths(alone), heard:
            self._flight = flight
            suspects: list[T] = []
            fill = functools.partial(self._fill, flight, iter(items), alone)
            fill()
            while (ended := self._next(flight, fill)) is not None:
                item, outcome = ended
                if isinstance(outcome, KilledWorker) and not alone:
                    suspects.append(item)
                    fill()
                    continue
                if not alone:
                    fill()
                yield item, lost(item) if isinstance(outcome, KilledWorker) else self._blamed(outcome)
                if alone:
                    fill()
            for item in [*suspects, *flight.suspects]:
                flight.fill(iter([item]), 1, self._allowed)
                ended = self._next(flight, lambda: None)
                assert ended is not None
                yield item, lost(item) if isinstance(ended[1], KilledWorker) else self._blamed(ended[1])

    def avoid(self, workers: Collection[str]) -> int:
        """Give no more items to these workers. No worker is retired or restarted: it may belong to somebody else."""
        assert self._connection is not None, "start() comes first"
        self._avoided = frozenset(self._addresses[name] for name in workers if name in self._addresses)
        self._see(workers_of(self._connection.client))
        return self._workers

    def ask(self, question: Callable[[], R], seconds: float) -> Mapping[str, R]:
        """See `protocols.AsksWorkers.ask`. The workers of a cluster on this machine see what the driver sees.

        Only workers that get items are asked: another one may lack everything, or run a rank that takes hours.
        """
        assert self._connection is not None, "start() comes first"
        there = workers_of(self._connection.client)
        if self._connection.owned and on_this_machine(there):
            return {}
        return ask_each(self._connection.client, question, [one for one in there if one in self._usable], seconds)

    def leave_out(self, workers: Collection[str]) -> ExecutorInfo:
        """See `protocols.AsksWorkers.leave_out`."""
        self._left_out = frozenset(workers)
        self.avoid(())
        return self._info(self._usable)

    def close(self) -> None:
        """Close the client, and the cluster if it was started here."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _info(self, workers: Mapping[str, Any]) -> ExecutorInfo:
        """What the user is told of these workers. Worker address -> as in `deploy.workers.workers_of`."""
        assert self._connection is not None
        self._told = len(workers)
        client, threads = self._connection.client, [about["nthreads"] for about in workers.values()]
        limits = [about["memory_limit"] for about in workers.values() if about.get("memory_limit")]
        return ExecutorInfo(
            workers=len(workers),
            threads=min(threads, default=1) if self._own_threads else self._connection.threads,
            memory_limit=min(limits, default=None),
            address=client.scheduler.address,
            dashboard=page_of(dashboard_of(client)),
            most_threads=max(threads, default=1) if self._own_threads else 0,
        )

    def _fill(self, flight: Flight[T], source: Iterator[T], alone: bool) -> None:
        """Submit items, as many as the workers need."""
        if alone:
            return flight.fill(source, 1, self._allowed)
        self._count()
        if not self._places and (self._wide or self._allowed is not None or self._lanes.are_unequal()):
            self._places = True
            for place in flight.locate():
                self._lanes.given(place, monotonic())
        if not self._places or not len(self._lanes):
            # Two items per worker. Workers come and go.
            return flight.fill(source, 2 * max(1, self._workers), self._allowed)
        while (address := self._lanes.choose(_left(source), monotonic())) is not None:
            try:
                item = next(source)
            except StopIteration:
                return None
            self._give(flight, Flying(item, None), address)
        return None

    def _give(self, flight: Flight[T], flying: Flying[T], address: str) -> None:
        flight.submit(replace(flying, on=[address], place=address))
        self._lanes.given(address, monotonic())

    def _next(self, flight: Flight[T], fill: Callable[[], None]) -> tuple[T, R | BaseException] | None:
        """The next item that ended, or None if none is in flight."""
        client = flight.client
        while True:
            self._mourn(flight)
            if flight.has_ended() and (taken := flight.take()) is not None:
                break
            if self._places or not flight.flying:  # a worker may have joined, or may be needed now
                fill()
            if not flight.flying:
                return None
            self._count()
            flight.pause()
        flying, outcome = taken
        self.waiting = self._absent = None
        if (unreadable := unreadable_by(client, outcome)) is not None:
            raise unreadable
        if isinstance(outcome, CancelledError) or client.status != "running":
            flight.flying.clear()
            raise SchedulerError(
                "The scheduler is gone, and the work in flight is lost. Finished work is kept. "
                "Start the cluster and run it again: it continues from there."
            )
        self._lanes.returned(flying.place, monotonic())
        if isinstance(outcome, Ran):
            self._lanes.took(outcome.worker, outcome.seconds)
            about = self._usable.get(outcome.worker, {})
            self.processes[outcome.process] = str(about.get("name", "")), int(about.get("nthreads", 0))
            return flying.item, outcome.result
        return flying.item, outcome

    def _mourn(self, flight: Flight[T]) -> None:
        """Record workers that were lost with items of ours."""
        while self._losses.told:
            about = self._losses.told.popleft()
            self._counted = float("-inf")
            items = () if about.get("expected") else tuple(flight.died(set(about.get("processing-tasks", ()))))
            with suppress(OSError, RuntimeError, TimeoutError):
                self._see(workers_of(flight.client))
            if items:
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

    def _see(self, workers: Mapping[str, Any]) -> None:
        """Note which workers there are, and take items away from those that are gone."""
        assert self._connection is not None
        fitting = self._only.of(self._connection.client, workers)
        usable = {address: about for address, about in fitting.items() if address not in self._avoided | self._left_out}
        training = {address for address, about in usable.items() if about["metrics"].get(RANK_MEMORY)}
        if len(training) < len(usable):
            usable = {address: about for address, about in usable.items() if address not in training}
        else:
            training = set()
        self._workers, self._usable = len(usable), usable
        some = len(usable) < len(workers)
        self._allowed = (sorted(usable) or self._allowed) if some else None
        self._wide = any(about["nthreads"] > 1 for about in usable.values())
        self._lanes.use({address for address, about in usable.items() if about["status"] == "running"})
        if self._flight is not None and usable:
            stay = {address for address, about in workers.items() if about["status"] in _STAYING}
            for flying in list(self._flight.stuck(stay, training)):
                self._lanes.returned(flying.place, monotonic())
                if self._places and (address := self._lanes.least()):
                    self._give(self._flight, flying, address)
                else:
                    self._flight.submit(replace(flying, on=self._allowed, place=""))

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
            self._see(workers_of(client))
        except (OSError, RuntimeError, TimeoutError):  # `run` reports a lost scheduler
            return
        self._note_joined()
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

    def _note_joined(self) -> None:
        """Tell of workers that joined, when their number is the same for a second look: many may come in a row."""
        if self._told < self._workers == self._before:
            self.worker_joins.append(WorkersJoined(self._workers - self._told, self._workers))
            self._told = self._workers
        self._before = self._workers

    def holders(self) -> Mapping[int, str]:
        """Index of a chunk in flight -> name of the worker that has it, as far as this is known."""
        with suppress(RuntimeError):  # another thread changes it now
            flying = list(self._flight.flying.values()) if self._flight is not None else []
            names = {one.item.index: self._usable.get(one.place, {}) for one in flying if hasattr(one.item, "index")}
            return {index: str(about["name"]) for index, about in names.items() if "name" in about}
        return {}


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


def _left(source: Iterator[Any]) -> int | None:
    """How many items there are still, if the source knows."""
    left = length_hint(source, -1)
    return None if left < 0 else max(1, left)
