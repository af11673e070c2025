"""Connects to Dask: starts a cluster from a file, or connects to a running one.

Covers: reading a cluster file, starting its cluster with its settings, connecting to an address (daskt2i never closes
such a cluster). This process stays unchanged: its environment, Dask's settings, loggers. The default client stays too,
but a notebook without one gets ours while it is open (`offer`).
Does not cover: the process of a started cluster (`cluster_process`), what the setting of the scheduler means
(`session.schedulers`), what runs on the workers (`executors`, `launch`), how many workers to start
(`session.worker_layout`).
"""

from __future__ import annotations

import json
import logging
import sys
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import dask.config
from distributed import Client
from distributed.client import ensure_default_client
from distributed.security import Security

from daskt2i import documents
from daskt2i.config.workflow_file import find_file, read_yaml
from daskt2i.deploy.cluster_process import ClusterProcess
from daskt2i.deploy.scheduler_side import link_of
from daskt2i.deploy.tls_files import certificates_for, has_own_certificates, keep_certificates, remove_certificates
from daskt2i.deploy.workers import workers_of
from daskt2i.errors import ConfigError, SchedulerError
from daskt2i.notebooks import in_notebook

_SERVER_TIMEOUT = 20.0
_START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Connection:
    """A client of a scheduler.

    Attributes:
        client: the connected client.
        threads: torch threads of each worker.
        close: closes the client and the cluster that daskt2i started; other clusters keep running.
        owned: whether daskt2i started the cluster. Then no other data is on its workers.
    """

    client: Client
    threads: int
    close: Callable[[], None]
    owned: bool


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """A cluster file: the class of the cluster, its arguments, and the Dask settings of its processes."""

    name: str
    factory: str
    arguments: dict[str, Any]
    config: dict[str, Any]

    @classmethod
    def read(cls, name: str) -> ClusterFile:
        """Read a cluster file.

        Args:
            name: name of a shipped file, or a path.

        Raises:
            ConfigError: there is no such file, or it is wrong.
        """
        path = find_file(name, "clusters")
        data = read_yaml(path)
        unknown = data.keys() - {"cluster", "arguments", "config"}
        if unknown or not isinstance(data.get("cluster"), str):
            wrong = f"has the unknown keys {', '.join(sorted(map(str, unknown)))}" if unknown else "lacks `cluster:`"
            raise ConfigError(
                f"The cluster file {path} {wrong}. Its keys are cluster, arguments and config. Nothing was started."
            )
        try:
            json.dumps(data, allow_nan=False)
        except (TypeError, ValueError) as error:  # YAML also has dates and infinite numbers
            raise ConfigError(
                f"The cluster file {path} holds a value that is not text, a number, a list or a mapping ({error}). Put "
                "it in quotes."
            ) from None
        for key in ("arguments", "config"):
            if not isinstance(data.get(key), dict | None):
                raise ConfigError(
                    f"The cluster file {path} is wrong: {key} is {documents.shown(data[key])}, but it must hold names "
                    "with values. Nothing was started."
                )
        return cls(path.stem, data["cluster"], dict(data.get("arguments") or {}), dict(data.get("config") or {}))

    def start(self, workers: int, threads: int, memory_limit: int) -> Connection:
        """Start the cluster, and wait for all of its workers.

        Args:
            workers: number of workers.
            threads: torch threads of each worker.
            memory_limit: memory limit of each worker, bytes.

        Raises:
            ConfigError: the class cannot be imported.
            SchedulerError: the cluster did not start.
        """
        arguments = dict(self.arguments)
        offered: dict[str, Any] = {"n_workers": workers, "memory_limit": memory_limit, "silence_logs": logging.CRITICAL}
        if uses_tls(arguments, self.config):
            offered["security"] = True
        environ = {k: str(threads) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        try:
            with ExitStack() as stack:
                cluster = ClusterProcess(self.factory, arguments, self.config, environ, offered)
                stack.callback(cluster.close)
                files = keep_certificates(cluster.address, cluster.security or {})
                stack.callback(remove_certificates, files)
                security = Security(**cluster.security) if cluster.security else None
                client = _client(cluster.address, security)
                stack.enter_context(client)
                client.wait_for_workers(cluster.workers or workers, timeout=_START_SECONDS)
                stack.pop_all()
            offer(client)  # not before: `with` would make a default client the current one of this thread for good
        except ConfigError as error:
            raise ConfigError(
                f"The cluster file {self.name}.yaml names {self.factory}, which cannot be imported ({error}). Nothing "
                "was started; check the spelling, and that the package is installed."
            ) from None
        except (OSError, TimeoutError, TypeError, ValueError, RuntimeError) as error:
            raise SchedulerError(
                f"The cluster of the file {self.name}.yaml did not start ({error}). No work was done; the scheduler "
                "multiprocessing (scheduler) needs no cluster."
            ) from error

        def close() -> None:
            # The work is done, so a worker that ends slowly is not an error. It ends with the cluster's process.
            with suppress(TimeoutError, OSError):
                client.close(timeout=5)
            cluster.close()
            remove_certificates(files)

        return Connection(client, threads, close, owned=True)


def uses_tls(arguments: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether a cluster that daskt2i starts gets temporary certificates.

    Without them, any user of this machine could connect to the scheduler and run code as the user who started it. No:
    if the cluster file gives `security` or `protocol`, if Dask's configuration names certificates, or if the setting
    `daskt2i.tls` of Dask's configuration is false (for debugging).
    """
    own = has_own_certificates(dask.config.config) or any("comm.tls" in key or "encryption" in key for key in config)
    return bool(dask.config.get("daskt2i.tls", True)) and not own and not {"security", "protocol"} & arguments.keys()


def attach(address: str, threads: int) -> Connection:
    """Connect to a running scheduler. Closing the connection leaves it running.

    It does not change Dask's settings or the loggers of distributed, because they belong to the user. The command line
    has its own process, so it hides the log lines of distributed itself (`cli.endings`).

    Args:
        address: address of the scheduler.
        threads: torch threads of each worker; 0 for the number of threads of the worker with the fewest.

    Raises:
        SchedulerError: no scheduler answers at the address, or it wants other certificates.
    """
    security = certificates_for(address)
    if address.startswith("tls://") and security is None and not has_own_certificates(dask.config.config):
        raise SchedulerError(
            f"The scheduler at {address} wants certificates, and this user has none for it on this machine. Nothing "
            "was started; name them in Dask's configuration (distributed.comm.tls.ca-file, client.cert and client.key)."
        )
    try:
        client = _client(address, security)
    except (OSError, TimeoutError, ValueError) as error:
        raise SchedulerError(
            f"No scheduler answers at {address}. Nothing was started; check the address, or start one with "
            "`dask scheduler` and workers with `dask worker ADDRESS`."
        ) from error
    threads = threads or fewest_threads(client)
    offer(client)

    def close() -> None:
        client.close(timeout=5)

    return Connection(client, threads, close, owned=False)


def _client(address: str, security: Security | None, again: bool = True) -> Client:
    """A client of a scheduler. It does not become the default client of this process."""
    try:
        return Client(address, security=security, timeout=_SERVER_TIMEOUT, set_as_default=False)
    except AssertionError:  # distributed gives its own thread 10 s to start: a machine may sleep, or be that busy
        if again:
            return _client(address, security, again=False)
        raise TimeoutError("the thread of the client did not start in time") from None


_offered: weakref.WeakSet[Client] = weakref.WeakSet()


def offer(client: Client) -> None:
    """In a notebook, make a client of ours Dask's default until it is closed, but never in place of a user's client.

    JupyterLab's Dask extension asks an idle kernel for its default client, to find the dashboard. A client that the
    user makes later becomes the default as always. Dask's settings stay as they are.
    """
    if in_notebook() and current_client() is None:
        _offered.add(client)
        ensure_default_client(client)


def current_client() -> Client | None:
    """The user's current client of Dask, from `distributed.default_client()`; None without one, or if it is ours.

    It imports nothing, because a process that has not imported distributed has no client.
    """
    module = sys.modules.get("distributed")
    try:
        client = None if module is None else module.default_client()
    except ValueError:
        return None
    return None if client in _offered else client


def dashboard_of(client: Client) -> str:
    """Link to the dashboard of a client. "" if there is none, or if Dask's setting of the link cannot be filled in.

    The setting (`distributed.dashboard.link`) may name variables of the environment that are not set here.
    """
    try:
        return link_of(client, client.dashboard_link or "")
    except (KeyError, ValueError, IndexError, AttributeError, OSError):
        return ""


def borrow(client: Client, threads: int) -> Connection:
    """Use the client of the caller. Closing the connection leaves client and cluster unchanged.

    Args:
        client: a connected, synchronous client.
        threads: torch threads of each worker; 0 for the number of threads of the worker with the fewest.

    Raises:
        ConfigError: it is not a synchronous `distributed.Client`, or it is closed.
    """
    if not isinstance(client, Client):
        raise ConfigError(
            f"client is {type(client).__name__}, but it must be a distributed.Client. Nothing was started; give "
            "client=Client(...), or scheduler= with the address of a Dask scheduler."
        )
    if client.asynchronous:
        raise ConfigError(
            "client is asynchronous, but daskt2i needs a synchronous one. Nothing was started; give a client that was "
            "made without asynchronous=True. It works in a notebook too."
        )
    if client.status != "running":
        raise ConfigError(
            f"client is {client.status}, so it cannot run work. Nothing was started; give a connected client."
        )
    return Connection(client, threads or fewest_threads(client), lambda: None, owned=False)


def fewest_threads(client: Client) -> int:
    """The smallest number of threads of a worker. A worker runs one chunk at a time, so torch can use all of them.

    If a worker was started with one thread on a whole node, the user must set `run.threads`.
    """
    return min((worker["nthreads"] for worker in workers_of(client).values()), default=1)
