"""One rank's process on this machine, from its start to its end.

Covers: the environment of a rank, relaying its events, keeping the last lines of its log, stopping it with its
children.
Does not cover: what happens inside the process (`rank`), where it runs (`placement`), several ranks (`attempt`).

We start processes with `subprocess`: a Dask worker is daemonic, and `multiprocessing` starts no children there. Each
rank has its own session. So a signal to its group also reaches the readers of a DataLoader, and Ctrl-C on a terminal
does not reach the rank.
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
from daskt2i.launch.vitals.pulse import Pulse
from daskt2i.portable_errors import from_json

POLL_SECONDS = 0.2
TERM_SECONDS = 5.0
"""Time between SIGTERM and SIGKILL."""

LOG_LINES = 200
_LINE_BYTES = 4096
_EVENT_BYTES = 1 << 24
_DRAIN_SECONDS = 2.0
"""Time to read what a process wrote just before its end."""


_TRIM, _NANNYS_TRIM = "MALLOC_TRIM_THRESHOLD_", "65536"
"""Dask's nannies set this variable for workers, so that freed memory goes back to the system at once. But a training
step needs the same memory again: the demo had 18,000 page faults a step instead of 60, and 13 % fewer samples/s."""


@dataclass(frozen=True, slots=True)
class RankSpec:
    """All values that are needed to start one rank. Picklable.

    Attributes:
        module: dotted name of the module, which runs as `__main__`.
        job: JSON values; `rank.job()` returns them in the rank.
        address: address of this rank's machine; it decides the network interface.
        host, port: the rendezvous; with port 0 rank 0 chooses a port and reports it.
        threads: number of threads of torch, OpenMP and MKL.
        cuda: CUDA_VISIBLE_DEVICES, or None to leave it as it is.
        env: more variables; they override the others.
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
    """A rank ended early; another attempt may succeed.

    Attributes:
        how: `"exit code 3"`, `"SIGKILL"`.
        log: its last log lines.
    """

    def __init__(self, how: str, log: Sequence[str] = ()) -> None:
        super().__init__(how, tuple(log))
        self.how, self.log = how, tuple(log)

    def __str__(self) -> str:
        return "\n    ".join([f"The rank ended with {self.how}.", *self.log])


def _never() -> bool:
    return False


def supervise(
    spec: RankSpec,
    on_event: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
    should_save: Callable[[], bool] = _never,
) -> bool:
    """Start a rank and wait until it ends. When this function ends, even by an error, the process and group are gone.

    Args:
        on_event: called in this thread with each event, and every `vitals.pulse.PULSE_SECONDS` with a `pulse`.
        should_stop: called every 0.2 s. If it returns True, the rank gets SIGTERM, and SIGKILL 5 s later.
        should_save: called every 0.2 s. If it returns True, the rank is asked to save a checkpoint, and goes on.

    Returns:
        True if the module finished, False if it was stopped.

    Raises:
        RankDied: the process could not be started, was killed or crashed.
        Daskt2iError: the module raised this error; another attempt would not help.
    """
    try:
        child = _Child(spec)
    except (OSError, ValueError) as error:
        raise RankDied(f"a failed start ({error})") from error
    with child:
        asked, stopped = monotonic(), False
        while child.runs() and not stopped:
            child.relay(on_event, POLL_SECONDS)
            if (pulse := child.pulse.take()) is not None:
                on_event(pulse)
            if monotonic() - asked >= POLL_SECONDS:
                asked = monotonic()
                if should_save():
                    child.request("save")
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
        self.pulse = Pulse(self._process.pid)
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
        """Pass on all events that are there. Wait at most `seconds` for the first, or until the process ends."""
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=seconds) if seconds else self._events.get_nowait()
            while True:
                if event is not None and event["kind"] == "beat":
                    self.pulse.heard(event)
                elif event is not None:
                    if event["kind"] == "error" and event.get("final"):
                        self.error = event
                    on_event(event)
                event = self._events.get_nowait()

    def request(self, what: str) -> None:
        """Send a line to the rank, and wake it. In a thread, because a rank that hangs does not read."""
        self._signal("SIGCONT")
        thread = threading.Thread(target=self._feed, args=(self._process.stdin, what.encode() + b"\n"), daemon=True)
        thread.start()

    def stop(self) -> None:
        """Send SIGTERM to the rank's process group, and SIGKILL 5 s later to the processes that are left."""
        self.request("end")  # a rank that saves a checkpoint when it gets SIGTERM must not do so now
        self._signal("SIGTERM")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(TERM_SECONDS)
        self.end()

    def end(self) -> int:
        """Kill the process group, read what it wrote, and return the exit code. A negative code is a signal."""
        if self._threads:  # only once: later the system may give the group's number to other processes
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
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: the group has only zombies
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, getattr(signal, name))
            elif name != "SIGCONT":
                self._process.kill()

    @staticmethod
    def _feed(pipe: Any, job: bytes) -> None:
        """Write the job. The pipe stays open: when this process ends, the pipe closes, and the child notices."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed meanwhile
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
        # A progress bar overwrites its line. Keep only the last state, as a terminal does.
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
    """Keep integers within 64 bits, as Dask's messages need: a larger one would disconnect a worker."""
    value = int(text)
    return value if -(2**63) <= value < 2**63 else float(text)


def _ending(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def environment(spec: RankSpec) -> dict[str, str]:
    """The environment of a rank: that of this process, torchrun's variables, and the rank's threads and devices."""
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
        # We make the store, also on rank 0. So torch's env:// rendezvous must connect to it as a client.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_CBWR": "AUTO,STRICT",  # the same bits with any number of threads; see model_cache.REPEATABLE
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    if interface:  # a value that the user has set stays
        found.setdefault("GLOO_SOCKET_IFNAME", interface)
        found.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")
    found.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin stand in the way of other work, and of ours
    if spec.cuda is not None:
        found["CUDA_VISIBLE_DEVICES"] = spec.cuda
    return found | dict(spec.env)
