"""A module as N ranks on N workers, all or nothing, started again from its last checkpoint when a rank dies.

    launched = launch("daskt2i.train.denoiser_rank", job, DaskHands(client), ranks=4, threads=8, listener=show)

Covers: where the ranks go, the rendezvous of each attempt, stopping all when one ends early, how often to try again,
events from the ranks to the driver, freeing the workers of their encoders.
Does not cover: what a module computes, where its checkpoints lie (it finds them itself), one process (`supervisor`).

On Dask each rank is the child of a task that is bound to one worker. Such a task waits for ever when its worker dies,
so the driver looks itself which workers are there. (With `allow_other_workers` Dask's work stealing moved a rank away
from a worker that was only busy.)
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

from distributed import Client, Future, get_worker
from distributed.comm import get_address_host
from distributed.core import Status

from daskt2i.deploy.workers import workers_of
from daskt2i.errors import ConfigError, RankLost, SchedulerError
from daskt2i.events import LaunchEvent
from daskt2i.launch.attempt import EndedEarly, Run, no_scheduler
from daskt2i.launch.placement import Place, visible_gpus
from daskt2i.launch.rank_spawners import Ended, Hands, Message, outcome
from daskt2i.launch.rank_spawners import LocalHands as LocalHands
from daskt2i.launch.supervisor import RankSpec
from daskt2i.retries import LAUNCH_ATTEMPTS, WORKER_SECONDS, attempts_without_progress
from daskt2i.retries import RESTART_SECONDS as _RESTART_SECONDS

TOPIC = "daskt2i-train"
START_SECONDS = 120.0
"""For rank 0 to make a rendezvous, then for the others to come alive: imports from a network disk take a minute."""

_ASK_SECONDS = 3.0
_FETCH_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_TOLD_LINES = 15
_LEAVING = (Status.closing, Status.closing_gracefully, Status.closed, Status.stopping)


@dataclass(frozen=True, slots=True)
class Launched:
    """A launch that came to its end.

    Attributes:
        attempts: how often the ranks were started.
        ranks: of the last attempt.
        seconds: from the first start to the end.
        last: the last event of each kind.
    """

    attempts: int
    ranks: int
    seconds: float
    last: Mapping[str, LaunchEvent]


def launch(
    module: str,
    job: Mapping[str, Any],
    hands: Hands,
    ranks: int,
    threads: int,
    listener: Callable[[LaunchEvent], None],
    attempts: int = LAUNCH_ATTEMPTS,
    *,
    gpus: bool = True,
    env: Mapping[str, str] | None = None,
    start_seconds: float = START_SECONDS,
) -> Launched:
    """Run a module as ranks of one torch.distributed run, to its end.

    If a rank or its worker dies, all are stopped and started again with a new rendezvous, on the workers that are there
    then; on fewer ranks if some do not come back. The module goes on from its own last checkpoint.

    Args:
        module: run as `__main__`, by its dotted name. It must be importable on the workers.
        job: JSON values, the same for all ranks: `rank.job()` there. `batch`, if it is there, is what the number of
            ranks must divide.
        threads: torch threads of each rank.
        listener: gets each `LaunchEvent`, in this thread.
        attempts: how many attempts in a row may end early without a new checkpoint: an event of kind `checkpoint` with
            a larger `step` than any before.
        gpus: False leaves the ranks on the CPU.
        env: more environment variables for the ranks.
        start_seconds: how long ranks may take to start.

    Raises:
        ConfigError: a count below 1; nothing was started.
        PlanError: more ranks than workers; nothing was started.
        RankLost: the attempts are used up.
        SchedulerError: the scheduler or all workers are gone.
        Daskt2iError: what the module raised, in its own class.
        KeyboardInterrupt: as it came; all ranks are stopped.
    """
    if min(ranks, threads, attempts) < 1:
        raise ConfigError(f"ranks ({ranks}), threads ({threads}) and attempts ({attempts}) are 1 or more each.")
    run = Run(module, dict(job), hands, ranks, threads, listener, gpus, dict(env or {}), start_seconds)
    begun, idle = monotonic(), 0
    with hands.opened(run.inbox.put) as notes:
        for text in notes:
            run.tell("note", text=text)
        while True:
            before = run.step
            try:
                world = run.attempt()
            except EndedEarly as end:
                idle = attempts_without_progress(idle, before, run.step)
                if idle >= attempts:
                    raise RankLost(_used_up(end, run, attempts)) from None
                run.tell("failed", text=f"{end.why} All ranks are started again from the last checkpoint.")
            else:
                return Launched(run.number, world, monotonic() - begun, run.last)


def _used_up(end: EndedEarly, run: Run, attempts: int) -> str:
    times = (
        f"{attempts} attempts in a row ended so without a new checkpoint" if attempts > 1 else "One attempt was allowed"
    )
    stands = f"The checkpoint of step {run.step} stands" if run.step >= 0 else "Checkpoints that were written stand"
    log = "".join(f"\n    {line}" for line in end.log[-_TOLD_LINES:])
    tail = f" The last lines of its log:{log}" if log else ""
    return f"{end.why} {times}. {stands}, and the same command goes on from there.{tail}"


class DaskHands:
    """Ranks as children of tasks on the workers of a Dask cluster, at most one to a worker.

    Args:
        client: connected.
        topic: of Dask's event log, for the ranks' events.
        worker_seconds: how long to wait for workers that are missing.
    """

    def __init__(self, client: Client, topic: str = TOPIC, worker_seconds: float = WORKER_SECONDS) -> None:
        self.client, self.topic, self.worker_seconds = client, topic, worker_seconds
        self._put: Callable[[Message], None] = _nowhere
        self._flying: dict[Future, tuple[str, int, str]] = {}  # launch, rank, address
        self._closed = threading.Event()

    @contextmanager
    def opened(self, put: Callable[[Message], None]) -> Iterator[Sequence[str]]:
        """See `Hands.opened`. Workers that hold encoders are started again first."""
        notes = free(self.client)
        self._put = put
        self._closed.clear()
        self.client.subscribe_topic(self.topic, self._hear)
        watch = threading.Thread(target=self._watch, name="daskt2i-watch", daemon=True)
        watch.start()
        try:
            yield notes
        finally:
            self._put = _nowhere
            self._closed.set()
            if self.client.status == "running":
                self.client.unsubscribe_topic(self.topic)
                if self._flying:
                    self.client.cancel(list(self._flying))
            self._flying.clear()

    def places(self, wanted: int) -> list[Place]:
        """See `Hands.places`."""
        deadline = monotonic() + self.worker_seconds
        silent: dict[str, threading.Thread] = {}  # a frozen worker is not asked again before it has answered
        while True:
            if self.client.status != "running":
                raise no_scheduler()
            there = sorted(address for address, info in self._workers().items() if info["status"] == "running")
            described = _ask(self.client, _describe, [a for a in there if a not in silent], silent=silent)
            silent = {address: thread for address, thread in silent.items() if thread.is_alive()}
            found = [Place(a, get_address_host(a), gpus, cores, ident) for a, (ident, gpus, cores) in described.items()]
            if len(found) >= wanted or monotonic() > deadline:
                return found
            sleep(0.25)

    def start(self, place: Place, spec: RankSpec, launch: str) -> None:
        """See `Hands.start`."""
        future = self.client.submit(
            _on_worker,
            spec,
            place.ident,
            launch,
            self.topic,
            key=f"rank-{spec.rank}-{launch}",
            workers=[place.address],
            pure=False,
            retries=0,
        )
        self._flying[future] = (launch, spec.rank, place.address)
        future.add_done_callback(self._done)

    def stop(self, launch: str) -> None:
        """See `Hands.stop`. A task that its worker has not come to yet is cancelled."""
        flying = {future: what for future, what in list(self._flying.items()) if what[0] == launch}
        answers = _ask(self.client, _stop, sorted({address for _, _, address in flying.values()}), launch)
        for future, (_, rank, address) in flying.items():
            if answers.get(address) is False:
                self._drop(future)
                self._put(Message(launch, rank, Ended("stopped")))

    def _workers(self) -> Mapping[str, Any]:
        try:
            return workers_of(self.client)
        except (OSError, RuntimeError, TimeoutError, KeyError, ValueError) as error:
            raise no_scheduler() from error

    def _hear(self, event: tuple[float, Any]) -> None:
        _, told = event
        if isinstance(told, Mapping) and "launch" in told:
            what = {key: value for key, value in told.items() if key not in ("launch", "rank", "worker")}  # Dask's
            self._put(Message(told["launch"], told["rank"], what))

    def _done(self, future: Future) -> None:
        """In a thread of Dask's."""
        launch, rank, address = self._flying.pop(future, ("", 0, ""))
        if not launch:
            return
        try:
            if future.status == "cancelled":
                end = Ended("lost" if self.client.status == "running" else "no scheduler")
            else:
                end = self._fetch(future, address)
        except Exception as error:  # the worker is gone, again and again, or with the result in its hands
            end = Ended("lost", f"{type(error).__name__}: {error}")
        self._put(Message(launch, rank, end))

    def _fetch(self, future: Future, address: str) -> Ended:
        """The result. A busy worker takes its time, and "lost" would be blamed in place of what it has to say."""
        deadline = monotonic() + _FETCH_SECONDS
        while True:
            try:
                return future.result(timeout=_ASK_SECONDS)
            except TimeoutError:
                if monotonic() > deadline or address not in self._workers():
                    raise

    def _drop(self, future: Future) -> None:
        self._flying.pop(future, None)
        if self.client.status == "running":
            self.client.cancel([future])

    def _watch(self) -> None:
        """Tell the ranks whose workers have died: nothing else would."""
        while not self._closed.wait(_LOOK_SECONDS):
            try:
                there = self._workers() if self._flying and self.client.status == "running" else None
            except SchedulerError:
                there = None
            for future, (launch, rank, address) in list(self._flying.items()):
                if there is None and self.client.status != "running":
                    self._put(Message(launch, rank, Ended("no scheduler")))
                elif there is not None and address not in there:
                    self._drop(future)
                    self._put(Message(launch, rank, Ended("lost")))


