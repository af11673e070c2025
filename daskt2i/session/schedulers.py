"""The meaning of `--scheduler`: this process, process pools, a cluster file, or the address of a Dask cluster.

Covers: reading the value, making its executor, connecting to a Dask cluster.
Does not cover: starting a cluster (`deploy`), running chunks on it (`executors`), the number of workers
(`worker_layout`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daskt2i.config.workflow_file import find_file
from daskt2i.errors import ConfigError
from daskt2i.plan import WorkerLayout
from daskt2i.protocols import Executor

if TYPE_CHECKING:
    from distributed import Client

    from daskt2i.deploy.cluster_file import ClusterFile
    from daskt2i.deploy.connect import Connection

_PROTOCOLS = ("tcp://", "tls://", "ws://", "wss://", "ucx://", "inproc://")
_MOST_DIGITS = 18
_POOLS = ("serial", "multiprocessing", "joblib")


@dataclass(frozen=True, slots=True)
class Scheduler:
    """The parts of a `--scheduler` value.

    Attributes:
        kind: `serial`, `multiprocessing`, `joblib`, the name of a cluster file, or `address`.
        workers: the number after the colon, or None.
        address: for `address`: the address of the scheduler.

    For an address, or a client of the user, the cluster decides the workers.
    """

    kind: str
    workers: int | None = None
    address: str = ""

    @classmethod
    def parse(cls, text: str) -> Scheduler:
        """`local`, `local:4`, `serial`, `joblib:2`, `tcp://10.0.0.5:8786`, a path of a cluster file, …

        Raises:
            ConfigError: the text has none of these forms.
        """
        if text.startswith(_PROTOCOLS):
            return cls("address", address=text)
        kind, colon, number = text.rpartition(":")
        if not colon:
            kind, number = text, ""
        if not kind:
            raise ConfigError(
                f"The scheduler {text!r} is unknown, and nothing was started. Use serial, multiprocessing[:N], "
                "joblib[:N], local[:N] or tcp://host:port, with 1 or more workers N (scheduler)."
            )
        if kind not in _POOLS:
            find_file(kind, "clusters")
        if colon and not _is_count(number):
            raise ConfigError(
                f"The scheduler {text[:60]!r} does not say how many workers: after the colon must be a whole number, "
                f"1 or more. Nothing was started; write, for example, {kind}:1, or {kind} alone (scheduler)."
            )
        if kind == "serial" and number not in ("", "1"):
            raise ConfigError(
                "The scheduler serial has only one process, and nothing was started. Use multiprocessing:N or "
                "local:N for more (scheduler)."
            )
        return cls(kind, int(number) if number else None)

    @property
    def is_pool(self) -> bool:
        """Whether the scheduler is this process or a process pool of this machine, without Dask."""
        return self.kind in _POOLS

    def file(self) -> ClusterFile | None:
        """The cluster file; None for a pool or an address.

        Raises:
            ConfigError: the file is wrong.
        """
        if self.is_pool or self.kind == "address":
            return None
        from daskt2i.deploy.cluster_file import ClusterFile

        return ClusterFile.read(self.kind)


def _is_count(number: str) -> bool:
    """Whether it is a whole number from 1. What a cluster or a machine has room for, the plan says."""
    return number.isdecimal() and len(number) <= _MOST_DIGITS and int(number) >= 1


def address_of(client: Client) -> str:
    """The address of a client's scheduler.

    Raises:
        ConfigError: this is not a synchronous `distributed.Client`, or it is closed.
    """
    from daskt2i.deploy.connect import borrow

    return str(borrow(client, 1).client.scheduler.address)


def open_executor(scheduler: Scheduler, layout: WorkerLayout) -> Executor:
    """Make the executor for a scheduler, without starting it.

    Args:
        layout: workers, threads and memory on this machine; an existing cluster has its own.

    Raises:
        ConfigError: the cluster file is wrong.
    """
    if scheduler.is_pool:
        refuse_only(scheduler, layout)
    if scheduler.kind == "serial":
        from daskt2i.executors.serial import SerialExecutor

        return SerialExecutor(layout.threads)
    if scheduler.kind == "multiprocessing":
        from daskt2i.executors.multiprocessing import MultiprocessingExecutor

        return MultiprocessingExecutor(layout.workers, layout.threads, layout.memory_limit)
    if scheduler.kind == "joblib":
        from daskt2i.executors.joblib import JoblibExecutor

        return JoblibExecutor(layout.workers, layout.threads, layout.memory_limit)
    from daskt2i.executors.dask import DaskExecutor

    scheduler.file()  # an error in the file is raised before anything starts
    return DaskExecutor(lambda: connect(scheduler, layout), not layout.threads, layout.only)


def refuse_only(scheduler: Scheduler, layout: WorkerLayout) -> None:
    """Refuse a choice of workers where there is nothing to choose from.

    Raises:
        ConfigError: the layout has one, and the scheduler has no workers of different kinds.
    """
    if layout.only != "all":
        raise ConfigError(
            f"Only the workers {layout.only!r} are to be used, but the scheduler {scheduler.kind} has no workers to "
            "choose from. Nothing was started; set run.only=all and launch.only=all, or use a Dask cluster (scheduler)."
        )


def connect(scheduler: Scheduler, layout: WorkerLayout, tell: Callable[[str], None] = lambda text: None) -> Connection:
    """Start the cluster of a file, or connect to an address.

    Args:
        tell: gets a line for the user while a queue does not start the workers.

    Raises:
        ConfigError: the cluster file is wrong.
        SchedulerError: no scheduler could be started or reached.
        ExecutorError: this machine has no shared memory for the processes of `local`.
    """
    if scheduler.kind == "local":
        from daskt2i.executors.shared_memory import require_semaphores

        require_semaphores("local")  # its workers are processes too, and Dask says only that they did not start
    if (file := scheduler.file()) is not None:
        return file.start(layout.workers, layout.threads, layout.memory_limit, tell)
    from daskt2i.deploy.connect import attach

    return attach(scheduler.address, layout.threads)
