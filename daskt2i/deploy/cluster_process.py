"""The process of a cluster that daskt2i starts. It holds the scheduler and the nannies; the workers are its children.

Covers: this process from outside (`ClusterProcess`) and from inside (`main`); which arguments its class gets; deleting
Dask's records of finished tasks.
Does not cover: cluster files, the client (`connect`), certificates as files (`tls_files`).

Why a process: a nanny writes variables into `os.environ` of its process before it starts or restarts a worker
(`WorkerProcess.start` of distributed 2026.7: thread counts, malloc's threshold, PYTHONHASHSEED, its own pid). Scheduler
and nannies also read `dask.config` of their process at any time, and log through its loggers. In the user's process
this would disturb the user's other work. Workers need the variables before their interpreter starts, so the `env=` of a
nanny comes too late for some of them.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType
from typing import Any, TextIO

import dask
from distributed import LocalCluster

from daskt2i.deploy.child_processes import block_sigint
from daskt2i.errors import ConfigError

_CODE = (
    "import json, sys; job = json.loads(sys.stdin.buffer.readline()); sys.path[:] = job['path']; "
    "from daskt2i.deploy.cluster_process import main; main(job)"
)
"""The new process has the import path of this one, as in multiprocessing. Its `__main__` is not a file, so that workers
do not run the user's script again."""

_CLOSE = b"close\n"
_CLOSE_SECONDS = 10
_FORGET_SECONDS = 5.0
_PRIVATE = ("scheduler", "shuffle", "pool")
"""Sections of dask.config that belong to the user's own client and threads."""


class ClusterProcess:
    """A running cluster.

    Args:
        factory: dotted path of the cluster's class.
        arguments: arguments of the class; JSON values.
        offered: more arguments. The class gets those that it knows, unless `arguments` has them.
        config: Dask settings for the new process. They override those of this process.
        environ: additional environment variables for the new process and its workers.

    Raises:
        ConfigError: the class cannot be imported.
        RuntimeError: the cluster did not start. No process of it is left.

    Attributes:
        address: address of the scheduler.
        security: arguments of `distributed.Security` for a client; None if there are none.
        workers: number of workers that the cluster will have.
    """

    def __init__(
        self,
        factory: str,
        arguments: Mapping[str, Any],
        config: Mapping[str, Any],
        environ: Mapping[str, str],
        offered: Mapping[str, Any] | None = None,
    ) -> None:
        job = {
            "path": [entry for entry in sys.path if isinstance(entry, str)],  # Python ignores other entries
            "factory": factory,
            "arguments": arguments,
            "offered": offered or {},
            "inherited": _plain({k: v for k, v in dask.config.config.items() if k not in _PRIVATE}),
            "config": config,
        }
        line = json.dumps(job).encode() + b"\n"
        with block_sigint():
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CODE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **environ},
            )
        try:
            told = self._ask(line)
        except BaseException:
            self.kill()
            raise
        if "address" not in told:
            self.kill()
            kind: type[Exception] = ConfigError if told.get("kind") == "import" else RuntimeError
            raise kind(told.get("text", ""))
        self.address: str = told["address"]
        self.security: dict[str, Any] | None = told["security"]
        self.workers: int | None = told["workers"]

    def _ask(self, line: bytes) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # the process has ended; then its answer is empty too
            process.stdin.write(line)
            process.stdin.flush()
        for answer in process.stdout:  # a sitecustomize module may print lines first
            with suppress(ValueError):
                found = json.loads(answer)
                if isinstance(found, dict):
                    return found
        return {"text": f"its process ended with exit code {process.wait()}"}

    def close(self) -> None:
        """Close the cluster. Kill it if it does not end in time, because its work is done. May be called twice."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError, subprocess.TimeoutExpired):
            self._process.stdin.write(_CLOSE)
            self._process.stdin.flush()
            self._process.wait(_CLOSE_SECONDS + 5)
        self.kill()

    def kill(self) -> None:
        """Kill the process now. The workers end with it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()


def _plain(value: Any) -> Any:
    """Settings as JSON values. Values that JSON cannot hold are left out."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if _is_plain(v)}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool | Mapping | os.PathLike)


def main(job: Mapping[str, Any]) -> None:
    """The new process: start the cluster, send its address, and wait until the driver closes it or ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of the workers must not be mistaken for an answer
    ended = threading.Event()
    threading.Thread(target=_wait_for_the_end, args=(ended,), name="daskt2i-lifeline", daemon=True).start()
    # A terminal and a batch system send these signals to all processes. This process ends when its driver is done. The
    # handler is a function, because workers would inherit an ignored signal.
    signal.signal(signal.SIGINT, _stay)
    signal.signal(signal.SIGTERM, _stay)
    dask.config.update(dask.config.config, job["inherited"])
    dask.config.set(job["config"])
    # If the port of the dashboard is taken, distributed takes a free one and warns. The display names the real one.
    warnings.filterwarnings("ignore", r"Port \d+ is already in use", UserWarning)
    with block_sigint():  # for the workers; starting multiprocessing's resource tracker here has unblocked it
        _live(job, answers, ended)


