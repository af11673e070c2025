"""Run chunks one after the other in this process. This is the executable specification of an executor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar

from daskt2i.encode.model_cache import process_name
from daskt2i.executors.attempts import blamed
from daskt2i.protocols import ExecutorInfo

T = TypeVar("T")
R = TypeVar("R")


class SerialExecutor:
    """Runs in the calling thread. Nothing is pickled. A crash ends the process, so this executor has no retries.

    Args:
        threads: torch threads.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    def start(self) -> ExecutorInfo:
        """One worker: this process."""
        return ExecutorInfo(workers=1, threads=self._threads, memory_limit=None)

    def run(
        self, work: Callable[[T], R], items: Iterable[T], alone: bool = False
    ) -> Iterator[tuple[T, R | BaseException]]:
        """Yield each item with its result or its error, in order."""
        for item in items:
            try:
                outcome: R | BaseException = work(item)
            except Exception as error:
                outcome = blamed(error, process_name())
            yield item, outcome

    def avoid(self, workers: Collection[str]) -> int:
        """There is no other process."""
        return 1

    def close(self) -> None:
        """Nothing to stop."""
