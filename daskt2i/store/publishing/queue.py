"""Chunks that wait to be published: some threads publish them, while the driver goes on.

Covers: a bounded number of chunks, and their order.
Does not cover: what publishing does (`publication`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from time import perf_counter

from daskt2i.store.publishing.publication import Publication
from daskt2i.types import Staged

AT_ONCE = 4
"""Chunks that are published at the same time. A publication mostly waits for the disk or for the network."""

WAITING = 16
"""So many chunks may wait. Then the driver waits too, so that the disk holds no more of them twice."""

SHARE = 0.1
"""The driver waits for a publication for this part of the time between two chunks, to report it without delay."""


class PublishQueue:
    """Publishes chunks in threads, and gives them back in the order in which they came.

    Args:
        patient: wait for each chunk, because one worker makes no more than one at a time.
    """

    def __init__(self, publication: Publication, patient: bool = False) -> None:
        self._publication, self._patient = publication, patient
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="daskt2i-publish")
        self._waiting: deque[tuple[Staged, Future[None]]] = deque()
        self._asked = perf_counter()

    def add(self, staged: Staged) -> None:
        """Publish a chunk soon."""
        self._waiting.append((staged, self._pool.submit(self._publication.publish, staged)))

    def done(self) -> Iterator[tuple[Staged, BaseException | None]]:
        """Chunks that are published by now, or whose publication failed, with the error."""
        until = perf_counter() + SHARE * (perf_counter() - self._asked)
        while self._waiting:
            future = self._waiting[0][1]
            if len(self._waiting) <= WAITING and not self._patient:
                wait([future], timeout=max(0.0, until - perf_counter()))
                if not future.done():
                    break
            yield self._take()
        self._asked = perf_counter()

    def rest(self) -> Iterator[tuple[Staged, BaseException | None]]:
        """All other chunks. It waits for them."""
        while self._waiting:
            yield self._take()

    def close(self) -> None:
        """Wait until nothing is published any more. What workers have finished is not lost by an error elsewhere."""
        self._pool.shutdown(wait=True)

    def _take(self) -> tuple[Staged, BaseException | None]:
        staged, future = self._waiting.popleft()
        return staged, future.exception()
