"""Starting and stopping ranks for the launcher: the interface, and ranks as processes of this machine.

Covers: how a rank's end is reported, ranks as child processes of this process.
Does not cover: Dask workers (`dask_ranks`), the reaction to an end (`attempt`).
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Literal, Protocol

from daskt2i.errors import Daskt2iError
from daskt2i.launch.placement import WorkerNode, visible_gpus
from daskt2i.launch.supervisor import RankDied, RankSpec, supervise
from daskt2i.machine.machine import this_machine

How = Literal["finished", "stopped", "died", "final", "left", "lost", "no scheduler"]
Request = Literal["end", "save"]

LEAVE_SECONDS = 20.0
"""How long a rank whose worker is leaving goes on, so that a checkpoint can be saved. Dask's nanny kills later."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one rank.

    Attributes:
        how: `finished`; `stopped` by the launcher; `died`: another attempt may help; `final`: another attempt does not
            help; `left`: its worker is retiring; `lost`: its worker is gone; `no scheduler`: all workers are gone.
        detail: `"exit code 3"`, or the sentence of a final error.
        error: for `final`: the error of the module.
        log: the last log lines of the rank.
    """

    how: How
    detail: str = ""
    error: Daskt2iError | None = None
    log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """An event of a rank, or its end. The end comes last."""

    launch: str
    rank: int
    what: Mapping[str, Any] | Ended


class RankSpawner(Protocol):
    """Starts and stops ranks."""

    def opened(self, put: Callable[[Message], None]) -> AbstractContextManager[Sequence[str]]:
        """Prepare for ranks and return notes for the user. Leaving the block stops every rank.

        Args:
            put: called with each message, from any thread.
        """
        ...

    def nodes(self, wanted: int) -> list[WorkerNode]:
        """Workers that can run ranks now. Waits a while until there are `wanted` workers.

        Raises:
            SchedulerError: the scheduler is gone.
        """
        ...

    def start(self, node: WorkerNode, spec: RankSpec, launch: str) -> None:
        """Start one rank and return at once. Its messages go to `put`."""
        ...

    def ask(self, launch: str, what: Request) -> None:
        """Ask all ranks of a launch to `end`, or to `save` a checkpoint, and return almost at once.

        Their ends and answers go to `put`.
        """
        ...


def outcome(
    spec: RankSpec,
    on_event: Callable[[dict[str, Any]], None],
    stopping: Callable[[], Ended | None],
    saves: Callable[[], int],
) -> Ended:
    """Start a rank and wait until it ends.

    If its worker is leaving, a rank that can save a checkpoint gets `LEAVE_SECONDS`: the driver is told, asks for a
    checkpoint, and then stops all ranks. The rank is asked here too, because a scheduler forgets a worker that leaves
    at once, and then the driver cannot reach it. When it has saved, it ends.

    Args:
        stopping: returns the end to report if the rank must stop now, else None.
        saves: how often the ranks were asked for a checkpoint so far.
    """
    why = stopping()
    if why is not None:
        return why
    listens, leaving, asked, safe = False, 0.0, 0, False

    def hear(event: dict[str, Any]) -> None:
        nonlocal listens, safe
        listens = listens or event["kind"] == "listens"
        safe = safe or (leaving > 0 and event["kind"] == "saved")
        on_event(event)

    def should_stop() -> bool:
        nonlocal why, leaving
        why = stopping()
        if why is not None and why.how == "left" and listens:
            if not leaving:
                leaving = monotonic()
                on_event({"kind": "leaving", "why": "its worker is retiring"})
            return safe or monotonic() - leaving > LEAVE_SECONDS
        return why is not None

    def should_save() -> bool:
        nonlocal asked
        before, asked = asked, saves() + (leaving > 0)
        return asked > before

    try:
        finished = supervise(spec, hear, should_stop, should_save)
    except RankDied as death:
        return Ended("died", death.how, log=death.log)
    except Daskt2iError as error:
        return Ended("final", str(error), error=error)
    return Ended("finished") if finished or why is None else why


class LocalRankSpawner:
    """Ranks as child processes of this process.

    Args:
        workers: how many ranks can run at the same time.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self._put: Callable[[Message], None] | None = None
        self._stopped: set[str] = set()
        self._saves = Counter[str]()
        self._threads: list[threading.Thread] = []

    @contextmanager
    def opened(self, put: Callable[[Message], None]) -> Iterator[Sequence[str]]:
        """See `RankSpawner.opened`."""
        self._put = put
        try:
            yield ()
        finally:
            self._put = None
            for thread in self._threads:
                thread.join()
            self._threads.clear()

    def nodes(self, wanted: int) -> list[WorkerNode]:
        """All workers; returns at once."""
        machine = this_machine()
        cores, memory = max(1, machine.cores // self.workers), machine.memory // self.workers
        here = WorkerNode("here", "127.0.0.1", visible_gpus(), cores, memory=memory)
        return [replace(here, address=f"process {n} of {os.getpid()}") for n in range(self.workers)]

    def start(self, node: WorkerNode, spec: RankSpec, launch: str) -> None:
        """See `RankSpawner.start`."""
        put = self._put
        assert put is not None, "opened() comes first"

        def stopping() -> Ended | None:
            return Ended("stopped") if self._put is None or launch in self._stopped else None

        def relay(event: dict[str, Any]) -> None:
            put(Message(launch, spec.rank, event))

        def work() -> None:
            put(Message(launch, spec.rank, outcome(spec, relay, stopping, lambda: self._saves[launch])))

        thread = threading.Thread(target=work, name=f"daskt2i-rank-{spec.rank}", daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    def ask(self, launch: str, what: Request) -> None:
        """See `RankSpawner.ask`."""
        if what == "save":
            self._saves[launch] += 1
        else:
            self._stopped.add(launch)
