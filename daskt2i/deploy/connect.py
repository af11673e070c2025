"""Clients of Dask: connects to a running scheduler, or uses the client of the caller.

Covers: a client for an address (daskt2i never closes such a cluster), the user's current client, links to dashboards.
This process stays unchanged: its environment, Dask's settings, loggers. The default client stays too, but a notebook
without one gets ours while it is open (`offer`).
Does not cover: starting a cluster (`cluster_file`, `cluster_process`), what the setting of the scheduler means
(`session.schedulers`), what runs on the workers (`executors`, `launch`).
"""

from __future__ import annotations

import importlib
import ssl
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import dask.config
from distributed import Client
from distributed.client import ensure_default_client
from distributed.security import Security

from daskt2i.deploy.scheduler_side import link_of
from daskt2i.deploy.tls_files import certificates_for, has_own_certificates
from daskt2i.deploy.workers import workers_of
from daskt2i.errors import ConfigError, SchedulerError
from daskt2i.notebooks import in_notebook

_SERVER_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Connection:
    """A client of a scheduler.

    Attributes:
        client: the connected client.
        threads: torch threads of each worker.
        close: closes the client and the cluster that daskt2i started; other clusters keep running.
        owned: whether daskt2i started the cluster. Then no other data is on its workers.
        gather: waits for so many workers, and keeps their number fixed. Ranks need it, chunks do not.
        ended: why no worker will come, a sentence; "" if one may come.
    """

    client: Client
    threads: int
    close: Callable[[], None]
    owned: bool
    gather: Callable[[int], None] = lambda workers: None
    ended: Callable[[], str] = lambda: ""


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
        client = client_of(address, security)
    except (OSError, TimeoutError, ValueError) as error:
        if wrong := _certificate_problem(error):
            raise SchedulerError(
                f"The scheduler at {address} was not used, because its certificate cannot be verified ({wrong}). "
                "Nothing was started; renew the certificates, and name them in Dask's configuration "
                "(distributed.comm.tls.ca-file, client.cert and client.key)."
            ) from error
        raise SchedulerError(
            f"No scheduler answers at {address}. Nothing was started; check the address, or start one with "
            "`dask scheduler` and workers with `dask worker ADDRESS`."
        ) from error
    threads = threads or fewest_threads(client)
    offer(client)

    def close() -> None:
        client.close(timeout=5)

    return Connection(client, threads, close, owned=False)


def _certificate_problem(error: BaseException | None) -> str:
    """What is wrong with a certificate, if that is why a connection failed: `"certificate has expired"`."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return ""


def client_of(address: str, security: Security | None, again: bool = True) -> Client:
    """A client of a scheduler. It does not become the default client of this process."""
    if address.startswith("gateway://"):
        importlib.import_module("dask_gateway")  # it teaches Dask this kind of address
    try:
        return Client(address, security=security, timeout=_SERVER_TIMEOUT, set_as_default=False)
    except AssertionError:  # distributed gives its own thread 10 s to start: a machine may sleep, or be that busy
        if again:
            return client_of(address, security, again=False)
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


behind_loopback: weakref.WeakSet[Client] = weakref.WeakSet()
"""Clients whose scheduler has its dashboard on 127.0.0.1, though workers reach the scheduler at another address."""

_LINK = "{scheme}://{host}:{port}/status"


def dashboard_of(client: Client) -> str:
    """Link to the dashboard of a client. "" if there is none, or if Dask's setting of the link cannot be filled in.

    The setting (`distributed.dashboard.link`) may name variables of the environment that are not set here.
    """
    try:
        link = link_of(client, client.dashboard_link or "")
        if client in behind_loopback and dask.config.get("distributed.dashboard.link") == _LINK:
            host = client.scheduler.address.partition("://")[2].rpartition(":")[0]
            return link.replace(f"://{host}:", "://127.0.0.1:", 1)
        return link
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
