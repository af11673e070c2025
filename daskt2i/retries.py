"""How often a thing is tried again, how long is waited between, and when it is given up.

    an item of work whose worker died      ALLOWED_DEATHS, then once alone      `is_suspect`
    a chunk that failed                    `run.retries` more rounds            `pause`
    chunks that fail one after the other   FAILURES_IN_A_ROW for each worker    `is_hopeless`
    a batch that memory is too small for   halves, down to SMALLEST_BATCH       `smaller_batch`
    an attempt of a launch that ended      LAUNCH_ATTEMPTS without progress     `attempts_without_progress`
    a worker that is not there             FIRST_WORKER_SECONDS, WORKER_SECONDS, RESTART_SECONDS

Covers: the limits, with the reason of each, and the decisions that follow from them; pure functions of numbers.
Does not cover: doing any of it (`executors`, `encode`, `launch`), what a user sets (`run.retries`,
`launch.max_restarts`), how long a process may take to start or to stop (`launch`).
"""

from __future__ import annotations

ALLOWED_DEATHS = 3
"""Deaths after which an item is no longer run beside others. As Dask's own (distributed.scheduler.allowed-failures)."""

FAILURES_IN_A_ROW = 4
"""Chunks per worker that fail with none succeeding between them, after which the run is given up: then the setup or a
machine is wrong, not the chunks. (One worker that fails in milliseconds draws chunk after chunk.)"""

RETRY_SECONDS = 2.0
"""Pause before failed chunks are tried again, longer each time: a disk or a network may need a moment."""

SMALLEST_BATCH = 1
"""Items in the smallest batch that is tried: if one item does not fit, less memory cannot be asked for."""

LAUNCH_ATTEMPTS = 3
"""Attempts in a row of a launch that may end early without a new checkpoint, where nobody says another number. One that
wrote a checkpoint got further than the last, so it does not count: a long training may lose many workers."""

FIRST_WORKER_SECONDS = 30.0
"""How long to wait for a first worker: one that has just died is being started again."""

WORKER_SECONDS = 60.0
"""How long to wait for workers that are being started again; on a busy machine one took 21 s."""

RESTART_SECONDS = 60
"""How long to wait for workers that are started again on purpose, to free what they hold."""


def is_suspect(deaths: int) -> bool:
    """Whether an item is no longer run beside others: it may be what its workers died of."""
    return deaths >= ALLOWED_DEATHS


def pause(attempt: int) -> float:
    """Seconds to wait after a round in which chunks failed.

    Args:
        attempt: number of that round, from 0.
    """
    return RETRY_SECONDS * (attempt + 1)


def is_hopeless(in_a_row: int, workers: int, open_chunks: int) -> bool:
    """Whether a run is given up.

    A run that has no more open chunks than the limit goes through all of them: naming each says more then.

    Args:
        in_a_row: chunks that have failed since the last success.
        workers: of the run; 0 counts as 1.
        open_chunks: that the run began with.
    """
    limit = FAILURES_IN_A_ROW * max(1, workers)
    return in_a_row >= limit and open_chunks > limit


def smaller_batch(size: int) -> int | None:
    """The batch to try when memory ran out at this one: half of it, or None if there is no smaller one."""
    return None if size <= SMALLEST_BATCH else size // 2


def attempts_without_progress(so_far: int, before: int, step: int) -> int:
    """Attempts in a row that wrote no new checkpoint, after one more has ended early.

    Args:
        so_far: the number before this attempt.
        before: step of the newest checkpoint when it began, -1 for none.
        step: the same now.
    """
    return 0 if step > before else so_far + 1
