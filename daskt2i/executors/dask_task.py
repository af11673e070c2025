"""One item on a Dask worker: the task around a chunk.

Covers: moving a chunk away from a retiring worker, torch threads of the worker, errors that can be sent back, the
seconds that an item took.
Does not cover: the chunk itself (`encode.worker`), which worker gets it (`window`), the driver's side (`dask`).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

from distributed import Reschedule, get_worker
from distributed.core import Status

from daskt2i.encode.model_cache import own_threads, process_name
from daskt2i.encode.worker import interruption
from daskt2i.executors.dask_names import measure
from daskt2i.portable_errors import portable

T = TypeVar("T")
R = TypeVar("R")

_LEAVING = (Status.closing, Status.closing_gracefully, Status.closed, Status.stopping)

_ended: dict[str, float] = {}
"""On a worker: its address -> when its last item ended. It works on one chunk at a time, even with several threads."""


@dataclass(frozen=True, slots=True)
class Ran(Generic[R]):
    """What a worker sends back.

    Attributes:
        result: of the item.
        worker, process: its address, and `host:pid`.
        seconds: about how long the next item will take.
    """

    result: R
    worker: str
    process: str
    seconds: float


def on_worker(work: Callable[[T], R], item: T) -> Ran[R]:
    """Run one item in a Dask worker."""
    worker, begun = get_worker(), perf_counter()
    key = worker.get_current_task()

    def check() -> None:
        # Retirement, lifetime and adaptive scaling do not wait for a running task. If the chunk continued, its worker
        # would be killed in the middle of it, and the chunk would be computed twice.
        if worker.status in _LEAVING:
            raise Reschedule
        task = worker.state.tasks.get(key)
        if task is not None and task.state == "cancelled":
            raise Reschedule

    # A task runs in a thread of a pool, whose context is its own.
    own_threads.set(worker.state.nthreads)
    token, failed = interruption.set(check), None
    try:
        result = work(item)
    except Exception as error:
        failed = portable(error)
        with suppress(AttributeError, TypeError):  # a class with slots
            failed.worker, failed.worker_address = process_name(), worker.address  # type: ignore[attr-defined]
    finally:
        interruption.reset(token)
    if failed is not None:  # raised outside the except block: its context would be the error that cannot be pickled
        _forget_locals(failed)
        try:
            raise failed
        finally:
            del failed  # breaks the reference cycle between the error and this frame
    # The result of a chunk is its receipt and where it lies.
    parts = getattr(getattr(result, "receipt", result), "seconds", None) or {}
    measure(parts)
    begun, ended = max(begun, _ended.get(worker.address, 0.0)), perf_counter()
    _ended[worker.address] = ended
    return Ran(result, worker.address, process_name(), max(0.0, ended - begun - parts.get("load", 0.0)))


def _forget_locals(error: BaseException | None) -> None:
    """Free the local variables in the frames of an error; the lines of the traceback stay.

    Dask keeps errors until Python's garbage collection runs, and memory may be short.
    """
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
