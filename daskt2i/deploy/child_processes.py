"""Child processes that do not receive Ctrl-C and that end with their parent.

Covers: blocking the signal while a process starts, watching the parent, waking up when it ends.
Does not cover: which processes are started (`executors`, `launch`, Dask's nannies).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker


@contextlib.contextmanager
def block_sigint() -> Iterator[None]:
    """Processes that start in this block never receive Ctrl-C. A terminal sends it to all processes.

    The signal is blocked, not ignored: if it comes during the block, the parent receives it at the end of the block.
    multiprocessing unblocks it when it starts its resource tracker, so the tracker is started first.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wake_with_parent() -> None:
    """Have Linux wake this process when its parent ends, if it is stopped (SIGSTOP): so it cannot end itself.

    It is not killed: then processes that it started would stay. Linux sends the signal when the *thread* ends that
    started this process, so that thread must wait for it. Elsewhere this function does nothing. Source: prctl(2),
    PR_SET_PDEATHSIG.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a C library without it
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)


_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int, period: float = 1.0) -> None:
    """End this process when its parent has ended for any reason. Call it once, in the child.

    If the parent is killed, the child gets init (or a subreaper) as its new parent. A thread checks for that.

    Args:
        parent: process id of the parent, from the parent itself: it may end before the child has finished its imports.
        period: seconds between two checks.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(period)
        os._exit(1)

    threading.Thread(target=watch, name="daskt2i-parent", daemon=True).start()
