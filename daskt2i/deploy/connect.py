"""A connection to Dask: a cluster started from a file, or one that is there already.

Covers: reading a cluster file, starting its cluster with its settings, attaching to an address (which is never closed
by us).
Does not cover: what `--scheduler` means (`session.schedulers`), what runs on the workers (`executors`, `launch`), how
many workers are sensible (`session.worker_layout`).
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Client

from daskt2i.config.workflow_file import find_file, read_yaml
from daskt2i.deploy.child_processes import deaf_children
from daskt2i.deploy.workers import workers_of
from daskt2i.errors import ConfigError, SchedulerError

_SERVER_TIMEOUT = 20.0
_START_SECONDS = 120

_CLIENT_CONFIG = {"distributed.admin.low-level-log-length": 100}
"""For a client without a cluster file. `clusters/local.yaml` says why."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A client and what it talks to.

    Attributes:
        client: connected.
        threads: torch threads of each worker.
        close: ends what was started for it; does nothing to a cluster that was attached to.
        owned: whether the cluster was started for it: nobody else's data is on its workers.
    """

    client: Client
    threads: int
    close: Callable[[], None]
    owned: bool


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """A cluster file: the class of the cluster, its arguments, and the Dask settings that hold while it runs."""

    name: str
    factory: str
    arguments: dict[str, Any]
    config: dict[str, Any]

    @classmethod
    def read(cls, name: str) -> ClusterFile:
        """By the name of a shipped file, or by its path.

        Raises:
            ConfigError: there is none, or it is wrong.
        """
        path = find_file(name, "clusters")
        data = read_yaml(path)
        unknown = data.keys() - {"cluster", "arguments", "config"}
        if unknown or not isinstance(data.get("cluster"), str):
            wrong = f"does not know {', '.join(sorted(unknown))}" if unknown else "lacks `cluster:`"
            raise ConfigError(f"The cluster file {path} {wrong}; it holds cluster, arguments and config.")
        return cls(path.stem, data["cluster"], dict(data.get("arguments") or {}), dict(data.get("config") or {}))

    def start(self, workers: int, threads: int, memory_limit: int) -> Connection:
        """Start the cluster, and wait for all of its workers.

        Args:
            threads: torch threads of each worker.
            memory_limit: bytes of each worker.

        Raises:
            ConfigError: the class cannot be imported.
            SchedulerError: it did not start.
        """
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
        arguments |= {"n_workers": workers, "memory_limit": memory_limit, "silence_logs": logging.CRITICAL}
        # The nanny sets thread variables for its worker before it spawns it; ours must be the plan's, not 1.
        environ = {k: str(threads) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        config = self.config | {f"distributed.nanny.pre-spawn-environ.{k}": v for k, v in environ.items()}
        settings = dask.config.set(config)  # until the end: the logs of a worker that joins later are made then
        try:
            with _environment_kept(), ExitStack() as stack:
                stack.enter_context(settings)
                with deaf_children():  # the thread of its event loop starts here, and nannies start workers from it
                    cluster = factory(**arguments)
                stack.callback(cluster.close, timeout=10)
                client = stack.enter_context(Client(cluster, set_as_default=False))
                client.wait_for_workers(workers, timeout=_START_SECONDS)
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

        return Connection(client, threads, close, owned=True)


def attach(address: str, threads: int) -> Connection:
    """Attach to a scheduler. Closing the connection leaves it running.

    Args:
        threads: torch threads of each worker; 0: as many as the worker with the fewest has.

    Raises:
        SchedulerError: nobody answers there.
    """
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
    threads = threads or min((w["nthreads"] for w in workers), default=1)

    def close() -> None:
        with quiet:
            client.close(timeout=5)

    return Connection(client, threads, close, owned=False)


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
