"""One set of workers for several stages: the cluster that encoded trains and draws too.

    with Session(scheduler, layout) as session:
        encode(prepared, session.executor())
        train(workflow, folder, session.spawner(), …)

Covers: starting a cluster once, when it is first needed, and closing it at the end.
Does not cover: what a scheduler's name means (`schedulers`), the stages.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from daskt2i.deploy.workers import workers_of
from daskt2i.launch.rank_spawners import LocalRankSpawner, RankSpawner
from daskt2i.plan import WorkerLayout
from daskt2i.protocols import Executor, ExecutorInfo
from daskt2i.session.schedulers import Scheduler, connect, open_executor

if TYPE_CHECKING:
    from daskt2i.deploy.connect import Connection


class Session:
    """Workers for one stage after the other. A context manager.

    Args:
        scheduler: `--scheduler`, taken apart.
        layout: workers, threads and memory on this machine; an attached cluster has its own.

    Raises:
        ConfigError: the cluster file is wrong.
        SchedulerError: no scheduler could be started or reached (when it is first needed).
    """

    def __init__(self, scheduler: Scheduler, layout: WorkerLayout) -> None:
        self.scheduler, self.layout = scheduler, layout
        self._stack = ExitStack()
        self._connection: Connection | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def dashboard(self) -> str:
        """Link to the dashboard, or "" where there is none (yet)."""
        return (self._connection.client.dashboard_link or "") if self._connection else ""

    def executor(self) -> Executor:
        """Where chunks run; closing it leaves the cluster for the next stage."""
        if self.scheduler.is_pool:
            return open_executor(self.scheduler, self.layout)
        from daskt2i.executors.dask import DaskExecutor

        return DaskExecutor(lambda: replace(self._connected(), close=lambda: None))

    def spawner(self) -> tuple[RankSpawner, ExecutorInfo]:
        """Where ranks run, and how many workers there are."""
        if self.scheduler.is_pool:
            return LocalRankSpawner(self.layout.workers), ExecutorInfo(self.layout.workers, self.layout.threads, None)
        from daskt2i.executors.unload import unload_encoders
        from daskt2i.launch.dask_ranks import DaskRankSpawner

        connection = self._connected()
        workers = workers_of(connection.client)
        there = ExecutorInfo(
            len(workers),
            connection.threads,
            None,
            connection.client.scheduler.address,
            connection.client.dashboard_link or "",
        )

        def make_room() -> list[str]:
            return unload_encoders(connection.client, restart=connection.owned)

        return DaskRankSpawner(connection.client, prepare=make_room), there

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = connect(self.scheduler, self.layout)
            self._stack.callback(self._connection.close)
        return self._connection