def _nowhere(message: Message) -> None:
    """Nobody listens any more."""


_running: set[str] = set()
_ended: set[str] = set()
_stopped: set[str] = set()
"""On a worker: launches that have a rank here, that had one, and that it has been asked to stop."""


def _stop(launch: str) -> bool:
    """On a worker: whether an end of this launch comes, or is on its way."""
    _stopped.add(launch)
    return launch in _running or launch in _ended


def _describe(dask_worker: Any) -> tuple[str, tuple[str, ...], int]:
    """On a worker: its identity, GPUs and cores."""
    return str(dask_worker.id), visible_gpus(), int(dask_worker.state.nthreads)


def _on_worker(spec: RankSpec, ident: str, launch: str, topic: str) -> Ended:
    """One rank, in a task."""
    worker = get_worker()
    key = worker.get_current_task()

    def stopping() -> Ended | None:
        if worker.id != ident:
            return Ended("lost")  # what was meant for a worker that is gone
        if launch in _stopped:
            return Ended("stopped")
        if worker.status in _LEAVING:
            return Ended("left")
        task = worker.state.tasks.get(key)  # cancelled: by the driver, or because there is no driver any more
        return Ended("stopped") if task is None or task.state == "cancelled" else None

    def relay(event: Mapping[str, Any]) -> None:
        worker.log_event(topic, {**event, "launch": launch, "rank": spec.rank})

    _running.add(launch)
    try:
        return outcome(spec, relay, stopping)
    finally:
        _ended.add(launch)  # before it leaves the other: `_stop` asks in between
        _running.discard(launch)


