"""The records of a run: which items are in flight, and how often a worker died while it ran an item.

Covers: taking items lazily, retrying an item after the death of a worker, setting a suspect aside to run alone.
Does not cover: running items, the number of allowed deaths (`retries`).
"""

from __future__ import annotations

import itertools
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

from daskt2i.encode.model_cache import process_name
from daskt2i.errors import WorkerLost
from daskt2i.portable_errors import portable
from daskt2i.retries import ALLOWED_DEATHS, is_suspect

T = TypeVar("T")
R = TypeVar("R")


class Attempts(Generic[T]):
    """Items by number, from a lazy source.

    Attributes:
        paused: while this is set, no item is drawn.
        flying: number -> item, for all items that were taken and are not finished.
        suspects: numbers of items whose workers died too often. They run alone, once, after the others.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self._numbers = itertools.count()
        self._again: deque[int] = deque()
        self._deaths: dict[int, int] = {}
        self.paused = False
        self.flying: dict[int, T] = {}
        self.suspects: deque[int] = deque()

    def draw(self) -> tuple[int, T] | None:
        """The next item to run, or None. Items that lost their worker come before new items."""
        if self.paused:
            return None
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
        """Record the end of an item, with a result or with an error."""
        self._deaths.pop(number, None)
        return self.flying.pop(number)

    def died(self, numbers: Iterable[int]) -> None:
        """Record that a worker died which may have been running any of these items."""
        for number in numbers:
            self._deaths[number] = self._deaths.get(number, 0) + 1
            (self.suspects if is_suspect(self._deaths[number]) else self._again).append(number)


def lost(item: object) -> WorkerLost:
    """The error for an item whose worker died even when the item ran alone."""
    return WorkerLost(
        f"The worker died {ALLOWED_DEATHS} times while it ran {described(item)}, and once more when this ran alone. "
        "All other work continues. The usual cause is memory: watch the worker's memory while it runs."
    )


def described(item: object) -> str:
    """Words for an item: `"chunk 4"`."""
    index = getattr(item, "index", None)
    return f"chunk {index}" if isinstance(index, int) else repr(item)[:80]


def how_it_ended(code: int | str | None) -> str:
    """How a process ended, for `WorkerDeath.how`.

    Args:
        code: exit code of the process, negative for a signal; the name of a signal; None if it is not known.
    """
    if isinstance(code, int) and code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return how_it_ended(names.get(-code, f"signal {-code}"))
    if isinstance(code, str):
        return f"was killed by {code}" + " (often because memory ran out)" * (code == "SIGKILL")
    return "died" if code is None else f"ended with exit code {code}"


def attempt(work: Callable[[T], R], number: int, item: T) -> tuple[int, R | BaseException, str]:
    """Run one item in a worker. An error is returned as a value that can be pickled. The last value is the worker."""
    try:
        return number, work(item), process_name()
    except Exception as error:
        return number, portable(error), process_name()


def blamed(outcome: R | BaseException, worker: str) -> R | BaseException:
    """The outcome; an error gets the attribute `worker`: `host:pid` of the process that ran the item."""
    if isinstance(outcome, BaseException):
        with suppress(AttributeError, TypeError):  # a class with slots
            outcome.worker = worker  # type: ignore[attr-defined]
    return outcome
