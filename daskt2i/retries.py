"""Limits of retries: how often, with which pause, and when to give up.

    an item of work whose worker died      ALLOWED_DEATHS, then once alone      `is_suspect`
    a chunk that failed                    `run.retries` more rounds            `pause`
    chunks that fail one after the other   FAILURES_IN_A_ROW for each worker    `is_hopeless`
    a batch too large for the memory       halves, down to SMALLEST_BATCH       `smaller_batch`
    a read that is refused                 ACCESS_TRIES
    a network, a disk that fails           `run.transport_patience`, DEVICE_SECONDS
    a worker that fails what others finish WORKER_CHUNKS different chunks       `faults.suspects`
    a cluster without workers              NO_WORKERS_SECONDS
    an attempt of a launch that ended      LAUNCH_ATTEMPTS without progress     `attempts_without_progress`
    a rank that stands still               `launch.stall_minutes`               `launch.vitals.standstill`
    a missing worker                       FIRST_WORKER_SECONDS, WORKER_SECONDS, RESTART_SECONDS

Covers: each limit with its reason, and the decisions that follow from it. These are pure functions of numbers.
Does not cover: the retries themselves (`executors`, `encode`, `launch`), what a user sets (`run.retries`,
`launch.max_restarts`), how long a process may take to start or to stop (`launch`).
"""

from __future__ import annotations

ALLOWED_DEATHS = 3
"""After so many deaths of its worker an item no longer runs beside others. The number is Dask's own default
(distributed.scheduler.allowed-failures)."""

FAILURES_IN_A_ROW = 4
"""After so many failed chunks per worker without a success between them, the run stops: the setup or a machine is
wrong, not the chunks. (One worker that fails in milliseconds takes chunk after chunk.)"""

RETRY_SECONDS = 2.0
"""Pause before failed chunks are tried again. It grows each time, because a disk or a network may need time."""

ACCESS_TRIES = 3
"""A refused read is tried so often: a token may just be renewed."""

ACCESS_SECONDS = 1.0
"""Pause after the first refusal. It grows each time."""

TRANSPORT_SECONDS = 300.0
"""How long a worker tries to read again while the network or its server fails; default of `run.transport_patience`."""

DEVICE_SECONDS = 30.0
"""The same for a disk or a mount. It comes back soon or not at all, and another machine may do better."""

READ_SECONDS = 120.0
"""How long one read may take; default of `run.read_timeout`. A mount whose server is gone never returns."""

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 20.0
"""Pauses between these tries double from the first to the longest. Each is drawn at random, so that workers do not come
back all at once."""

WORKER_CHUNKS = 3
"""A worker that fails so many different chunks in a row gets no more chunks, if others are left."""

NO_WORKERS_SECONDS = 600.0
"""How long a run waits for workers when all are gone. A scheduler of jobs may need minutes to start new ones."""

TELL_WAIT_SECONDS, TELL_STILL_SECONDS, TELL_SILENT_SECONDS = 5.0, 120.0, 600.0
"""When a user reads what is awaited: a read that is tried again or does not return; a chunk without any progress; and
a run in which no chunk ends, though no worker says why."""

TELL_RANK_SECONDS = 60.0
"""The same for a rank of a training without a sign of life, or whose step does not end."""

STALL_SECONDS = 600.0
"""After so long an attempt with such a rank ends; default of `launch.stall_minutes`."""

SAVE_SECONDS = 60.0
"""How long a training that is stopped waits for a last checkpoint, apart from the step that runs."""

SMALLEST_BATCH = 1
"""Items in the smallest batch. If one item does not fit, no batch fits."""

LAUNCH_ATTEMPTS = 3
"""A launch ends after so many attempts in a row without a new checkpoint, unless the caller gives another number. An
attempt that wrote a checkpoint does not count, because a long training may lose many workers."""

FIRST_WORKER_SECONDS = 30.0
"""How long to wait for the first worker: a worker that has just died may be restarting."""

WORKER_SECONDS = 60.0
"""How long to wait for workers that restart. On a busy machine one took 21 s."""

RESTART_SECONDS = 60
"""How long to wait for workers that were restarted on purpose, to free their memory."""


def is_suspect(deaths: int) -> bool:
    """Whether an item must no longer run beside others, because it may be the cause of the deaths of its workers."""
    return deaths >= ALLOWED_DEATHS


def pause(attempt: int) -> float:
    """Seconds to wait after a round in which chunks failed.

    Args:
        attempt: number of the round, from 0.
    """
    return RETRY_SECONDS * (attempt + 1)


def is_hopeless(in_a_row: int, workers: int, open_chunks: int) -> bool:
    """Whether the run must stop.

    A run that began with no more open chunks than the limit tries all of them. It can then report the error of each.

    Args:
        in_a_row: number of chunks that failed since the last success.
        workers: number of workers; 0 counts as 1.
        open_chunks: number of open chunks when the run began.
    """
    limit = FAILURES_IN_A_ROW * max(1, workers)
    return in_a_row >= limit and open_chunks > limit


def smaller_batch(size: int) -> int | None:
    """The batch to try after this batch ran out of memory: half of it, or None if there is no smaller one."""
    return None if size <= SMALLEST_BATCH else size // 2


def attempts_without_progress(so_far: int, before: int, step: int) -> int:
    """Number of attempts in a row without a new checkpoint, after one more attempt ended early.

    Args:
        so_far: the number before this attempt.
        before: step of the newest checkpoint when the attempt began, -1 for none.
        step: step of the newest checkpoint now, -1 for none.
    """
    return 0 if step > before else so_far + 1
