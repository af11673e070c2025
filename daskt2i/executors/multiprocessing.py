"""Chunks on a pool of spawned processes of this machine, without Dask.

Covers: a bounded window, a new pool when a worker dies, child processes that end with their parent.
Does not cover: other machines, a dashboard (`executors.dask`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from daskt2i.deploy.child_processes import block_sigint
from daskt2i.encode.model_cache import process_name
from daskt2i.executors.attempts import Attempts, attempt, blamed, how_it_ended, lost
from daskt2i.executors.shared_memory import require_semaphores
from daskt2i.protocols import ExecutorInfo, WorkerDeath

T = TypeVar("T")
R = TypeVar("R")


class MultiprocessingExecutor:
    """A pool of spawned processes. A fork would copy the locks of torch's threads in any state, even held.

    Args:
        workers: number of processes.
        threads: torch threads of each process.
        memory_limit: bytes for each process, from the plan; not enforced.

    Attributes:
        worker_deaths: as in `protocols.Executor`.
    """

    def __init__(self, workers: int, threads: int = 1, memory_limit: int | None = None) -> None:
        self._workers, self._threads, self._memory_limit = workers, threads, memory_limit
        self._context = multiprocessing.get_context("spawn")
        self._pool: ProcessPoolExecutor | None = None
        self._lifeline: tuple[Connection, Connection] | None = None
        self._avoided: frozenset[str] = frozenset()
        self._renew = False
        self.worker_deaths: deque[WorkerDeath] = deque()

    def start(self) -> ExecutorInfo:
        """The processes start with the first items.

        Raises:
            ExecutorError: this machine has no shared memory for them.
        """
        require_semaphores("multiprocessing")
        return ExecutorInfo(self._workers, self._threads, self._memory_limit)

    def run(
        self, work: Callable[[T], R], items: Iterable[T], alone: bool = False
    ) -> Iterator[tuple[T, R | BaseException]]:
        """Yield each item with its result or its error, in order of completion. See `protocols.Executor.run`."""
        books = Attempts(() if alone else items)
        flying: dict[Future[Any], int] = {}
        finished = False
        try:
            while True:
                if self._renew and not flying:
                    self._discard()
                while not self._renew and len(flying) < 2 * self._workers and (drawn := books.draw()) is not None:
                    flying[self._submit(work, drawn[1])] = drawn[0]
                if not flying:
                    break
                done, _ = wait(flying, return_when=FIRST_COMPLETED)
                if any(isinstance(f.exception(), BrokenProcessPool) for f in done):
                    # The pool does not say which process died, so all items in flight are retried.
                    done, _ = wait(flying)
                    codes = self._discard()
                    died = [n for f, n in flying.items() if isinstance(f.exception(), BrokenProcessPool)]
                    items = tuple(books.flying[n] for n in died)
                    self.worker_deaths.append(WorkerDeath(*_culprit(codes), items, self._workers))
                    books.died(died)
                for future in done:
                    number = flying.pop(future)
                    if not isinstance(future.exception(), BrokenProcessPool):
                        yield books.finish(number), _outcome(future)
            last = (books.finish(books.suspects.popleft()) for _ in range(len(books.suspects)))
            for item in items if alone else last:
                future = self._submit(work, item)
                wait([future])
                if isinstance(future.exception(), BrokenProcessPool):
                    self._discard()
                    yield item, lost(item)
                else:
                    yield item, _outcome(future)
            finished = True
        finally:
            if not finished:
                self._discard()

    def avoid(self, workers: Collection[str]) -> int:
        """Replace all processes, when those in work have ended, if one of these is new here."""
        self._renew = self._renew or not self._avoided.issuperset(workers)
        self._avoided = frozenset(workers)
        return self._workers

    def close(self) -> None:
        """End the processes at once."""
        self._discard()

    def _submit(self, work: Callable[[T], R], item: T) -> Future[Any]:
        if self._pool is None:
            self._lifeline = self._context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(
                self._workers, mp_context=self._context, initializer=_initialise, initargs=(self._lifeline[0],)
            )
        try:
            with block_sigint():  # the pool starts its processes when it gets its first work
                return self._pool.submit(attempt, work, 0, item)
        except BrokenProcessPool as error:  # a worker died between two calls
            broken: Future[Any] = Future()
            broken.set_exception(error)
            return broken

    def _discard(self) -> dict[int, int | None]:
        """End the processes. Returns their exit codes by process id, as far as Python tells."""
        self._renew = False
        pool, lifeline = self._pool, self._lifeline
        processes = dict(getattr(pool, "_processes", None) or {})  # it forgets them when it is shut down
        self._pool = self._lifeline = None
        if lifeline is not None:
            lifeline[1].close()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        if lifeline is not None:
            lifeline[0].close()
        return {pid: process.exitcode for pid, process in processes.items()}


def _culprit(codes: dict[int, int | None]) -> tuple[str, str]:
    """Name and end of the process that broke its pool. The pool ends the others by SIGTERM, or they end themselves."""
    host = process_name().rpartition(":")[0]
    for pid, code in codes.items():
        if code not in (None, 0, -signal.SIGTERM):
            return f"{host}:{pid}", how_it_ended(code)
    return "", how_it_ended(None)


def _outcome(future: Future[Any]) -> Any:
    error = future.exception()
    if error is not None:
        return error
    _, outcome, worker = future.result()
    return blamed(outcome, worker)


def _initialise(lifeline: Connection) -> None:
    """In a new worker: ignore Ctrl-C, which the parent handles, and end when the parent closes the pipe.

    This is a pipe and not an event: the kernel closes it when the parent ends in any way, and a killed worker cannot
    leave it locked.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def hold() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv()
        os._exit(0)

    threading.Thread(target=hold, name="daskt2i-lifeline", daemon=True).start()
