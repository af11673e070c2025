"""An executor that makes every worker load its models before the first chunk, and records the time of that.

Covers: separating start-up and steady work, for any executor of `daskt2i.executors`.
Does not cover: measuring (`bench.meter`).

`encode` itself does not wait like this: there a worker starts as soon as it is ready. So a benchmark's wall time also
includes the time that the first worker waits for the last one. This wait is counted as start-up.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TypeVar

from daskt2i.bench.meter import Meter
from daskt2i.encode.job import EncodeJob
from daskt2i.encode.model_cache import models_for, process_name
from daskt2i.encode.worker import encode_chunk
from daskt2i.errors import ExecutorError
from daskt2i.protocols import Executor, ExecutorInfo
from daskt2i.store.run_folder import RunFolder

T = TypeVar("T")
R = TypeVar("R")

TIMEOUT = 600.0
"""Maximum seconds that the first worker waits for the last one."""

_WARM = "warm"


class WarmExecutor:
    """Wraps an executor so that its start-up ends for all workers at the same time.

    Args:
        inner: the wrapped executor, not started yet.
        folder: the run folder; each worker writes an empty file into it.
        meter: started when all workers are loaded, marked after the last outcome.
    """

    def __init__(self, inner: Executor, folder: RunFolder, meter: Meter) -> None:
        self._inner, self._folder, self._meter = inner, folder, meter
        self._workers = 1
        self.loaded = 0.0
        """time.time() when every worker had loaded its models; 0 before."""

        self.last = 0.0
        """time.time() of the last outcome."""

    def start(self) -> ExecutorInfo:
        """Start the wrapped executor."""
        force = self._inner.start()
        self._workers = max(1, force.workers)
        return force

    def run(
        self, work: Callable[[T], R], items: Iterable[T], alone: bool = False
    ) -> Iterator[tuple[T, R | BaseException]]:
        """Run on the wrapped executor. Before the first chunk every worker loads its models.

        Raises:
            ExecutorError: not all workers have loaded within ten minutes.
        """
        if isinstance(work, functools.partial) and work.func is encode_chunk and not self.loaded:
            self._warm(work.args[0])
        for outcome in self._inner.run(work, items, alone):
            self.last = time.time()
            yield outcome
        if self.loaded:
            self._meter.mark()

    def avoid(self, workers: Collection[str]) -> int:
        """As the wrapped executor."""
        return self._inner.avoid(workers)

    def close(self) -> None:
        """Close the wrapped executor."""
        self._inner.close()

    def _warm(self, job: EncodeJob) -> None:
        load: Callable[[Any], Any] = functools.partial(load_and_wait, self._folder, self._workers)
        for _, outcome in self._inner.run(load, [job] * self._workers):
            if isinstance(outcome, BaseException):
                raise outcome
        self.loaded = self.last = time.time()
        self._meter.start()


def load_and_wait(folder: RunFolder, workers: int, job: EncodeJob) -> str:
    """On a worker: load the models, and wait until all workers have. While one waits, others get the other calls."""
    models_for(job)
    folder.write(f"{_WARM}/{process_name().replace(':', '-')}", b"")
    deadline = time.monotonic() + TIMEOUT
    while (there := len(folder.list(_WARM))) < workers:
        if time.monotonic() > deadline:
            raise ExecutorError(
                f"After {TIMEOUT:.0f} s only {there} of {workers} workers have loaded their models. Nothing was "
                "measured. Use fewer workers (workers)."
            )
        time.sleep(0.02)
    return process_name()
