"""Workers let go of their encoders, so that other work has the memory.

Covers: asking all workers of a cluster; starting those again that are ours to start again, which frees more.
Does not cover: what is let go (`encode.model_cache`), when (`session`).

A worker that we did not start is never started again: what its user keeps there would be lost.
"""

from __future__ import annotations

import asyncio
import sys

from distributed import Client

from daskt2i.deploy.workers import ask_workers, workers_of
from daskt2i.retries import RESTART_SECONDS

_CACHE = "daskt2i.encode.model_cache"
"""Looked up and not imported: a worker that never encoded would take its time over that, and holds nothing."""

_ASK_SECONDS = 3.0
_CHUNK_SECONDS = 20.0
"""How long to wait for a chunk that somebody still encodes there."""


def unload_encoders(client: Client, *, restart: bool = False) -> list[str]:
    """Free the workers of a cluster of their encoders. A later chunk loads them again.

    Args:
        restart: start workers again that hold some and have a nanny. All that is kept on them is lost.

    Returns:
        Notes for the user: which workers keep their encoders, and why. None if all went well.

    Raises:
        OSError, RuntimeError: the scheduler is gone.
    """
    infos = workers_of(client)
    held = ask_workers(client, _held, list(infos), seconds=_ASK_SECONDS)
    full = [address for address, models in held.items() if models]
    silent = [address for address in infos if address not in held]
    again = [address for address in full if restart and infos[address].get("nanny")]
    notes = []
    if again:
        ends = client.restart_workers(again, timeout=RESTART_SECONDS, raise_for_error=False)
        late = [address for address, end in ends.items() if end != "OK"]
        if late:
            notes.append(f"{', '.join(late)} did not come back within {RESTART_SECONDS} s of being started again.")
    rest = [address for address in full if address not in again]
    done = ask_workers(client, _unload, rest, _CHUNK_SECONDS, seconds=_CHUNK_SECONDS + _ASK_SECONDS)
    silent += [address for address in rest if address not in done]
    busy = [address for address, freed in done.items() if not freed]
    if silent:
        notes.append(f"Encoders may stay in memory on {', '.join(silent)}: no answer came from there.")
    if busy:
        notes.append(f"Encoders stay in memory on {', '.join(busy)}: a chunk is still being encoded there.")
    return notes


def _held() -> int:
    """On a worker: how many encoders it holds."""
    cache = sys.modules.get(_CACHE)
    return 0 if cache is None else cache.held()


async def _unload(seconds: float) -> bool:
    """On a worker: not in its event loop, which has to answer its scheduler while a chunk comes to its end."""
    return await asyncio.to_thread(sys.modules[_CACHE].unload, seconds)
