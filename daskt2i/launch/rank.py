"""One rank of a distributed run: what its module asks for, and the process around it.

    python -m daskt2i.launch.rank MODULE          # started by `daskt2i.launch.supervisor`, never by hand

    from daskt2i.launch import rank        # in MODULE, which is run as `__main__`
    settings = rank.job()
    rank.tell("step", step=1, loss=0.5)

Covers: the job on standard input, events on standard output, the rendezvous that rank 0 makes, the end of this process
when its supervisor is gone.
Does not cover: starting processes (`supervisor`), where they run (`placement`), what a module computes.

The module finds the environment that torchrun gives (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, …), so one that was
written for torchrun runs unchanged: its `init_process_group()` becomes a client of the store that is made here.
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

from daskt2i.errors import ConfigError, Daskt2iError
from daskt2i.portable_errors import to_json

MARK = b"\x1e"
"""What an event begins with (the record separator of RFC 7464); a line feed ends it."""

FAREWELL = timedelta(seconds=60)
"""How long rank 0 keeps the store for ranks that end after it."""

_EVENTS_FD: int | None = None
_JOB: dict[str, Any] | None = None
_turn = threading.Lock()


@dataclass(frozen=True, slots=True)
class Rank:
    """Which of the processes this is.

    Attributes:
        rank: from 0 to world - 1.
        world: processes of the run.
        local_rank: the same among those of this host.
        threads: torch threads that this process should use.
    """

    rank: int
    world: int
    local_rank: int
    threads: int


def rank() -> Rank:
    """This process; without a launcher above it, the only rank of its run."""

    def number(name: str, default: int) -> int:
        return int(os.environ.get(name) or default)

    return Rank(number("RANK", 0), number("WORLD_SIZE", 1), number("LOCAL_RANK", 0), number("OMP_NUM_THREADS", 1))


def job() -> dict[str, Any]:
    """What the launcher was given for its ranks; the same object each time.

    Raises:
        ConfigError: no launcher started this process.
    """
    if _JOB is None:
        raise ConfigError(
            "This module is a rank of a distributed run and was started by hand, so it has no job. Nothing was done; "
            "start it through daskt2i.launch.launcher.launch."
        )
    return _JOB


def tell(kind: str, **fields: Any) -> None:
    """Send one event to the driver. From any thread; without a launcher above, nobody listens and nothing happens.

    Args:
        kind: what it is. `checkpoint` with a growing `step` counts as progress; `rendezvous`, `alive` and `error` are
            the launcher's own words.
        fields: JSON values. `rank`, `attempt`, `launch` and `worker` are the launcher's own.

    Raises:
        TypeError, ValueError: a field is no JSON value.
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
    """Run the module that the command line names, as a rank."""
    global _EVENTS_FD, _JOB
    module = sys.argv[1]
    lifeline, _EVENTS_FD = os.dup(0), os.dup(1)
    # What the module prints goes to the log, so that nothing can cut an event in two; and what it reads is not ours.
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _JOB = json.loads(_first_line(lifeline))
    threading.Thread(target=_end_with_supervisor, args=(lifeline,), name="daskt2i-lifeline", daemon=True).start()
    del sys.argv[1]
    gc.set_threshold(10_000, 10, 10)  # Python spends a fifth of the imports on garbage: 4.9 s, so 3.9 s
    try:
        store = _make_rendezvous() if os.environ["RANK"] == "0" and os.environ["MASTER_PORT"] == "0" else None
        tell("alive", pid=os.getpid())
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code not in (None, 0):
                raise
        _part(store)
    except Daskt2iError as error:
        tell("error", **to_json(error), final=True)
        raise


def _first_line(source: int) -> bytes:
    """Up to the first line feed. Unbuffered: a buffered reader would take the lock of its buffer into the thread."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(source, 1 << 16)
        if not part:
            _end()
        line += part
    return line


def _end_with_supervisor(lifeline: int) -> None:
    while os.read(lifeline, 1 << 16):  # nothing more is ever sent
        pass
    _end()


def _end() -> NoReturn:
    """This process and what it has started (readers of a DataLoader) end now."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _make_rendezvous() -> Any:
    """The store at which the ranks meet, on a port that was free, told to the launcher and put into the environment.

    It listens on the address of this rank alone: the store asks nobody who he is. The port is told before torch is
    imported, so that the other ranks import it meanwhile; who comes early waits in the queue of the port.
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
    except OSError:  # the name of this machine as others see it, not one of its own
        return socket.create_server(("", 0), backlog=2048)


def _part(store: Any) -> None:
    """Rank 0 holds the store until the others have ended too: with it gone, their last words would be errors."""
    me = rank()
    if me.world == 1 or "torch" not in sys.modules:
        return
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    with contextlib.suppress(RuntimeError):  # torch's DistError: the others are gone, or late
        if store is not None:
            if store.num_keys() > 1:  # beside its own: ranks that never met have nothing to lose
                store.wait([f"daskt2i/ended/{other}" for other in range(1, me.world)], FAREWELL)
        elif me.rank:
            port = int(os.environ["MASTER_PORT"])
            TCPStore(os.environ["MASTER_ADDR"], port, me.world, is_master=False, timeout=timedelta(seconds=10)).set(
                f"daskt2i/ended/{me.rank}", "1"
            )


if __name__ == "__main__":
    # The module imports `daskt2i.launch.rank` by name: the job and the channel must be in that copy, not in this one.
    importlib.import_module("daskt2i.launch.rank").main()
