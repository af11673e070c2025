"""What a Dask worker of ours does before its first task (`distributed.worker.preload`).

Ctrl-C goes to every process of a terminal. It is the driver's to handle; a worker that handled it too would fill the
screen with a traceback of its own.
"""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Called by distributed in the main thread of the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