def free(client: Client) -> list[str]:
    """Start workers again that hold encoders, for ranks need the memory. Returns notes for the user.

    A worker without a nanny would not come back, so it is left as it is.
    """
    infos = workers_of(client)
    held = _ask(client, _loads, list(infos))
    full = [address for address, loads in held.items() if loads]
    guarded = [address for address in full if infos.get(address, {}).get("nanny")]
    notes = []
    if guarded:
        done = client.restart_workers(guarded, timeout=_RESTART_SECONDS, raise_for_error=False)
        late = [address for address, end in done.items() if end != "OK"]
        if late:
            notes.append(f"{', '.join(late)} did not come back within {_RESTART_SECONDS} s of being started again.")
    if len(guarded) < len(full):
        others = ", ".join(address for address in full if address not in guarded)
        notes.append(f"{others} keeps its encoders in memory: it has no nanny that could start it again.")
    return notes


def _loads() -> int:
    """On a worker: models that it has loaded; without importing what would load them."""
    cache = sys.modules.get("daskt2i.encode.model_cache")
    return 0 if cache is None else len(cache.loads())


def _ask(
    client: Client,
    function: Callable[..., Any],
    addresses: Sequence[str],
    *arguments: Any,
    silent: dict[str, threading.Thread] | None = None,
) -> dict[str, Any]:
    """Call a function on these workers' event loops, side by side. Those that do not answer in time are left out.

    Args:
        silent: takes the threads that still wait for an answer.
    """
    answers: dict[str, Any] = {}

    def ask(address: str) -> None:
        with suppress(Exception):  # gone, or the client is
            found = client.run(function, *arguments, workers=[address], on_error="return")
            if not isinstance(found[address], BaseException):
                answers[address] = found[address]

    threads = {address: threading.Thread(target=ask, args=(address,), daemon=True) for address in addresses}
    for thread in threads.values():
        thread.start()
    deadline = monotonic() + _ASK_SECONDS
    for thread in threads.values():
        thread.join(max(0.0, deadline - monotonic()))
    if silent is not None:
        silent.update(threads)
    return {address: answers[address] for address in addresses if address in answers}
