"""What `--scheduler` means: this process, process pools, a cluster file, or the address of a Dask cluster.

Covers: reading the value, the executor that it stands for, the connection to a Dask cluster.
Does not cover: starting a cluster (`deploy`), what runs on it (`executors`), how many workers there are
(`worker_layout`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from daskt2i.config.workflow_file import find_file
from daskt2i.errors import ConfigError
from daskt2i.plan import WorkerLayout
from daskt2i.protocols import Executor

if TYPE_CHECKING:
    from daskt2i.deploy.connect import Connection

_PROTOCOLS = ("tcp://", "tls://", "ws://", "wss://", "ucx://", "inproc://")


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A `--scheduler` value, taken apart.

    Attributes:
        kind: `serial`, `multiprocessing`, `joblib`, the name of a cluster file, or `address`.
        workers: the number behind the colon, or None.
        address: for `address`: where the scheduler listens.

    Workers of an address, and those of a client that somebody gave, are not ours to divide.
    """

    kind: str
    workers: int | None = None
    address: str = ""

    @classmethod
    def parse(cls, text: str) -> Scheduler:
        """`local`, `local:4`, `serial`, `joblib:2`, `tcp://10.0.0.5:8786`, a path of a cluster file, …

        Raises:
            ConfigError: not of one of these forms.
        """
        if text.startswith(_PROTOCOLS):
            return cls("address", address=text)
        kind, colon, number = text.rpartition(":")
        if not colon:
            kind, number = text, ""
        if (colon and not number.isdecimal()) or (number and int(number) < 1) or not kind:
            raise ConfigError(
                f"The scheduler {text!r} is not of the form serial, multiprocessing[:N], joblib[:N], local[:N] or "
                "tcp://host:port (N workers, 1 or more). Nothing was started."
            )
        if kind == "serial":
            if number not in ("", "1"):
                raise ConfigError(
                    "The scheduler serial is one process; use multiprocessing:N or local:N for more. Nothing was "
                    "started."
                )
        elif kind not in ("multiprocessing", "joblib"):
            find_file(kind, "clusters")
        return cls(kind, int(number) if number else None)

    @property
    def is_pool(self) -> bool:
        """Whether it needs no Dask scheduler: this process, or a process pool of this machine."""
        return self.kind in ("serial", "multiprocessing", "joblib")


def open_executor(scheduler: Scheduler, layout: WorkerLayout) -> Executor:
    """The executor for a scheduler; nothing is started yet.

    Args:
        layout: workers, threads and memory on this machine; an attached cluster has its own.

    Raises:
        ConfigError: the cluster file is wrong.
    """
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

    if scheduler.kind != "address":
        from daskt2i.deploy.connect import ClusterFile

        ClusterFile.read(scheduler.kind)  # what is wrong with it is told before anything is started
    return DaskExecutor(lambda: connect(scheduler, layout))


def connect(scheduler: Scheduler, layout: WorkerLayout) -> Connection:
    """Start the cluster of a file, or attach to an address.

    Raises:
        ConfigError: the cluster file is wrong.
        SchedulerError: no scheduler could be started or reached.
    """
    from daskt2i.deploy.connect import ClusterFile, attach

    if scheduler.kind == "address":
        return attach(scheduler.address, layout.threads)
    return ClusterFile.read(scheduler.kind).start(layout.workers, layout.threads, layout.memory_limit)
