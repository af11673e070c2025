"""The books of a run: what is in flight, and how often a worker died under it.

Covers: drawing items lazily, giving an item back after a death, setting a suspect aside to run alone.
Does not cover: running anything, how many deaths are allowed (`retries`).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from daskt2i.errors import WorkerLost
from daskt2i.portable_errors import portable
from daskt2i.retries import ALLOWED_DEATHS, is_suspect

T = TypeVar("T")
R = TypeVar("R")


class Attempts(Generic[T]):
    """Items by number, from a lazy source.

    Attributes:
        flying: number -> item, for all that was drawn and is not finished.
        suspects: numbers of items that have used up their deaths; to be run alone, once, after the others.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self._numbers = itertools.count()
        self._again: deque[int] = deque()
        self._deaths: dict[int, int] = {}
        self.flying: dict[int, T] = {}
        self.suspects: deque[int] = deque()

    def draw(self) -> tuple[int, T] | None:
        """The next item to run, or None: one that lost its worker first, then a fresh one."""
        if self._again:
            number = self._again.popleft()
            return number, self.flying[number]
        for item in self._items:
            number = next(self._numbers)
            self.flying[number] = item
            return number, item
        return None

    def __iter__(self) -> Iterator[tuple[int, T]]:
        return iter(self.draw, None)

    def finish(self, number: int) -> T:
        """The item is done with, well or not."""
        self._deaths.pop(number, None)
        return self.flying.pop(number)

    def died(self, numbers: Iterable[int]) -> None:
        """A worker died, and any of these may have been in its hands."""
        for number in numbers:
            self._deaths[number] = self._deaths.get(number, 0) + 1
            (self.suspects if is_suspect(self._deaths[number]) else self._again).append(number)


def lost(item: object) -> WorkerLost:
    """The error for an item that took its worker down even when it ran alone."""
    return WorkerLost(
        f"The worker died {ALLOWED_DEATHS} times with this piece of work in its hands, and once more when it ran "
        f"alone ({_short(item)}). The others go on. Memory is the usual cause: watch the worker while it runs."
    )


def _short(item: object) -> str:
    index = getattr(item, "index", None)
    return f"chunk {index}" if isinstance(index, int) else repr(item)[:80]


def attempt(work: Callable[[T], R], number: int, item: T) -> tuple[int, R | BaseException]:
    """One item in a worker. Its error comes back as a value, and as one that survives the way back."""
    try:
        return number, work(item)
    except Exception as error:
        return number, portable(error)
