"""Chunks on joblib's loky processes of this machine.

Covers: lazy dispatch, and a restart when a worker dies.
Does not cover: other joblib backends, other machines (`executors.dask`).
"""

from __future__ import annotations

import os
import re
import signal
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from daskt2i.deploy.child_processes import block_sigint, end_with_parent
from daskt2i.executors.attempts import Attempts, attempt, blamed, how_it_ended, lost
from daskt2i.executors.shared_memory import require_semaphores
from daskt2i.protocols import ExecutorInfo, WorkerDeath

T = TypeVar("T")
R = TypeVar("R")


class JoblibExecutor:
    """`joblib.Parallel` with loky; results come in order of completion.

    Args:
        workers: number of processes.
        threads: torch threads of each process.
        memory_limit: bytes for each process, from the plan; not enforced.

    Attributes:
        worker_deaths: as in `protocols.Executor`.
    """

    def __init__(self, workers: int, threads: int = 1, memory_limit: int | None = None) -> None:
        self._workers, self._threads, self._memory_limit = workers, threads, memory_limit
        self._used = False
        self._avoided: frozenset[str] = frozenset()
        self._books: Attempts[Any] | None = None
        self._renew = False
        self.worker_deaths: deque[WorkerDeath] = deque()

    def start(self) -> ExecutorInfo:
        """The processes start with the first items.

        Raises:
            ExecutorError: this machine has no shared memory for them.
        """
        require_semaphores("joblib")
        return ExecutorInfo(self._workers, self._threads, self._memory_limit)

    def run(
        self, work: Callable[[T], R], items: Iterable[T], alone: bool = False
    ) -> Iterator[tuple[T, R | BaseException]]:
        """Yield each item with its result or its error, in order of completion. See `protocols.Executor.run`."""
        self._books = books = Attempts(() if alone else items)
        if self._renew:
            self.close()
        while True:
            results = self._parallel(work, books)
            try:
                for number, outcome, worker in results:
                    yield books.finish(number), blamed(outcome, worker)
            except BrokenProcessPool as error:
                died = list(books.flying.keys() - set(books.suspects))
                signals = set(re.findall(r"\bSIG[A-Z0-9]+", str(error)))  # loky names no process
                how = how_it_ended(next(iter(sorted(signals - {"SIGTERM"} or signals)), None))
                self.worker_deaths.append(WorkerDeath("", how, tuple(books.flying[n] for n in died), self._workers))
                books.died(died)
                continue
            finally:
                _close(results)
            if not books.paused:
                break
            books.paused = False
            self.close()
        last = (books.finish(books.suspects.popleft()) for _ in range(len(books.suspects)))
        for item in items if alone else last:
            one = self._parallel(work, [(0, item)])
            try:
                _, outcome, worker = next(one)
                yield item, blamed(outcome, worker)
            except BrokenProcessPool:
                yield item, lost(item)
            finally:
                _close(one)

    def avoid(self, workers: Collection[str]) -> int:
        """Replace all processes, when those in work have ended, if one of these is new here."""
        if not self._avoided.issuperset(workers):
            self._renew = True
            if self._books is not None:
                self._books.paused = True
        self._avoided = frozenset(workers)
        return self._workers

    def close(self) -> None:
        """End the processes. The next items get new ones."""
        self._renew = False
        if not self._used:  # the line below would start some
            return
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor(max_workers=self._workers).shutdown(wait=True, kill_workers=True)

    def _parallel(self, work: Callable[[T], R], numbered: Iterable[tuple[int, T]]) -> Any:
        import joblib  # it warns when it is imported where there is no shared memory; `start` refuses that before

        self._used = True
        settings = {"backend": "loky", "n_jobs": self._workers, "initializer": _guard, "initargs": (os.getpid(),)}
        with joblib.parallel_config(**settings, inner_max_num_threads=self._threads):
            parallel = joblib.Parallel(return_as="generator_unordered", pre_dispatch="2*n_jobs", batch_size=1)
        with block_sigint():  # the call sends the first items at once, and so starts the processes
            return parallel(joblib.delayed(attempt)(work, number, item) for number, item in numbered)


def _close(results: Any) -> None:
    """Cancel the work in flight. joblib warns about uncollected results, which is normal for a cancellation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results.close()


def _guard(parent: int) -> None:
    """In a new worker: ignore Ctrl-C, which the parent handles, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)
