"""Which workers a Dask scheduler has, and asking them.

Covers: asking the scheduler, not the client's memory of it; a function on workers, of which some may be frozen.
Does not cover: what they are used for (`executors.dask`, `launch`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any


def workers_of(client: Any) -> Mapping[str, Any]:
    """What the scheduler of a `distributed.Client` knows of each worker, by address.

    Not by `scheduler_info`: it gives what the client holds, and the client replaces that every 2 s by an answer without
    any worker (distributed 2026.8). In such a moment all workers would seem to be lost.
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
    """Call a function on these workers' event loops, side by side. Those that do not answer in time are left out.

    Args:
        function: plain or `async`; a plain one holds its worker's event loop up.
        seconds: for all of them together.
        silent: takes the threads that still wait for an answer.
    """
    answers: dict[str, Any] = {}

    def ask(address: str) -> None:
        with suppress(Exception):  # gone, or the client is
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
