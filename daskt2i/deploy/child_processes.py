"""Processes that we start: they do not hear Ctrl-C, and they end with us.

Covers: blocking the signal while a process starts, a watch on the parent.
Does not cover: which processes there are (`executors`, `launch`, Dask's nannies).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker


@contextlib.contextmanager
def block_sigint() -> Iterator[None]:
    """Processes that start in this block never hear Ctrl-C: a terminal sends it to all, and the parent handles it.

    Blocked and not ignored, so that one that comes meanwhile reaches the parent at the end of the block.
    multiprocessing unblocks it when it starts its resource tracker, so that is started before.
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


def end_with_parent(parent: int, period: float = 1.0) -> None:
    """End this process when its parent is gone, however the parent ended. Call once, in the child.

    A child whose parent was killed gets init (or a subreaper) as its new parent; a thread looks for that. The parent's
    number comes from the parent: it may be gone before the child has finished its imports.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(period)
        os._exit(1)

    threading.Thread(target=watch, name="daskt2i-parent", daemon=True).start()
