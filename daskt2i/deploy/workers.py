"""Which workers a Dask scheduler has.

Covers: asking the scheduler, not the client's memory of it.
Does not cover: what they are used for (`executors.dask`, `launch`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def workers_of(client: Any) -> Mapping[str, Any]:
    """What the scheduler of a `distributed.Client` knows of each worker, by address.

    Not by `scheduler_info`: it gives what the client holds, and the client replaces that every 2 s by an answer without
    any worker (distributed 2026.8). In such a moment all workers would seem to be lost.
    """
    found: Mapping[str, Any] = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    return found
