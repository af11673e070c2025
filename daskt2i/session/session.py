"""One set of workers for several stages: the cluster that encoded trains and draws too.

    session = Session(Scheduler.parse("local"))
    encode(plan, session.executor(layout))
    train(workflow, folder, *session.spawner(layout), …)
    session.close()

Covers: starting a cluster once, when it is first needed; using a client that somebody gave; closing what was started.
Does not cover: what a scheduler's name means (`schedulers`), how many workers a stage wants (`worker_layout`), the
stages.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from daskt2i.launch.rank_spawners import LocalRankSpawner, RankSpawner
from daskt2i.plan import WorkerLayout
from daskt2i.protocols import Executor, ExecutorInfo
from daskt2i.session.schedulers import Scheduler, connect, open_executor

if TYPE_CHECKING:
    from distributed import Client

    from daskt2i.deploy.connect import Connection


class Session:
    """Workers for one stage after the other. A context manager; who forgets to close it gets a finalizer.

    Args:
        scheduler: `--scheduler`, taken apart; where a client is given, what it is connected to.
        client: a client to use; it is never closed.

    Raises:
        ConfigError: the cluster file is wrong, or the client cannot be used (when it is first needed).
        SchedulerError: no scheduler could be started or reached (when it is first needed).
    """

    def __init__(self, scheduler: Scheduler, client: Client | None = None) -> None:
        self.scheduler, self._given = scheduler, client
        self._connection: Connection | None = None
        self._layout: WorkerLayout | None = None
        self._turn = threading.RLock()
        self._stack = ExitStack()
        self._finalizer = weakref.finalize(self, self._stack.close)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the cluster that was started, if any. It is started again when it is needed again."""
        with self._turn:
            self._connection = None
            self._stack.close()

    @property
    def borrowed(self) -> bool:
        """Whether a client was given."""
        return self._given is not None

    @property
    def client(self) -> Client | None:
        """The client that was given, or that of the cluster that is running; None for process pools, and before."""
        return self._given if self._connection is None else self._connection.client

    @property
    def dashboard(self) -> str:
        """Link to the dashboard, or "" where there is none (yet)."""
        return (self.client.dashboard_link or "") if self.client is not None else ""

    def executor(self, layout: WorkerLayout) -> Executor:
        """Where chunks run; closing it leaves the cluster for the next stage.

        Args:
            layout: workers, threads and memory on this machine; a cluster that is not ours has its own.
        """
        if self.scheduler.is_pool:
            return open_executor(self.scheduler, layout)
        from daskt2i.executors.dask import DaskExecutor

        return DaskExecutor(lambda: replace(self._connected(layout), close=lambda: None))

    def spawner(self, layout: WorkerLayout) -> tuple[RankSpawner, ExecutorInfo]:
        """Where ranks run, and how many workers there are. As `executor`."""
        if self.scheduler.is_pool:
            return LocalRankSpawner(layout.workers), ExecutorInfo(layout.workers, layout.threads, None)
        from daskt2i.deploy.workers import workers_of
        from daskt2i.executors.unload import unload_encoders
        from daskt2i.launch.dask_ranks import DaskRankSpawner

        connection = self._connected(layout)
        client = connection.client
        there = ExecutorInfo(
            len(workers_of(client)),
            connection.threads,
            None,
            client.scheduler.address,
            client.dashboard_link or "",
        )

        def make_room() -> list[str]:
            return unload_encoders(client, restart=connection.owned)

        return DaskRankSpawner(client, prepare=make_room), there

    def _connected(self, layout: WorkerLayout) -> Connection:
        with self._turn:
            if self._connection is not None and not self._serves(self._connection, layout):
                self.close()
            if self._connection is None:
                self._connection = self._connect(layout)
                self._layout = layout
                self._stack.callback(self._connection.close)
            return self._connection

    def _connect(self, layout: WorkerLayout) -> Connection:
        if self._given is None:
            return connect(self.scheduler, layout)
        from daskt2i.deploy.connect import borrow

        return borrow(self._given, layout.threads)

    def _serves(self, connection: Connection, layout: WorkerLayout) -> bool:
        """Whether the workers that are there are enough for a stage. A cluster of ours is started again if not."""
        if connection.client.status != "running":
            return False
        there = self._layout
        if not connection.owned or there is None:
            return True
        return there.workers >= layout.workers and there.memory_limit >= layout.memory_limit
