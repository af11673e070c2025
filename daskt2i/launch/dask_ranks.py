"""Ranks on the workers of a Dask cluster, at most one on each worker.

Covers: starting and stopping ranks, events from the ranks to the driver, workers that die, freeze or retire.
Does not cover: the number of attempts (`launcher`), which rank goes where (`placement`), one rank's process
(`supervisor`), what else is in a worker's memory (the caller frees it with `prepare`).

Each rank is a child process of a Dask task that is bound to one worker. If the worker dies, such a task waits for ever.
So the driver itself checks which workers are alive. (With `allow_other_workers`, Dask's work stealing moved a rank away
from a worker that was only busy.)
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

import dask
import psutil
from distributed import Client, Future, get_worker, span
from distributed.comm import get_address_host
from distributed.core import Status

from daskt2i.deploy.only import ALL, Only
from daskt2i.deploy.workers import ask_workers, workers_of
from daskt2i.errors import SchedulerError
from daskt2i.launch.attempt import no_scheduler
from daskt2i.launch.placement import WorkerNode, visible_gpus
from daskt2i.launch.rank_spawners import LEAVE_SECONDS, Ended, Message, Request, outcome
from daskt2i.launch.sole_use import sole_use
from daskt2i.launch.supervisor import RankSpec
from daskt2i.launch.vitals.usage import MEMORY, metrics_of
from daskt2i.machine.machine import this_machine
from daskt2i.retries import WORKER_SECONDS

TOPIC = "daskt2i-train"
PULSES = "-pulse"
"""The topic of the pulses has this at its end."""

_ASK_SECONDS = 3.0
_FETCH_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_LEAVING = (Status.closing, Status.closing_gracefully, Status.closed, Status.stopping)


def _nothing() -> Sequence[str]:
    return ()


class DaskRankSpawner:
    """Ranks as child processes of tasks on the workers of a Dask cluster, at most one on each worker.

    Args:
        client: a connected client.
        topic: the topic of Dask's event log for the ranks' events.
        worker_seconds: how long to wait for missing workers.
        prepare: called before the first rank starts, e.g. to free memory on the workers. Returns notes for the user.
        only: the workers that may run ranks; None for all.
    """

    def __init__(
        self,
        client: Client,
        topic: str = TOPIC,
        worker_seconds: float = WORKER_SECONDS,
        prepare: Callable[[], Sequence[str]] = _nothing,
        only: Only | None = None,
    ) -> None:
        self._only = only or Only()
        self.client, self.topic, self.worker_seconds, self.prepare = client, topic, worker_seconds, prepare
        self._put: Callable[[Message], None] = _nowhere
        self._flying: dict[Future, tuple[str, int, str]] = {}  # launch, rank, address
        self._leaving: dict[Future, float] = {}  # since when the worker of a rank is retiring
        self._closed = threading.Event()
        self._span: dict[str, Any] = {}

    @contextmanager
    def opened(self, put: Callable[[Message], None]) -> Iterator[Sequence[str]]:
        """See `RankSpawner.opened`.

        Raises:
            SchedulerError: another launch runs on these workers.
        """
        some = None if self._only.text == ALL else lambda: self._only.of(self.client, self._workers())
        with sole_use(self.client, self._busy, self.worker_seconds, some):
            yield from self._opened(put)

    def _opened(self, put: Callable[[Message], None]) -> Iterator[Sequence[str]]:
        notes = self.prepare()
        with span(self.topic):  # one for the whole launch
            self._span = dask.get_annotations()
        self._put = put
        self._closed.clear()
        for topic in (self.topic, self.topic + PULSES):
            self.client.subscribe_topic(topic, self._hear)
        watch = threading.Thread(target=self._watch, name="daskt2i-watch", daemon=True)
        watch.start()
        try:
            yield notes
        finally:
            self._put = _nowhere
            self._closed.set()
            if self.client.status == "running":
                for topic in (self.topic, self.topic + PULSES):
                    self.client.unsubscribe_topic(topic)
                if self._flying:
                    self.client.cancel(list(self._flying))
            self._flying.clear()
            self._leaving.clear()

    def nodes(self, wanted: int) -> list[WorkerNode]:
        """See `RankSpawner.nodes`."""
        deadline = monotonic() + self.worker_seconds
        silent: dict[str, threading.Thread] = {}  # do not ask a frozen worker again before it has answered
        while True:
            if self.client.status != "running":
                raise no_scheduler()
            fitting = self._only.of(self.client, self._workers())
            there = sorted(address for address, info in fitting.items() if info["status"] == "running")
            described = ask_workers(
                self.client, _describe, [a for a in there if a not in silent], seconds=_ASK_SECONDS, silent=silent
            )
            silent = {address: thread for address, thread in silent.items() if thread.is_alive()}
            found = [
                WorkerNode(a, get_address_host(a), gpus, cores, ident, memory)
                for a, (ident, gpus, cores, memory) in described.items()
            ]
            if len(found) >= wanted or monotonic() > deadline:
                return found
            sleep(0.25)

    def start(self, node: WorkerNode, spec: RankSpec, launch: str) -> None:
        """See `RankSpawner.start`."""
        with dask.annotate(**self._span):
            future = self.client.submit(
                _on_worker,
                spec,
                node.ident,
                launch,
                self.topic,
                key=f"train-rank-{spec.rank}-{launch}",
                workers=[node.address],
                pure=False,
                retries=0,
            )
        self._flying[future] = (launch, spec.rank, node.address)
        future.add_done_callback(self._done)

    def ask(self, launch: str, what: Request) -> None:
        """See `RankSpawner.ask`. If ranks must end, it cancels a task that its worker has not started yet."""
        flying = {future: about for future, about in list(self._flying.items()) if about[0] == launch}
        addresses = sorted({address for _, _, address in flying.values()})
        if what == "save":
            ask_workers(self.client, _save, addresses, launch, seconds=_ASK_SECONDS)
            return
        answers = ask_workers(self.client, _stop, addresses, launch, seconds=_ASK_SECONDS)
        for future, (_, rank, address) in flying.items():
            if answers.get(address) is False:
                self._drop(future)
                self._put(Message(launch, rank, Ended("stopped")))
            elif address not in answers and future in self._leaving:  # it ends with its worker, and cannot say so
                self._drop(future)
                self._put(Message(launch, rank, Ended("left")))

    def _busy(self) -> bool:
        """Whether a worker that this launch may use runs a rank of any launch."""
        ours = list(self._only.of(self.client, self._workers()))
        answers = ask_workers(self.client, _has_rank, ours, seconds=_ASK_SECONDS)
        return any(answers.values())

    def _workers(self) -> Mapping[str, Any]:
        try:
            return workers_of(self.client)
        except (OSError, RuntimeError, TimeoutError, KeyError, ValueError) as error:
            raise no_scheduler() from error

    def _hear(self, event: tuple[float, Any]) -> None:
        _, told = event
        if isinstance(told, Mapping) and "launch" in told:
            what = {key: value for key, value in told.items() if key not in ("launch", "rank", "worker")}
            self._put(Message(told["launch"], told["rank"], what))

    def _done(self, future: Future) -> None:
        """Dask calls this in one of its threads."""
        launch, rank, address = self._flying.pop(future, ("", 0, ""))
        if not launch:
            return
        try:
            if future.status == "cancelled":
                end = Ended("lost" if self.client.status == "running" else "no scheduler")
            else:
                end = self._fetch(future, address)
        except Exception as error:  # the worker died several times, or before it sent the result
            end = Ended("lost", f"{type(error).__name__}: {error}")
        self._put(Message(launch, rank, end))

    def _fetch(self, future: Future, address: str) -> Ended:
        """Fetch the result. A busy worker answers late; without the wait its own error would be reported as "lost"."""
        deadline = monotonic() + _FETCH_SECONDS
        while True:
            try:
                return future.result(timeout=_ASK_SECONDS)
            except TimeoutError:
                if monotonic() > deadline or address not in self._workers():
                    raise

    def _drop(self, future: Future) -> None:
        self._flying.pop(future, None)
        self._leaving.pop(future, None)
        if self.client.status == "running":
            self.client.cancel([future])

    def _watch(self) -> None:
        """Report ranks whose workers have died: Dask does not report them."""
        while not self._closed.wait(_LOOK_SECONDS):
            try:
                there = self._workers() if self._flying and self.client.status == "running" else None
            except SchedulerError:
                there = None
            for future, (launch, rank, address) in list(self._flying.items()):
                if there is None and self.client.status != "running":
                    self._put(Message(launch, rank, Ended("no scheduler")))
                elif there is not None and address not in there and not self._retires(future, launch, rank, address):
                    gone = Ended("left" if future in self._leaving else "lost")
                    self._drop(future)
                    self._put(Message(launch, rank, gone))

    def _retires(self, future: Future, launch: str, rank: int, address: str) -> bool:
        """Whether a worker that the scheduler has forgotten is only retiring: its rank goes on for a moment.

        The worker's own message about this is lost: its connection is closed at once.
        """
        if future not in self._leaving:
            try:
                events = self.client.get_events(address)
            except (OSError, RuntimeError, TimeoutError):
                return False
            if not any(isinstance(e, Mapping) and e.get("status") == "closing_gracefully" for _, e in events):
                return False
            self._leaving[future] = monotonic()
            self._put(Message(launch, rank, {"kind": "leaving", "why": "its worker is retiring"}))
        return monotonic() - self._leaving[future] <= LEAVE_SECONDS


def _nowhere(message: Message) -> None:
    """Drop messages that arrive after the end."""


_running: set[str] = set()
_ended: set[str] = set()
_stopped: set[str] = set()
"""On a worker, sets of launches: with a running rank here, with an ended rank here, and asked to stop."""

_pulses: dict[str, Mapping[str, Any]] = {}
"""On a worker: launch -> the last pulse of the rank that runs here, for its metrics."""

_saves = Counter[str]()
"""On a worker: how often each launch was asked for a checkpoint."""


def _stop(launch: str) -> bool:
    """On a worker: stop this launch. True if a rank of it runs or has ended here, so that its end will be reported."""
    _stopped.add(launch)
    return launch in _running or launch in _ended


def _save(launch: str) -> None:
    """On a worker: ask the ranks of this launch for a checkpoint."""
    _saves[launch] += 1


def _has_rank() -> bool:
    """On a worker: whether it runs a rank of any launch."""
    return bool(_running)


def _describe(dask_worker: Any) -> tuple[str, tuple[str, ...], int, int]:
    """On a worker: return its identity, GPUs and cores, and the memory that it leaves to a rank (0: no limit)."""
    limit = dask_worker.memory_manager.memory_limit
    left = max(1, min(limit, this_machine().memory) - psutil.Process().memory_info().rss) if limit else 0
    return str(dask_worker.id), visible_gpus(), int(dask_worker.state.nthreads), left


def _on_worker(spec: RankSpec, ident: str, launch: str, topic: str) -> Ended:
    """Run one rank, in a Dask task."""
    worker = get_worker()
    key = worker.get_current_task()

    def stopping() -> Ended | None:
        if worker.id != ident:
            return Ended("lost")  # the task was for a worker that is gone
        if launch in _stopped:
            return Ended("stopped")
        if worker.status in _LEAVING:
            return Ended("left")
        task = worker.state.tasks.get(key)  # cancelled by the driver, or because the driver is gone
        return Ended("stopped") if task is None or task.state == "cancelled" else None

    def relay(event: Mapping[str, Any]) -> None:
        # Pulses have a topic of their own, because a topic keeps only its last events.
        where = topic
        if event["kind"] == "pulse":
            where, _pulses[launch] = topic + PULSES, event
        worker.log_event(where, {**event, "launch": launch, "rank": spec.rank})

    _running.add(launch)
    if MEMORY not in worker.metrics:
        worker.metrics = {**worker.metrics, **metrics_of(_pulses)}  # a new dict: a heartbeat may read the old one now
    try:
        return outcome(spec, relay, stopping, lambda: _saves[launch])
    finally:
        _ended.add(launch)  # before `discard`, because `_stop` may read the sets in between
        _running.discard(launch)
        _pulses.pop(launch, None)
