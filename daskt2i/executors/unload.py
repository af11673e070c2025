"""Unload the encoders on the workers of a Dask cluster, so that other work can use the memory.

Covers: asking all workers of a cluster to unload; restarting workers that daskt2i started, which frees more memory.
Does not cover: unloading in one process (`encode.model_cache`), when to unload (`session`).

A worker that daskt2i did not start is never restarted: the data that its user keeps there would be lost. Nor is one
that daskt2i started, if it has a result or a task: a user may work on it through `Run.client`.
"""

from __future__ import annotations

import asyncio
import sys
from time import monotonic, sleep

from distributed import Client

from daskt2i.deploy.only import Only
from daskt2i.deploy.workers import ask_workers, workers_of
from daskt2i.retries import RESTART_SECONDS

_CACHE = "daskt2i.encode.model_cache"
"""Looked up in `sys.modules`, not imported: a worker that never encoded has no models, and an import takes time."""

_ASK_SECONDS = 3.0
_RELEASE_SECONDS = 2.0
_CHUNK_SECONDS = 20.0
"""How long to wait for a chunk that is still being encoded on the worker."""


def unload_encoders(client: Client, *, restart: bool = False, only: Only | None = None) -> list[str]:
    """Unload the encoders on the workers of a cluster. A later chunk loads them again.

    Args:
        only: which workers; None for all.
        restart: restart the workers that hold encoders, have a nanny, and nothing else of Dask: no result and no task.

    Returns:
        Notes for the user: which workers keep their encoders, and why. Empty if all workers unloaded.

    Raises:
        OSError, RuntimeError: the scheduler is gone.
    """
    infos = (only or Only()).of(client, workers_of(client))
    held = ask_workers(client, _held, list(infos), seconds=_ASK_SECONDS)
    full = [address for address, models in held.items() if models]
    silent = [address for address in infos if address not in held]
    again = _without_work(client, [address for address in full if restart and infos[address].get("nanny")])
    notes = []
    if again:
        ends = client.restart_workers(again, timeout=RESTART_SECONDS, raise_for_error=False)
        late = [address for address, end in ends.items() if end != "OK"]
        if late:
            notes.append(f"{', '.join(late)} did not come back within {RESTART_SECONDS} s after a restart.")
    rest = [address for address in full if address not in again]
    done = ask_workers(client, _unload, rest, _CHUNK_SECONDS, seconds=_CHUNK_SECONDS + _ASK_SECONDS)
    silent += [address for address in rest if address not in done]
    busy = [address for address, freed in done.items() if not freed]
    if silent:
        notes.append(f"Encoders may stay in memory on {', '.join(silent)}: no answer came from there.")
    if busy:
        notes.append(f"Encoders stay in memory on {', '.join(busy)}: a chunk is still being encoded there.")
    return notes


def _without_work(client: Client, addresses: list[str]) -> list[str]:
    """Those of the workers that have no result and no task. What a stage has just released takes a moment to go."""
    deadline = monotonic() + _RELEASE_SECONDS
    while True:
        kept, running = client.has_what(addresses), client.processing(addresses)
        free = [address for address in addresses if not kept.get(address) and not running.get(address)]
        if len(free) == len(addresses) or monotonic() > deadline:
            return free
        sleep(0.1)


def _held() -> int:
    """On a worker: the number of encoders that it holds."""
    cache = sys.modules.get(_CACHE)
    return 0 if cache is None else cache.held()


async def _unload(seconds: float) -> bool:
    """On a worker: unload in a thread, so that the event loop can answer the scheduler while a chunk finishes."""
    return await asyncio.to_thread(sys.modules[_CACHE].unload, seconds)
