"""`--scheduler` to an executor: this process, process pools, or a Dask cluster from `clusters/NAME.yaml`.

Covers: reading the scheduler's name, how much machine there is, starting a cluster with its settings, attaching to an
address (which is never closed by us).
Does not cover: what runs on it (`executors`), how many workers are sensible (`plan`).
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from daskt2i.config.workflow_file import find_file, read_yaml
from daskt2i.deploy.workers import workers_of
from daskt2i.encode.prepare import Prepared
from daskt2i.errors import ConfigError, SchedulerError
from daskt2i.machine.machine import this_machine
from daskt2i.plan import Crew, crew
from daskt2i.protocols import Executor

if TYPE_CHECKING:
    from daskt2i.executors.dask import Connection

_PROTOCOLS = ("tcp://", "tls://", "ws://", "wss://", "ucx://")
_SERVER_TIMEOUT = 20.0
_START_SECONDS = 120

_CLIENT_CONFIG = {"distributed.admin.low-level-log-length": 100}
"""For a client without a cluster file. `clusters/local.yaml` says why."""


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A `--scheduler` value, taken apart.

    Attributes:
        kind: `serial`, `multiprocessing`, `joblib`, the name of a cluster file, or `address`.
        workers: the number behind the colon, or None.
        address: for `address`: where the scheduler listens.
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
                f"--scheduler {text!r} is not of the form serial, multiprocessing[:N], joblib[:N], local[:N] or "
                "tcp://host:port (N workers, 1 or more)."
            )
        if kind == "serial":
            if number not in ("", "1"):
                raise ConfigError("--scheduler serial is one process; use multiprocessing:N or local:N for more.")
        elif kind not in ("multiprocessing", "joblib"):
            find_file(kind, "clusters")
        return cls(kind, int(number) if number else None)

    @property
    def is_pool(self) -> bool:
        """Whether it needs no Dask scheduler: this process, or a process pool of this machine."""
        return self.kind in ("serial", "multiprocessing", "joblib")


def crew_for(scheduler: Scheduler, prepared: Prepared) -> Crew:
    """Workers x threads for a run on this machine; for an attached cluster the figures of the plan alone.

    Raises:
        PlanError: the workers do not fit into memory.
    """
    run, machine = prepared.workflow.run, this_machine()
    workers = scheduler.workers or (None if run.workers == "auto" else run.workers)
    threads = None if run.threads == "auto" else run.threads
    if scheduler.kind == "serial":
        workers = 1
    if scheduler.kind == "address":
        return Crew(workers or 0, threads or 0, 0, "the cluster's own")
    if prepared.on_gpu and workers is None:
        # More processes on one GPU share its memory and win nothing; a cluster file with one worker per GPU uses more.
        found = crew(
            cores=machine.cores,
            memory=machine.memory,
            worker_memory=prepared.cost.worker_memory,
            chunks=len(prepared.plan),
            workers=1,
            threads=threads,
        )
        return replace(found, reason="one GPU")
    return crew(
        cores=machine.cores,
        memory=machine.memory,
        worker_memory=prepared.cost.worker_memory,
        chunks=len(prepared.plan),
        workers=workers,
        threads=threads,
    )


def open_executor(scheduler: Scheduler, hands: Crew) -> Executor:
    """The executor for a scheduler; nothing is started yet.

    Args:
        hands: workers, threads and memory on this machine; an attached cluster has its own.

    Raises:
        ConfigError: the cluster file is wrong.
    """
    if scheduler.kind == "serial":
        from daskt2i.executors.serial import SerialExecutor

        return SerialExecutor(hands.threads)
    if scheduler.kind == "multiprocessing":
        from daskt2i.executors.multiprocessing import MultiprocessingExecutor

        return MultiprocessingExecutor(hands.workers, hands.threads, hands.memory_limit)
    if scheduler.kind == "joblib":
        from daskt2i.executors.joblib import JoblibExecutor

        return JoblibExecutor(hands.workers, hands.threads, hands.memory_limit)
    from daskt2i.executors.dask import DaskExecutor

    if scheduler.kind != "address":
        _ClusterFile.read(scheduler.kind)  # what is wrong with it is told before anything is started
    return DaskExecutor(lambda: connect(scheduler, hands))


def connect(scheduler: Scheduler, hands: Crew) -> Connection:
    """Start the cluster of a file, or attach to an address.

    Raises:
        ConfigError: the cluster file is wrong.
        SchedulerError: no scheduler could be started or reached.
    """
    if scheduler.kind == "address":
        return _attach(scheduler.address, hands.threads)
    return _ClusterFile.read(scheduler.kind).start(hands)


@dataclass(frozen=True, slots=True)
class _ClusterFile:
    name: str
    factory: str
    arguments: dict[str, Any]
    config: dict[str, Any]

    @classmethod
    def read(cls, name: str) -> _ClusterFile:
        path = find_file(name, "clusters")
        data = read_yaml(path)
        unknown = data.keys() - {"cluster", "arguments", "config"}
        if unknown or not isinstance(data.get("cluster"), str):
            wrong = f"does not know {', '.join(sorted(unknown))}" if unknown else "lacks `cluster:`"
            raise ConfigError(f"The cluster file {path} {wrong}; it holds cluster, arguments and config.")
        return cls(path.stem, data["cluster"], dict(data.get("arguments") or {}), dict(data.get("config") or {}))

    def start(self, hands: Crew) -> Connection:
        import dask
        from distributed import Client

        from daskt2i.executors.attempts import deaf_children
        from daskt2i.executors.dask import Connection

        module, _, name = self.factory.rpartition(".")
        try:
            factory = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"clusters/{self.name}.yaml names {self.factory}, which cannot be imported ({error})."
            ) from error
        arguments = dict(self.arguments)
        if "dashboard_address" in arguments:
            arguments["dashboard_address"] = _free(arguments["dashboard_address"])
        arguments |= {"n_workers": hands.workers, "memory_limit": hands.memory_limit, "silence_logs": logging.CRITICAL}
        # The nanny sets thread variables for its worker before it spawns it; ours must be the plan's, not 1.
        environ = {k: str(hands.threads) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        config = self.config | {f"distributed.nanny.pre-spawn-environ.{k}": v for k, v in environ.items()}
        settings = dask.config.set(config)  # until the end: the logs of a worker that joins later are made then
        try:
            with _environment_kept(), ExitStack() as stack:
                stack.enter_context(settings)
                with deaf_children():  # the thread of its event loop starts here, and nannies start workers from it
                    cluster = factory(**arguments)
                stack.callback(cluster.close, timeout=10)
                client = stack.enter_context(Client(cluster, set_as_default=False))
                client.wait_for_workers(hands.workers, timeout=_START_SECONDS)
                stack.pop_all()
        except (OSError, TimeoutError, TypeError, ValueError, RuntimeError) as error:
            raise SchedulerError(
                f"The cluster of clusters/{self.name}.yaml did not start ({error}). Nothing was encoded; "
                "--scheduler multiprocessing needs no scheduler."
            ) from error

        def close() -> None:
            # The work is done by now: a worker that ends slowly does not make a failure of it, and ends with us.
            with settings, _quiet():
                with suppress(TimeoutError, OSError):
                    client.close(timeout=5)
                with suppress(TimeoutError, OSError):
                    cluster.close(timeout=10)

        return Connection(client, hands.threads, close)


def _attach(address: str, wanted: int) -> Connection:
    import dask
    from distributed import Client

    from daskt2i.executors.dask import Connection

    quiet = ExitStack()
    quiet.enter_context(_quiet())  # to the end: a scheduler that goes away is told in our words
    quiet.enter_context(dask.config.set(_CLIENT_CONFIG))
    try:
        client = Client(address, timeout=_SERVER_TIMEOUT, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        quiet.close()
        raise SchedulerError(
            f"No scheduler answers at {address}. Nothing was started; check the address, or start one with "
            "`dask scheduler` and workers with `dask worker ADDRESS`."
        ) from error
    workers = workers_of(client).values()
    # A worker runs one chunk at a time, so all of its cores are torch's. How many those are only `run.threads` can tell
    # where a worker was started with one thread on a whole node.
    threads = wanted or min((w["nthreads"] for w in workers), default=1)

    def close() -> None:
        with quiet:
            client.close(timeout=5)

    return Connection(client, threads, close)


def _free(address: str) -> str:
    """The address, with port 0 (any free one) in place of a port that is taken."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host or "127.0.0.1", int(port)))
        except (OSError, ValueError, OverflowError):
            return f"{host}:0"
    return address


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Take back what the nannies put into the environment of this process, where it would beat later settings."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for key in os.environ.keys() - before.keys():
            del os.environ[key]
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep distributed's complaints about lost connections off the terminal: they are told in our words.

    Some of its loggers have a level and a handler of their own, so all of them are silenced.
    """
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
