"""A preload of Dask's scheduler and nanny on a host that SSH reaches: the process ends when its connection is gone.

Covers: ending the process, and with a nanny its worker, when standard input is closed.
Does not cover: processes on the machine of the driver (`child_processes`).

The SSH server closes the input of a command when the connection breaks or the driver's machine dies. It does not end
the command.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any


def dask_setup(server: Any) -> None:
    """Called by Dask when the process starts."""

    def watch() -> None:
        with suppress(OSError, ValueError):
            while sys.stdin.buffer.read(1024):
                pass
        with suppress(OSError, AttributeError):  # its worker is in the same group
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="daskt2i-input", daemon=True).start()
