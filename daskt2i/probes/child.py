"""A measurement in a process of its own, so that one that crashes or hangs ends nothing else.

Covers: starting the process, its time limit, how it ended, in words.
Does not cover: what is measured, keeping figures (`cache`).

A virtual machine may report instructions that its processor does not run. The first use of one ends the process with
SIGILL, which no `except` catches. A child costs the import of torch, 2 s, once for a kind of machine.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LIMIT_SECONDS = 120.0
"""A child that runs longer is ended. It takes 3 s, but 48 s were seen on a machine with ten times its load."""

_CODE = (
    "import json, sys; job = json.loads(sys.stdin.buffer.readline()); sys.path[:] = job['path']; "
    "from daskt2i.probes.child import main; main(job)"
)
"""The child has the import path of this process."""

_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
"""glibc keeps freed memory, as in a worker (`machine.allocator`)."""

_SIGNALS = {"SIGILL": " (an illegal instruction)", "SIGKILL": " (perhaps memory ran out)"}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a measurement ended.

    Attributes:
        seconds: the figures that it told before its end.
        failure: why it did not come to its end, as a clause; "" if it did.
    """

    seconds: Mapping[str, float]
    failure: str = ""


def run(function: str, arguments: Mapping[str, Any], limit: float = LIMIT_SECONDS) -> Ended:
    """Call a function in a child, and collect what it tells.

    Args:
        function: `"package.module:name"`. It gets `tell(name, seconds)`, and the arguments by name.
        arguments: JSON values.
        limit: seconds.
    """
    job = {"path": [str(place) for place in sys.path], "function": function, "arguments": arguments, "limit": limit}
    try:
        ended = subprocess.run(
            [sys.executable or "python3", "-c", _CODE],
            input=json.dumps(job).encode() + b"\n",
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_MALLOC},
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return Ended(_told(error.stdout or b"")[0], f"it took longer than {limit:.0f} s")
    except OSError as error:
        return Ended({}, f"its process could not be started ({error.strerror or error})")
    seconds, failure = _told(ended.stdout)
    return Ended(seconds, failure or _how(ended.returncode, limit))


def main(job: Mapping[str, Any]) -> None:
    """In the child: call the function of a job. Each figure is a line on standard output."""
    # The child must end also if its parent is gone. Code that holds Python's lock cannot delay this signal.
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(max(1, int(job["limit"])))
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print goes elsewhere

    def tell(name: str, seconds: float | str) -> None:
        os.write(out, json.dumps([name, seconds]).encode() + b"\n")

    module, _, name = job["function"].partition(":")
    try:
        getattr(importlib.import_module(module), name)(tell, **job["arguments"])
    except Exception as error:  # of any library: the parent says it in one line
        tell("", (str(error).strip().splitlines() or [type(error).__name__])[0])


def _told(output: bytes) -> tuple[dict[str, float], str]:
    """The figures, and the error of the function, if it raised one."""
    seconds: dict[str, float] = {}
    failure = ""
    for line in output.splitlines():
        with contextlib.suppress(ValueError, TypeError):  # the last line of a process that was killed
            name, value = json.loads(line)
            if name:
                seconds[str(name)] = float(value)
            else:
                failure = str(value)
    return seconds, failure


def _how(code: int, limit: float) -> str:
    if code == 0:
        return ""
    if hasattr(signal, "SIGALRM") and code == -signal.SIGALRM:
        return f"it took longer than {limit:.0f} s"
    if code > 0:
        return f"its process ended with the exit code {code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        return f"its process was ended by {name}{_SIGNALS.get(name, '')}"
    return f"its process was ended by signal {-code}"
