"""Functions that a child process calls to measure, as `daskt2i.probes.child` describes them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

Tell = Callable[[str, float], None]


def well(tell: Tell, **arguments: float) -> None:
    print("a library says something")
    for name, seconds in arguments.items():
        tell(name, seconds)


def illegal(tell: Tell, **_: object) -> None:
    """As a processor that reports an instruction which it does not run."""
    tell("fp32", 1.0)
    os.kill(os.getpid(), signal.SIGILL)


def hangs(tell: Tell, **_: object) -> None:
    tell("fp32", 1.0)
    time.sleep(60)


def raises(tell: Tell, **_: object) -> None:
    raise RuntimeError("the library is broken\nin two lines")


def leaves(tell: Tell, **_: object) -> None:
    os._exit(3)


def engines(tell: Tell, **_: object) -> None:
    """ncnn is twice as fast as torch."""
    tell("torch", 2.0)
    tell("ncnn", 1.0)


def precisions(tell: Tell, **_: object) -> None:
    """bf16 is emulated."""
    tell("fp32", 0.001)
    tell("bf16", 0.002)