def _live(job: Mapping[str, Any], answers: TextIO, ended: threading.Event) -> None:
    """Start the cluster, and close it at the end."""

    def tell(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    module, _, name = job["factory"].rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        tell(kind="import", text=str(error))
        return
    try:
        arguments = known(factory, job["offered"]) | job["arguments"]
        cluster = factory(**arguments)
        workers = _workers(cluster, arguments, job["offered"].get("n_workers"))
        address = str(cluster.scheduler_address)
    except Exception as error:  # the class of the cluster file may raise anything
        tell(kind="start", text=str(error) or type(error).__name__)
        return
    if address.startswith("inproc://"):
        cluster.close(timeout=_CLOSE_SECONDS)
        advice = "add protocol: 'tcp://' to its arguments"
        tell(kind="start", text=f"its scheduler is at {address}, which no other process can reach; {advice}")
        return
    tell(address=address, security=_security(cluster), workers=workers)
    while not ended.wait(_FORGET_SECONDS):
        forget(cluster)
    logging.disable(logging.CRITICAL)
    with suppress(TimeoutError, OSError):
        cluster.close(timeout=_CLOSE_SECONDS)


def known(factory: Any, offered: Mapping[str, Any]) -> dict[str, Any]:
    """The offered arguments that a class or function of a cluster knows by name.

    A class that also takes `**more` may pass it to its base class, so the arguments of the base classes count too. What
    a function does with `**more` is not known: SLURMCluster passes it to its jobs, SSHCluster to another class.
    LocalCluster passes it to its workers, which know `memory_limit`.
    """
    names: set[str] = set()
    for one in factory.__mro__[:-1] if inspect.isclass(factory) else (factory,):
        if inspect.isclass(one) and "__init__" not in vars(one):
            continue
        try:
            parameters = inspect.signature(one).parameters.values()
        except (TypeError, ValueError):  # a built-in class has no signature
            break
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    if inspect.isclass(factory) and issubclass(factory, LocalCluster):
        names.add("memory_limit")
    elif "security" in names:
        names.remove("security")  # True means temporary certificates to LocalCluster; to other classes it may not
    return {name: value for name, value in offered.items() if name in names}


def _workers(cluster: Any, arguments: Mapping[str, Any], wanted: int | None) -> int | None:
    """The number of workers that a cluster will have. One that was not asked for a number is asked here, if it can."""
    if "n_workers" in arguments or wanted is None:
        return arguments.get("n_workers")
    if fixed := len(getattr(cluster, "worker_spec", None) or ()):  # for example a list of hosts
        return fixed
    if callable(scale := getattr(cluster, "scale", None)):
        scale(wanted)
    return wanted


def _stay(signum: int, frame: FrameType | None) -> None:
    """Ignore the signal."""


def _security(cluster: Any) -> dict[str, Any] | None:
    """The certificates that a client needs. They come from the cluster file, or the cluster made them itself."""
    given = getattr(cluster, "security", None)
    names = ("tls_ca_file", "tls_client_cert", "tls_client_key", "require_encryption")
    found = {name: value for name in names if (value := getattr(given, name, None)) is not None}
    return found if any(found.values()) else None


def _wait_for_the_end(ended: threading.Event) -> None:
    """Wait until the driver asks to close, or has ended: the kernel closes the pipe when the driver ends for any
    reason.

    In both cases the cluster is closed, because it may have jobs in a queue or folders on a disk. The driver kills this
    process if that takes too long. Without a driver this process ends itself, even if the cluster hangs at its start.
    """
    if sys.stdin.buffer.readline() != _CLOSE:
        limit = threading.Timer(_CLOSE_SECONDS + 5, os._exit, [1])
        limit.daemon = True
        limit.start()
    ended.set()


def forget(cluster: Any) -> None:
    """Delete Dask's records of finished tasks, because they grow without limit.

    `key_split` remembers 100,000 names of tasks. A span has one entry for each submit, without a limit. Each connection
    keeps its last messages, and the messages of chunks hold captions.
    """
    from dask.utils import key_split

    key_split.cache_clear()
    with suppress(AttributeError, KeyError, RuntimeError):  # no scheduler here, another version, or a new worker joins
        scheduler = cluster.scheduler
        for comm in list(scheduler.stream_comms.values()):
            comm.recent_message_log.clear()
        for span in list(scheduler.extensions["spans"].spans.values()):
            # Both are emptied in place, because the scheduler's thread may add to them at the same time.
            getattr(span, "_metadata_seen", set()).clear()  # distributed before 2026.8
            if span._metadata is not None:
                span._metadata["collections"].clear()
