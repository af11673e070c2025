"""Asking each worker of a Dask scheduler the same question, before any chunk.

Covers: one short task on each of some workers; workers that do not answer.
Does not cover: the questions (`hosts.sight`), chunks (`dask`), questions to the event loop of a worker that is busy
(`deploy.workers`).

Each question is a task that is bound to its worker, so that the worker stays in touch with the scheduler meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from time import monotonic, sleep
from typing import Any, TypeVar
from uuid import uuid4

from distributed import Client
from distributed.comm import get_address_host

from daskt2i.deploy.workers import workers_of

R = TypeVar("R")

_PAUSE = 0.02

_FIRST = 100
"""Priority of a question: before the tasks of other users on the same workers."""


def ask_each(client: Client, question: Callable[[], R], addresses: Collection[str], seconds: float) -> Mapping[str, R]:
    """Call a function on each of these workers, in parallel.

    Returns:
        address of a worker -> its answer. A worker that gave none in time, or raised an error, is not in it.
    """
    looked = monotonic()
    until, token = looked + seconds, uuid4().hex
    asked = {
        address: client.submit(
            question,
            key=f"daskt2i-question-{number}-{token}",
            workers=[address],
            allow_other_workers=False,
            pure=False,
            retries=0,
            priority=_FIRST,
        )
        for number, address in enumerate(addresses)
    }
    try:
        while (silent := [address for address, future in asked.items() if not future.done()]) and monotonic() < until:
            sleep(_PAUSE)
            if monotonic() > looked + 1.0:
                looked, there = monotonic(), workers_of(client)
                if not set(silent) & set(there):  # a worker that has died never answers
                    break
        return {address: future.result() for address, future in asked.items() if future.status == "finished"}
    finally:
        client.cancel(list(asked.values()))


def on_this_machine(workers: Collection[str]) -> bool:
    """Whether all addresses are of this machine alone: loopback, or inside this process."""
    return all(_is_here(address) for address in workers)


def _is_here(address: str) -> bool:
    if address.startswith("inproc://"):
        return True
    host: Any = get_address_host(address)
    return str(host).startswith("127.") or host in ("::1", "localhost")
