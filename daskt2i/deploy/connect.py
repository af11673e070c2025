"""A connection to Dask: a cluster started from a file, or one that is there already.

Covers: reading a cluster file, starting its cluster with its settings, attaching to an address (which is never closed
by us). Either way this process stays as it is: its environment, Dask's settings, loggers, the default client.
Does not cover: the process of a cluster that we start (`cluster_process`), what `--scheduler` means
(`session.schedulers`), what runs on the workers (`executors`, `launch`), how many workers are sensible
(`session.worker_layout`).
"""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from distributed import Client
from distributed.security import Security

from daskt2i.config.workflow_file import find_file, read_yaml
from daskt2i.deploy.cluster_process import ClusterProcess
from daskt2i.deploy.workers import workers_of
from daskt2i.errors import ConfigError, SchedulerError

_SERVER_TIMEOUT = 20.0
_START_SECONDS = 120


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
    """A cluster file: the class of the cluster, its arguments, and the Dask settings that hold in its processes."""

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
        try:
            json.dumps(data)
        except (TypeError, ValueError) as error:  # YAML knows dates and binaries besides
            raise ConfigError(
                f"The cluster file {path} holds a value that is neither text, number, list nor mapping ({error}). Put "
                "it in quotes."
            ) from None
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
        arguments = dict(self.arguments)
        if "dashboard_address" in arguments:
            arguments["dashboard_address"] = _free(arguments["dashboard_address"])
        arguments |= {"n_workers": workers, "memory_limit": memory_limit, "silence_logs": logging.CRITICAL}
        environ = {k: str(threads) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        try:
            with ExitStack() as stack:
                cluster = ClusterProcess(self.factory, arguments, self.config, environ)
                stack.callback(cluster.close)
                security = Security(**cluster.security) if cluster.security else None
                client = Client(cluster.address, security=security, timeout=_SERVER_TIMEOUT, set_as_default=False)
                stack.enter_context(client)
                client.wait_for_workers(workers, timeout=_START_SECONDS)
                stack.pop_all()
        except ConfigError as error:
            raise ConfigError(
                f"clusters/{self.name}.yaml names {self.factory}, which cannot be imported ({error})."
            ) from None
        except (OSError, TimeoutError, TypeError, ValueError, RuntimeError) as error:
            raise SchedulerError(
                f"The cluster of clusters/{self.name}.yaml did not start ({error}). Nothing was encoded; "
                "--scheduler multiprocessing needs no scheduler."
            ) from error

        def close() -> None:
            # The work is done by now: a worker that ends slowly does not make a failure of it, and ends with us.
            with suppress(TimeoutError, OSError):
                client.close(timeout=5)
            cluster.close()

        return Connection(client, threads, close, owned=True)


def attach(address: str, threads: int) -> Connection:
    """Attach to a scheduler. Closing the connection leaves it running.

    Settings of Dask in this process are the user's, and so is what distributed logs when a scheduler goes away: a
    command line, whose process is its own, keeps that off the terminal itself (`cli.console`).

    Args:
        threads: torch threads of each worker; 0: as many as the worker with the fewest has.

    Raises:
        SchedulerError: nobody answers there.
    """
    try:
        client = Client(address, timeout=_SERVER_TIMEOUT, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise SchedulerError(
            f"No scheduler answers at {address}. Nothing was started; check the address, or start one with "
            "`dask scheduler` and workers with `dask worker ADDRESS`."
        ) from error
    threads = threads or _fewest_threads(client)

    def close() -> None:
        client.close(timeout=5)

    return Connection(client, threads, close, owned=False)


def current_client() -> Client | None:
    """Dask's current client of this process, as `distributed.default_client()` gives it; None without one.

    It imports nothing: a process that has not imported distributed has no client.
    """
    module = sys.modules.get("distributed")
    try:
        return None if module is None else module.default_client()
    except ValueError:
        return None


def borrow(client: Client, threads: int) -> Connection:
    """A client that somebody gave. Closing the connection leaves client and cluster as they are.

    Args:
        threads: torch threads of each worker; 0: as many as the worker with the fewest has.

    Raises:
        ConfigError: it is no synchronous `distributed.Client`, or it is closed.
    """
    if not isinstance(client, Client):
        raise ConfigError(
            f"client is {type(client).__name__} where a distributed.Client is wanted. Nothing was started; give "
            "client=Client(...), or scheduler= with the address of a Dask scheduler."
        )
    if client.asynchronous:
        raise ConfigError(
            "client is asynchronous, and daskt2i waits for its results. Nothing was started; give a client that was "
            "made without asynchronous=True: it works in a notebook too."
        )
    if client.status != "running":
        raise ConfigError(
            f"client is {client.status}, so nothing can run on it. Nothing was started; give a client that is "
            "connected."
        )
    return Connection(client, threads or _fewest_threads(client), lambda: None, owned=False)


def _fewest_threads(client: Client) -> int:
    """A worker runs one chunk at a time, so all of its cores are torch's.

    How many those are only `run.threads` can tell where a worker was started with one thread on a whole node.
    """
    return min((worker["nthreads"] for worker in workers_of(client).values()), default=1)


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
