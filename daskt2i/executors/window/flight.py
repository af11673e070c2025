"""The items that a Dask scheduler has for us: submitting them, and taking them back when they end.

Covers: which workers an item may run on, items whose worker is gone, how often the worker of an item died.
Does not cover: who gets an item (`lanes`), what runs on the worker and what an end means (`dask_task`, `dask`).

An item that any worker may run waits in the scheduler's queue. An item for a certain worker bypasses this queue, and
Dask cannot run it elsewhere if the worker is gone. So the driver gives a worker few of them, and counts their deaths.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import dask
from distributed import Client, Future, as_completed

from daskt2i.executors.attempts import described
from daskt2i.executors.dask_names import key_of, span_of
from daskt2i.retries import is_suspect

T = TypeVar("T")

_FETCH_SECONDS = 3.0
"""How long to wait for a result. Results are small."""


@dataclass(slots=True, eq=False)
class Flying(Generic[T]):
    """One item.

    Attributes:
        item: the item.
        on: addresses of the workers that it may run on; None for all.
        place: address of the worker that has it, if the driver gave it to one; "" if it is not known.
        deaths: how often a worker died that had it.
        key: the key of its task, if it was taken back from a worker that is gone.
    """

    item: T
    on: list[str] | None
    place: str = ""
    deaths: int = 0
    key: str = ""


class Flight(Generic[T]):
    """The items that a scheduler has.

    Attributes:
        flying: future -> its item.
        suspects: items whose workers died too often. They are not in flight.
    """

    def __init__(self, client: Client, task: Callable[..., Any], work: Callable[[T], Any]) -> None:
        self.client, self._task, self._work, self._span = client, task, work, span_of(work)
        self.flying: dict[Future, Flying[T]] = {}
        self.suspects: list[T] = []
        self._completed = as_completed(with_results=False, loop=client.loop)

    def fill(self, source: Iterator[T], window: int, on: list[str] | None) -> None:
        """Submit items until there are `window` in flight.

        Args:
            on: addresses of the workers that they may run on; None for all.
        """
        while len(self.flying) < window:
            try:
                item = next(source)
            except StopIteration:
                return
            self.submit(Flying(item, on))

    def submit(self, flying: Flying[T]) -> None:
        """Give an item to the scheduler."""
        # Without pure=False equal calls would share one future, and a retry of a chunk would not run.
        places = {} if flying.on is None else {"workers": flying.on, "allow_other_workers": False}
        key = key_of(self._work)
        with dask.annotate(**self._span):
            future = self.client.submit(self._task, self._work, flying.item, pure=False, key=key, **places)
        self.flying[future] = flying
        self._completed.add(future)

    def locate(self) -> Iterator[str]:
        """Find out which workers have the items. Gives the address of a worker for each item that one has."""
        keys = {future.key: flying for future, flying in self.flying.items()}
        for address, has in self.client.processing().items():
            for key in has:
                if key in keys and not keys[key].place:
                    keys[key].place = address
                    yield address

    def stuck(self, present: Collection[str], occupied: Collection[str]) -> Iterator[Flying[T]]:
        """Take back the items that may run only on workers that are gone, and those that wait for an occupied worker.
        The caller submits them again.

        Args:
            present: addresses of the workers that are there.
            occupied: addresses of workers that are there, and do something else for a long time.
        """
        there = {*present}
        for future, flying in list(self.flying.items()):
            gone = flying.on is not None and not there & {*flying.on}
            if (gone or flying.place in occupied) and not future.done():
                del self.flying[future]
                future.cancel()
                flying.key = str(future.key)
                yield flying

    def died(self, keys: Collection[str]) -> list[T]:
        """The items with these keys: their worker died. One that had too many deaths becomes a suspect, if it was for
        that worker only; for the others Dask counts."""
        found = [(future, flying) for future, flying in self.flying.items() if {future.key, flying.key} & {*keys}]
        for future, flying in found:
            flying.deaths += 1
            if flying.place and flying.on and is_suspect(flying.deaths) and not future.done():
                del self.flying[future]
                future.cancel()
                self.suspects.append(flying.item)
        return [flying.item for _, flying in found]

    def has_ended(self) -> bool:
        """Whether an item ended that was not taken."""
        return bool(self._completed.has_ready())

    def pause(self) -> None:
        """Wait a moment for an item to end."""
        with self._completed.thread_condition:
            self._completed.thread_condition.wait(0.1)

    def take(self) -> tuple[Flying[T], Any] | None:
        """An item that ended, with its result or its error; None if only items ended that were taken back."""
        while self.has_ended():
            future = next(self._completed)
            if future not in self.flying:
                continue
            try:
                outcome = _outcome(future)
            except TimeoutError:  # its worker died with the result, and Dask runs the item again, if it may
                self._completed.add(future)
                return None
            return self.flying.pop(future), outcome
        return None

    def names(self) -> list[str]:
        """Words for the items in flight."""
        return [described(flying.item) for flying in self.flying.values()]

    def close(self) -> None:
        """Cancel what is in flight."""
        if self.flying:
            self.client.cancel(list(self.flying), asynchronous=False)
            self.flying.clear()


def _outcome(future: Future) -> Any:
    """The result of a future, or its error.

    Raises:
        TimeoutError: neither came in time.
    """
    try:
        if future.status == "error":
            return future.exception(timeout=_FETCH_SECONDS)
        return future.result(timeout=_FETCH_SECONDS)
    except TimeoutError as error:
        if future.status == "error" or future.client.status != "running":
            return error
        raise
    except Exception as error:  # its own, or the future was lost with its scheduler
        return error
