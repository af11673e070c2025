"""Lists the workers of a Dask scheduler, and calls functions on them.

Covers: asking the scheduler for its workers, not the client's copy; calling a function on workers that may be frozen.
Does not cover: what the workers do (`executors.dask`, `launch`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

RANK_MEMORY, RANK_CPU = "daskt2i_rank_memory", "daskt2i_rank_cpu"
"""Metrics of a Dask worker that runs a rank: bytes; per cent of one core, as Dask's own `cpu`."""


def workers_of(client: Any) -> Mapping[str, Any]:
    """Worker address -> what the scheduler of a `distributed.Client` knows about the worker.

    It does not use `scheduler_info`, which returns the client's copy. Every 2 s the client replaces this copy by one
    without any worker (distributed 2026.8), and then all workers would seem to be lost.
    """
    found: Mapping[str, Any] = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    return found


def ask_workers(
    client: Any,
    function: Callable[..., Any],
    addresses: Sequence[str],
    *arguments: Any,
    seconds: float,
    silent: dict[str, threading.Thread] | None = None,
) -> dict[str, Any]:
    """Call a function on the event loops of workers, in parallel. Workers that do not answer in time are left out.

    Args:
        function: plain or `async`. A plain function blocks the event loop of its worker.
        addresses: addresses of the workers.
        seconds: time limit for all workers together.
        silent: receives the threads that still wait for an answer.

    Returns:
        worker address -> result.
    """
    answers: dict[str, Any] = {}

    def ask(address: str) -> None:
        with suppress(Exception):  # the worker or the client has ended
            found = client.run(function, *arguments, workers=[address], on_error="return")
            if not isinstance(found[address], BaseException):
                answers[address] = found[address]

    threads = {address: threading.Thread(target=ask, args=(address,), daemon=True) for address in addresses}
    for thread in threads.values():
        thread.start()
    deadline = monotonic() + seconds
    for thread in threads.values():
        thread.join(max(0.0, deadline - monotonic()))
    if silent is not None:
        silent.update(threads)
    return {address: answers[address] for address in addresses if address in answers}
