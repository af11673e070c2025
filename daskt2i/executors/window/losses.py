"""Which workers a Dask scheduler has lost.

Covers: hearing it from the scheduler while a block runs.
Does not cover: what follows for items that ran there (`dask`), how it is told (`events.tell_deaths`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from distributed import Client

_TOPIC = "all"
"""The topic of a Dask scheduler for what happens to workers and clients. It carries no events of tasks."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What the scheduler tells of lost workers. The client keeps this object, so it holds nothing else.

    Attributes:
        told: an object of the scheduler for each worker that left: its address is `worker`, the keys of its tasks are
            `processing-tasks`. `expected` is true if it left on purpose, or was closed.
    """

    told: deque[dict[str, Any]] = field(default_factory=deque)

    def __call__(self, event: tuple[float, Any]) -> None:
        """In the client's own thread."""
        if isinstance(event[1], dict) and event[1].get("action") == "remove-worker":
            self.told.append(event[1])

    @contextmanager
    def heard(self, client: Client) -> Iterator[None]:
        """Listen while the block runs. If the user listens to these events already, nothing is heard."""
        handler = getattr(client, "_event_handlers", {}).get(_TOPIC)
        ours = handler is None or isinstance(handler, Losses)
        with suppress(Exception):  # the client is closed, which the executor reports
            if ours:
                client.subscribe_topic(_TOPIC, self)
        try:
            yield
        finally:
            with suppress(Exception):
                if ours:
                    client.unsubscribe_topic(_TOPIC)
