"""One rank's process on this machine, from its start to its end.

Covers: the environment of a rank, relaying its events, keeping the end of its log, stopping it with all that it has
started.
Does not cover: what happens inside the process (`rank`), where it runs (`placement`), several together (`attempt`).

Processes are started by `subprocess`: a Dask worker is daemonic, and `multiprocessing` starts no children there. Each
has a session of its own, so that a signal to its group reaches the readers of a DataLoader too, and Ctrl-C on a
terminal does not reach it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from daskt2i.launch.placement import interface_of
from daskt2i.launch.rank import MARK
from daskt2i.portable_errors import from_json

POLL_SECONDS = 0.2
TERM_SECONDS = 5.0
"""Between SIGTERM and SIGKILL."""

LOG_LINES = 200
_LINE_BYTES = 4096
_EVENT_BYTES = 1 << 24
_DRAIN_SECONDS = 2.0
"""For what a process wrote just before its end."""


_TRIM, _NANNYS_TRIM = "MALLOC_TRIM_THRESHOLD_", "65536"
"""What Dask's nannies set for workers, so that freed memory goes back at once. A training step asks for the same memory
again at once: 18,000 page faults a step of the demo instead of 60, and 13 % fewer samples a second."""


@dataclass(frozen=True, slots=True)
class RankSpec:
    """All that it takes to start one rank. Picklable.

    Attributes:
        module: run as `__main__`, by its dotted name.
        job: JSON values; what `rank.job()` returns there.
        address: of this rank's machine; tells the network interface.
        host, port: where the ranks meet; port 0 lets rank 0 choose one, and tell it.
        threads: of torch, OpenMP and MKL.
        cuda: CUDA_VISIBLE_DEVICES, or None to leave it as it is.
        env: more variables; they win.
    """

    module: str
    job: Mapping[str, Any]
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    address: str = "127.0.0.1"
    host: str = "127.0.0.1"
    port: int = 0
    threads: int = 1
    cuda: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)


class RankDied(Exception):
    """A rank ended early, and may do better when it is started again.

    Attributes:
        how: `"exit code 3"`, `"SIGKILL"`.
        log: its last lines.
    """

    def __init__(self, how: str, log: Sequence[str] = ()) -> None:
        super().__init__(how, tuple(log))
        self.how, self.log = how, tuple(log)

    def __str__(self) -> str:
        return "\n    ".join([f"The rank ended with {self.how}.", *self.log])


def supervise(spec: RankSpec, on_event: Callable[[dict[str, Any]], None], should_stop: Callable[[], bool]) -> bool:
    """Start a rank, and stay with it to its end. However this function is left, the process and its group are gone.

    Args:
        on_event: called in this thread with each event.
        should_stop: asked every 0.2 s; SIGTERM follows, and SIGKILL after 5 s more.

    Returns:
        True when the module came to its end, False when it was stopped.

    Raises:
        RankDied: the process could not be started, was killed or crashed.
        Daskt2iError: what the module raised, in its own class: trying again would not help.
    """
    try:
        child = _Child(spec)
    except (OSError, ValueError) as error:
        raise RankDied(f"a failed start ({error})") from error
    with child:
        asked, stopped = monotonic(), False
        while child.runs() and not stopped:
            child.relay(on_event, POLL_SECONDS)
            if monotonic() - asked >= POLL_SECONDS:
                asked = monotonic()
                stopped = should_stop()
        if stopped:
            child.stop()
        code = child.end()
        child.relay(on_event, 0)
        if child.error is not None:
            raise from_json(child.error)
        if code and not stopped:
            raise RankDied(_ending(code), child.log)
        return not stopped


class _Child:
    """A rank's process with its pipes. A context manager that leaves nothing running."""

    def __init__(self, spec: RankSpec) -> None:
        job = json.dumps(spec.job).encode() + b"\n"
        self.error: dict[str, Any] | None = None
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "daskt2i.launch.rank", spec.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(spec),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._threads = [
            threading.Thread(target=target, args=arguments, name=f"daskt2i-{target.__name__}", daemon=True)
            for target, arguments in (
                (self._feed, (self._process.stdin, job)),
                (self._read_events, (self._process.stdout,)),
                (self._read_log, (self._process.stderr,)),
            )
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines that were not events."""
        return tuple(self._lines)

    def runs(self) -> bool:
        return self._process.poll() is None

    def relay(self, on_event: Callable[[dict[str, Any]], None], seconds: float) -> None:
        """Hand on what there is; wait for the first for at most `seconds`, or until the process has closed its end."""
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=seconds) if seconds else self._events.get_nowait()
            while True:
                if event is not None:
                    if event["kind"] == "error" and event.get("final"):
                        self.error = event
                    on_event(event)
                event = self._events.get_nowait()

    def stop(self) -> None:
        """SIGTERM to the group, SIGKILL 5 s later to what is left of it."""
        self._signal("SIGTERM")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(TERM_SECONDS)
        self.end()

    def end(self) -> int:
        """Nothing of the group runs any more, and all that it wrote is read. The exit code; below 0: a signal."""
        if self._threads:  # not twice: the number of the group may be another's by then
            self._signal("SIGKILL")
            self._process.wait()
            deadline = monotonic() + _DRAIN_SECONDS
            for thread in self._threads:
                thread.join(max(0.0, deadline - monotonic()))
            self._threads.clear()
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        return self._process.wait()

    def _signal(self, name: str) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: a group of zombies alone
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, getattr(signal, name))
            else:
                self._process.kill()

    @staticmethod
    def _feed(pipe: Any, job: bytes) -> None:
        """The job; the pipe stays open, for its end is how the child learns of ours."""
        with contextlib.suppress(OSError):
            pipe.write(job)
            pipe.flush()

    def _read_events(self, pipe: Any) -> None:
        with pipe:
            for line in iter(lambda: pipe.readline(_EVENT_BYTES), b""):
                event = _event(line)
                if event is None:
                    self._keep(line)
                else:
                    self._events.put(event)
        self._events.put(None)

    def _read_log(self, pipe: Any) -> None:
        with pipe:
            for line in iter(lambda: pipe.readline(_LINE_BYTES), b""):
                self._keep(line)

    def _keep(self, line: bytes) -> None:
        # A progress bar writes over its line; the last state is what a person would have seen.
        text = line[:_LINE_BYTES].decode(errors="replace").rstrip().rpartition("\r")[2]
        if text.strip():
            self._lines.append(text)


def _event(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(MARK):
        return None
    with contextlib.suppress(ValueError):
        found = json.loads(line[len(MARK) :], parse_int=_integer)
        if isinstance(found, dict) and isinstance(found.get("kind"), str):
            return found
    return None


def _integer(text: str) -> int | float:
    """Dask's messages hold integers of 64 bits, and one too large would cut a worker off from its scheduler."""
    value = int(text)
    return value if -(2**63) <= value < 2**63 else float(text)


def _ending(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def environment(spec: RankSpec) -> dict[str, str]:
    """Of a rank: this process's, with what torchrun would set, and the threads and devices of the rank."""
    threads = str(spec.threads)
    interface = interface_of(spec.address)
    inherited = dict(os.environ)
    if inherited.get(_TRIM) == _NANNYS_TRIM:
        del inherited[_TRIM]
    found = {
        **inherited,
        "RANK": str(spec.rank),
        "WORLD_SIZE": str(spec.world),
        "LOCAL_RANK": str(spec.local_rank),
        "LOCAL_WORLD_SIZE": str(spec.local_world),
        "MASTER_ADDR": spec.host,
        "MASTER_PORT": str(spec.port),
        # The store is ours, also on rank 0: torch's env:// rendezvous is a client of it.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_CBWR": "AUTO,STRICT",  # the same bits whatever the number of threads; see model_cache.REPEATABLE
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    if interface:  # who has set it knows more of his network than an address tells
        found.setdefault("GLOO_SOCKET_IFNAME", interface)
        found.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")
    if spec.cuda is not None:
        found["CUDA_VISIBLE_DEVICES"] = spec.cuda
    return found | dict(spec.env)
