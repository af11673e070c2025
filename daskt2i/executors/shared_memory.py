"""Whether this machine has what process pools need: semaphores, which live in shared memory.

Covers: trying it before a pool starts, and one sentence if it fails.
Does not cover: the pools (`multiprocessing`, `joblib`), the memory of a machine (`machine`).

A container without a writable /dev/shm has no semaphores. multiprocessing then fails with a bare error number, and
joblib falls back to threads with a warning, and fails at its end.
"""

from __future__ import annotations

import multiprocessing

from daskt2i.errors import ExecutorError


def require_semaphores(scheduler: str) -> None:
    """Make a semaphore as a process pool does.

    Args:
        scheduler: the name of the scheduler, for the message.

    Raises:
        ExecutorError: it cannot be made. No process was started.
    """
    try:
        multiprocessing.get_context("spawn").Lock()
    except (OSError, ImportError) as error:  # ImportError: Python itself was built without them
        raise ExecutorError(
            f"The scheduler {scheduler} needs shared memory for its processes, and this machine has none that can be "
            f"written, such as /dev/shm ({error}). No work was done; use the scheduler serial (scheduler), or make "
            "/dev/shm writable."
        ) from error
