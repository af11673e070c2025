"""Asking the workers of a cluster, all at once and with a time limit. A worker that does not answer is left out.

Covers: calling functions of `bare` on workers that may lack daskt2i; functions of daskt2i on the others.
Does not cover: what is asked (`bare`, `sight`), what follows from it (`rules`).
"""

from __future__ import annotations

import inspect
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, TypeVar
from urllib.parse import urlsplit

from daskt2i.deploy.workers import ask_workers
from daskt2i.doctor import bare
from daskt2i.faults.time_limit import within

T = TypeVar("T")

PACKAGES = (
    *("daskt2i", "torch", "diffusers", "transformers", "tokenizers", "safetensors", "numpy", "pillow", "zarr"),
    *("numcodecs", "dask", "distributed", "cloudpickle", "msgpack", "pyarrow", "fsspec", "s3fs", "ncnn", "bokeh"),
)
"""Packages whose versions are in the report."""

_CALL = "(exec(source, space), space[function](*given))[1]"
"""A call of a function of `bare`, for Python's own `eval`: nothing of ours has to be there."""

ASK_SECONDS = 10.0
"""Time for the first answers of all workers together."""

_DASHBOARD_SECONDS = 5.0

PER_WORKER_SECONDS = 0.02
"""More time for each worker: all questions pass through one scheduler."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a process says of itself, and when: its clock is compared with that of the driver.

    Attributes:
        look: see `bare.look`.
        asked, answered: times of the driver's clock, seconds.
    """

    look: Mapping[str, Any]
    asked: float
    answered: float


def look_at(client: Any, addresses: Sequence[str]) -> dict[str, Answer]:
    """What each worker says of itself. Those that did not answer in time are missing."""
    source = _source()

    def ask(address: str) -> Callable[[], Answer | None]:
        def call() -> Answer | None:
            asked = time()
            found = client.run(eval, _CALL, _space(source, "look", address, PACKAGES), workers=[address])
            return Answer(found[address], asked, time())

        return call

    limit = ASK_SECONDS + PER_WORKER_SECONDS * len(addresses)
    found = each_within(limit, {address: ask(address) for address in addresses})
    silent = [address for address in addresses if address not in found]
    if silent and found:  # a worker may have been busy; all of them together are rather cut off
        found |= each_within(limit / 2, {address: ask(address) for address in silent})
    return found


def ask_each(
    client: Any, function: Callable[..., Any], given: Mapping[str, Sequence[Any]], seconds: float
) -> dict[str, Any]:
    """Call a function of daskt2i on workers. Those that did not answer in time, or failed, are missing.

    Args:
        given: worker address -> arguments.
    """

    def ask(address: str) -> Callable[[], Any]:
        return lambda: client.run(function, *given[address], workers=[address])[address]

    return each_within(seconds, {address: ask(address) for address in given})


def why_not_importable(client: Any, addresses: Sequence[str], module: str) -> dict[str, str]:
    """Worker address -> why this module cannot be imported there; "" if it can. Silent workers are missing."""
    space = _space(_source(), "importable", module)
    return ask_workers(client, eval, addresses, _CALL, space, seconds=ASK_SECONDS)


def look_at_scheduler(client: Any) -> Answer | None:
    """The same of the scheduler; None if it does not answer, or runs no functions of clients."""
    asked = time()
    found = within(ASK_SECONDS, lambda: client.run_on_scheduler(eval, _CALL, _space(_source(), "look", "", PACKAGES)))
    return Answer(found, asked, time()) if isinstance(found, dict) else None


def dashboard_error(link: str) -> str:
    """Why nothing listens to the dashboard from here; "" if it does, or if its link is a path of another server.

    It connects, and asks for no page: a page would cost the scheduler seconds, and a busy scheduler answers late.
    """
    found = urlsplit(link)
    if found.scheme not in ("http", "https") or not found.hostname:
        return ""
    port = found.port or (443 if found.scheme == "https" else 80)
    try:
        with socket.create_connection((found.hostname, port), timeout=_DASHBOARD_SECONDS):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def look_here() -> Answer:
    """The same of this process."""
    now = time()
    return Answer(bare.look("", PACKAGES), now, now)


def each_within(seconds: float, calls: Mapping[str, Callable[[], T | None]]) -> dict[str, T]:
    """Run calls in parallel. Name -> result, of those that ended in time without an error, and not with None."""
    answers: dict[str, T] = {}

    def run(name: str, call: Callable[[], T | None]) -> None:
        with suppress(Exception):  # the worker has ended, or cannot run what it was asked
            found = call()
            if found is not None:
                answers[name] = found

    threads = [threading.Thread(target=run, args=one, daemon=True) for one in calls.items()]
    for thread in threads:
        thread.start()
    deadline = monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - monotonic()))
    return {name: answers[name] for name in calls if name in answers}


def _source() -> str:
    return inspect.getsource(bare)


def _space(source: str, function: str, *given: Any) -> dict[str, Any]:
    """The names for `_CALL`."""
    return {"source": source, "space": {"__name__": bare.__name__}, "function": function, "given": given}
