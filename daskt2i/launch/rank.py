"""One rank of a distributed run: the functions for its module, and the process around the module.

    python -m daskt2i.launch.rank MODULE          # `daskt2i.launch.supervisor` runs this command, never a person

    from daskt2i.launch import rank        # in MODULE, which runs as `__main__`
    settings = rank.job()
    rank.tell("step", step=1, loss=0.5)

Covers: the job and requests on standard input, events on standard output, the rendezvous that rank 0 makes, the end of
this process when its supervisor is gone.
Does not cover: starting processes (`supervisor`), where they run (`placement`), signs of life and what follows from a
request (`vitals.heartbeat`), what a module computes.

The module gets the same environment as from torchrun (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, …). So a module that
was written for torchrun runs unchanged: its `init_process_group()` connects to the store that rank 0 makes here.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

from daskt2i.deploy.child_processes import wake_with_parent
from daskt2i.errors import ConfigError, Daskt2iError
from daskt2i.launch.vitals import heartbeat
from daskt2i.portable_errors import to_json

MARK = b"\x1e"
"""The first byte of an event (the record separator of RFC 7464). A line feed ends an event."""

FAREWELL = timedelta(seconds=60)
"""How long rank 0 keeps the store for ranks that end later than rank 0."""

_EVENTS_FD: int | None = None
_JOB: dict[str, Any] | None = None
_turn = threading.Lock()


@dataclass(frozen=True, slots=True)
class Rank:
    """The number of this process in the run.

    Attributes:
        rank: from 0 to world - 1.
        world: number of processes in the run.
        local_rank: number of this process among the ranks of this host.
        threads: torch threads that this process should use.
    """

    rank: int
    world: int
    local_rank: int
    threads: int


def rank() -> Rank:
    """The rank of this process. Without a launcher it is the only rank of its run."""

    def number(name: str, default: int) -> int:
        return int(os.environ.get(name) or default)

    return Rank(number("RANK", 0), number("WORLD_SIZE", 1), number("LOCAL_RANK", 0), number("OMP_NUM_THREADS", 1))


def job() -> dict[str, Any]:
    """The job that the caller of `launch` gave to all ranks; the same object each time.

    Raises:
        ConfigError: no launcher started this process.
    """
    if _JOB is None:
        raise ConfigError(
            "This module is a rank of a distributed run, but it was started by hand and has no job. Nothing was done. "
            "Start it with daskt2i.launch.launcher.launch."
        )
    return _JOB


def tell(kind: str, **fields: Any) -> None:
    """Send one event to the driver, from any thread. Without a launcher this function does nothing.

    Args:
        kind: the kind of event. `checkpoint` with a larger `step` counts as progress. `rendezvous`, `alive`, `error`,
            `beat`, `pulse`, `listens`, `leaving` and `saved` are reserved for the launcher.
        fields: JSON values. The names `rank`, `attempt`, `launch` and `worker` are reserved for the launcher.

    Raises:
        TypeError, ValueError: a field is not a JSON value.
    """
    if _EVENTS_FD is None:
        return
    record = MARK + json.dumps({"kind": kind, **fields}).encode() + b"\n"
    with _turn:
        while record:
            try:
                record = record[os.write(_EVENTS_FD, record) :]
            except OSError:  # the supervisor is gone
                _end()


def main() -> None:
    """Run the module that the command line names as a rank."""
    global _EVENTS_FD, _JOB
    module = sys.argv[1]
    lifeline, _EVENTS_FD = os.dup(0), os.dup(1)
    # The module's prints go to the log, so that they cannot cut an event in two. Its standard input is empty, because
    # the supervisor uses the real one.
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    wake_with_parent()  # the lifeline below ends a process that runs, not one that was stopped
    _JOB = json.loads(_first_line(lifeline))
    threading.Thread(target=_end_with_supervisor, args=(lifeline,), name="daskt2i-lifeline", daemon=True).start()
    del sys.argv[1]
    gc.set_threshold(10_000, 10, 10)  # garbage collection takes a fifth of the imports: 3.9 s instead of 4.9 s
    try:
        store = _make_rendezvous() if os.environ["RANK"] == "0" and os.environ["MASTER_PORT"] == "0" else None
        tell("alive", pid=os.getpid())
        heartbeat.begin(tell)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code not in (None, 0):
                raise
        _part(store)
    except Daskt2iError as error:
        tell("error", **to_json(error), final=True)
        raise
    finally:
        heartbeat.end()


def _first_line(source: int) -> bytes:
    """Read up to the first line feed, unbuffered: a thread in a buffered read would hold the lock of the buffer."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(source, 1 << 16)
        if not part:
            _end()
        line += part
    return line


def _end_with_supervisor(lifeline: int) -> None:
    line = b""
    while part := os.read(lifeline, 1 << 16):  # an empty read means that the supervisor is gone
        *requests, line = (line + part).split(b"\n")
        if any(heartbeat.request(request.decode()) for request in requests):
            break
    _end()


def _end() -> NoReturn:
    """End this process and its children (readers of a DataLoader) now."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _make_rendezvous() -> Any:
    """Make the store for the rendezvous, on a free port. Send the port to the launcher and set it in the environment.

    The store listens only on the address of this rank, because it has no authentication. The port is sent before torch
    is imported here, so that the other ranks can import it too. Early connections wait in the queue of the port.
    """
    host, world = os.environ["MASTER_ADDR"], int(os.environ["WORLD_SIZE"])
    listener = _listen(host)
    port = listener.getsockname()[1]
    os.environ["MASTER_PORT"] = str(port)
    tell("rendezvous", host=host, port=port)
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(host, port, world, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


def _listen(host: str) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    try:
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError:  # other machines know this machine by an address that no interface here has
        return socket.create_server(("", 0), backlog=2048)


def _part(store: Any) -> None:
    """Rank 0 keeps the store until the other ranks have ended too: without the store they would end with errors."""
    me = rank()
    if me.world == 1 or "torch" not in sys.modules:
        return
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    with contextlib.suppress(RuntimeError):  # torch's DistError: the other ranks are gone, or late
        if store is not None:
            if store.num_keys() > 1:  # the store has one key of its own; with no other key the ranks never used it
                store.wait([f"daskt2i/ended/{other}" for other in range(1, me.world)], FAREWELL)
        elif me.rank:
            port = int(os.environ["MASTER_PORT"])
            TCPStore(os.environ["MASTER_ADDR"], port, me.world, is_master=False, timeout=timedelta(seconds=10)).set(
                f"daskt2i/ended/{me.rank}", "1"
            )


if __name__ == "__main__":
    # The module imports `daskt2i.launch.rank` by name. So the job and the event channel must be in that copy of this
    # module, not in the copy that runs as `__main__`.
    importlib.import_module("daskt2i.launch.rank").main()
