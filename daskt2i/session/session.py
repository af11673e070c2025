"""One set of workers for several stages: the same cluster encodes, trains and draws.

    session = Session(Scheduler.parse("local"))
    encode(plan, session.executor(layout))
    train(workflow, folder, *session.spawner(layout), …)
    session.close()

Covers: starting a cluster once, when a stage first needs it; using a client that the user gave; closing the cluster.
Does not cover: the meaning of a scheduler's name (`schedulers`), the number of workers of a stage (`worker_layout`),
the stages.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from daskt2i.launch.rank_spawners import LocalRankSpawner, RankSpawner
from daskt2i.plan import WorkerLayout
from daskt2i.protocols import Executor, ExecutorInfo
from daskt2i.retries import FIRST_WORKER_SECONDS
from daskt2i.session.schedulers import Scheduler, connect, open_executor, refuse_only

if TYPE_CHECKING:
    from distributed import Client

    from daskt2i.deploy.connect import Connection


class Session:
    """Workers for one stage after the other. A context manager. If nobody closes it, a finalizer closes it.

    Args:
        scheduler: the parsed scheduler; if a client is given, the scheduler of that client.
        client: a client to use. The session never closes it.

    Attributes:
        tell: gets a line for the user while a queue does not start the workers.

    Raises:
        ConfigError: the cluster file is wrong, or the client cannot be used. Raised when workers are first needed.
        SchedulerError: a scheduler could not be started or reached. Raised when workers are first needed.
    """

    def __init__(self, scheduler: Scheduler, client: Client | None = None) -> None:
        self.scheduler, self._given = scheduler, client
        self._connection: Connection | None = None
        self._layout: WorkerLayout | None = None
        self._dashboard = ""
        self._turn = threading.RLock()
        self.tell: Callable[[str], None] = lambda text: None
        self._stack = ExitStack()
        self._finalizer = weakref.finalize(self, self._stack.close)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the cluster that this session started. The next stage that needs workers starts it again."""
        with self._turn:
            self._connection = None
            self._stack.close()

    @property
    def borrowed(self) -> bool:
        """Whether the user gave a client."""
        return self._given is not None

    @property
    def client(self) -> Client | None:
        """The client that the user gave, or the client of the running cluster. None before the start and for pools."""
        return self._given if self._connection is None else self._connection.client

    @property
    def dashboard(self) -> str:
        """Link to the dashboard, or "" if there is none (yet). It asks nobody, so a scheduler that hangs is no matter.

        Behind JupyterHub it may be a path on the server of the notebook (`distributed.dashboard.link`).
        """
        return "" if self._connection is None else self._dashboard

    def executor(self, layout: WorkerLayout) -> Executor:
        """The executor that runs chunks. Closing it leaves the cluster for the next stage.

        Args:
            layout: workers, threads and memory on this machine. An existing cluster has its own.
        """
        if self.scheduler.is_pool:
            return open_executor(self.scheduler, layout)
        from daskt2i.executors.dask import DaskExecutor

        def connected() -> Connection:
            return replace(self._connected(layout), close=lambda: None)

        return DaskExecutor(connected, not layout.threads, layout.only)

    def spawner(self, layout: WorkerLayout) -> tuple[RankSpawner, ExecutorInfo]:
        """The spawner that starts ranks, and the number of workers. `layout` is as in `executor`."""
        if self.scheduler.is_pool:
            refuse_only(self.scheduler, layout)
            return LocalRankSpawner(layout.workers), ExecutorInfo(layout.workers, layout.threads, None)
        from daskt2i.deploy.only import Only
        from daskt2i.deploy.scheduler_side import page_of
        from daskt2i.executors.unload import unload_encoders
        from daskt2i.launch.dask_ranks import DaskRankSpawner

        connection = self._connected(layout)
        connection.gather(layout.workers)
        client, only = connection.client, Only(layout.only)
        found = only.required(client, FIRST_WORKER_SECONDS)
        there = ExecutorInfo(
            len(found),
            layout.threads or min(about["nthreads"] for about in found.values()),
            None,
            client.scheduler.address,
            page_of(self._dashboard),
        )

        def make_room() -> list[str]:
            return unload_encoders(client, restart=connection.owned, only=only)

        return DaskRankSpawner(client, prepare=make_room, only=only), there

    def _connected(self, layout: WorkerLayout) -> Connection:
        """The connection, with the torch threads of this stage. Another stage may need another number of threads."""
        from daskt2i.deploy.connect import dashboard_of, fewest_threads
        from daskt2i.deploy.scheduler_side import ask_scheduler

        with self._turn:
            if self._connection is not None and not self._serves(self._connection, layout):
                self.close()
            if self._connection is None:
                self._connection = self._connect(layout)
                self._layout = layout
                self._stack.callback(self._connection.close)
                ask_scheduler(self._connection.client)
                self._dashboard = dashboard_of(self._connection.client)
            return replace(self._connection, threads=layout.threads or fewest_threads(self._connection.client))

    def _connect(self, layout: WorkerLayout) -> Connection:
        if self._given is None:
            return connect(self.scheduler, layout, self.tell)
        from daskt2i.deploy.connect import borrow

        return borrow(self._given, layout.threads)

    def _serves(self, connection: Connection, layout: WorkerLayout) -> bool:
        """Whether the running workers are enough for a stage. If not, the session restarts its own cluster."""
        if connection.client.status != "running":
            return False
        there = self._layout
        if not connection.owned or there is None:
            return True
        return (
            there.workers >= layout.workers
            and there.threads >= layout.threads
            and there.memory_limit >= layout.memory_limit
        )
