"""An executor of pretended workers in this process, for tests of what follows when they fail or die."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from itertools import cycle
from typing import Any

from daskt2i.errors import WorkerLost
from daskt2i.protocols import ExecutorInfo
from daskt2i.types import Staged


class Died(Exception):
    """The pretended worker died."""


class PretendedWorkers:
    """Workers take turns. A worker that fails takes the next item too, because it is free at once.

    Args:
        names: `host:pid` of each worker.
        fault: called with the worker before it runs an item; raises what the worker cannot do.
    """

    def __init__(self, names: Collection[str], fault: Callable[[str, Any], None] = lambda worker, item: None) -> None:
        self.names, self.fault = list(names), fault
        self.avoided: set[str] = set()
        self.deaths = 0

    def start(self) -> ExecutorInfo:
        return ExecutorInfo(len(self.names), 1, None, address="tcp://nowhere:1")

    def run(self, work: Callable[[Any], Any], items: Iterable[Any], alone: bool = False) -> Iterator[tuple[Any, Any]]:
        suspects: deque[Any] = deque()
        turns = cycle(self.names)
        worker = next(turns)
        for item in items:
            while worker in self.avoided:
                worker = next(turns)
            outcome = self._outcome(work, item, worker)
            if isinstance(outcome, WorkerLost) and not alone:
                suspects.append(item)
                continue
            yield item, outcome
            if not isinstance(outcome, BaseException):
                worker = next(turns)
        for item in suspects:
            yield item, self._outcome(work, item, worker)

    def avoid(self, workers: Collection[str]) -> int:
        self.avoided = set(workers)
        return len(set(self.names) - self.avoided)

    def close(self) -> None:
        pass

    def _outcome(self, work: Callable[[Any], Any], item: Any, worker: str) -> Any:
        try:
            self.fault(worker, item)
            outcome = work(item)
            return (
                replace(outcome, receipt=replace(outcome.receipt, worker=worker))
                if isinstance(outcome, Staged)
                else outcome
            )
        except Died:
            self.deaths += 1
            return WorkerLost("The worker died.")
        except Exception as error:
            error.worker = worker  # type: ignore[attr-defined]
            return error
