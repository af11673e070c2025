"""The process of a cluster that daskt2i starts, from outside. It holds the scheduler and the nannies of its workers.

Covers: starting this process, its answers, closing it, cancelling its jobs if it was killed.
Does not cover: the process from inside (`cluster_child`), cluster files (`cluster_file`), certificates as files
(`tls_files`).

Why a process: a nanny writes variables into `os.environ` of its process before it starts or restarts a worker
(`WorkerProcess.start` of distributed 2026.7: thread counts, malloc's threshold, PYTHONHASHSEED, its own pid). Scheduler
and nannies also read `dask.config` of their process at any time, and log through its loggers. In the user's process
this would disturb the user's other work. Workers need the variables before their interpreter starts, so the `env=` of a
nanny comes too late for some of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import dask

from daskt2i.deploy.child_processes import block_sigint
from daskt2i.deploy.kinds.by_class import kind_by_path
from daskt2i.deploy.kinds.request import Request

_CODE = (
    "import json, sys; job = json.loads(sys.stdin.buffer.readline()); sys.path[:] = job['path']; "
    "from daskt2i.deploy.cluster_child import main; main(job)"
)
"""The new process has the import path of this one, as in multiprocessing. Its `__main__` is not a file, so that workers
do not run the user's script again."""

_CLOSE = b"close\n"
_FIXED = b"fixed\n"
_PRIVATE = ("scheduler", "shuffle", "pool")
"""Sections of dask.config that belong to the user's own client and threads."""


class NotStarted(RuntimeError):
    """The cluster did not start. No process of it is left.

    Attributes:
        kind: `import` if the class cannot be imported, `refused` if the text says what to do, else `start`.
        extra: for `import`: the extra of daskt2i that has the package; "" if there is none.
    """

    def __init__(self, text: str, kind: str = "start", extra: str = "") -> None:
        super().__init__(text)
        self.kind, self.extra = kind, extra


class ClusterProcess:
    """A running cluster.

    Args:
        factory: dotted path of the cluster's class.
        arguments: arguments of the class; JSON values.
        request: what is asked of the cluster.
        open: whether the scheduler may listen to other machines without TLS.

    Raises:
        NotStarted: the cluster did not start. No process of it is left.

    Attributes:
        address: address of the scheduler.
        security: arguments of `distributed.Security` for a client; None if there are none.
        workers: number of workers that the cluster will have; None if that is not known.
        queue: what the queue said last; {} if nothing.
    """

    def __init__(
        self,
        factory: str,
        arguments: Mapping[str, Any],
        request: Request,
        open: bool = False,
    ) -> None:
        kind = kind_by_path(factory)
        self._close_seconds, self._cancel = kind.close_seconds, kind.cancel_command(request)
        self.queue: dict[str, Any] = {}
        self._process = _process(request.environ)
        try:
            told = _ask(self._process, _job(factory, arguments, request, open=open))
        except BaseException:
            self.close()
            raise
        if "address" not in told:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self._close_seconds)
            self.kill()
            raise NotStarted(told.get("text", ""), told.get("kind", "start"), told.get("extra", ""))
        self.address: str = told["address"]
        self.security: dict[str, Any] | None = told["security"]
        self.workers: int | None = told["workers"]
        threading.Thread(target=self._listen, name="daskt2i-cluster", daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with suppress(OSError, ValueError):
            for line in self._process.stdout:
                with suppress(ValueError, KeyError, TypeError):
                    self.queue = json.loads(line)["queue"]

    def fix(self) -> None:
        """No longer change the number of workers by what there is to do."""
        self._say(_FIXED)

    def close(self) -> None:
        """Close the cluster. Kill it if it does not end in time, because its work is done. May be called twice."""
        with suppress(OSError, ValueError, subprocess.TimeoutExpired):
            self._say(_CLOSE)
            self._process.wait(self._close_seconds + 5)
        self.kill()

    def kill(self) -> None:
        """Kill the process now. The workers end with it, and what it could not cancel is cancelled here."""
        ended = self._process.poll() == 0
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        command, self._cancel = self._cancel, []
        if command and not ended:
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run(command, capture_output=True, timeout=self._close_seconds, check=False)

    def _say(self, word: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word)
        self._process.stdin.flush()


def preview(factory: str, arguments: Mapping[str, Any], request: Request) -> tuple[str, str]:
    """What would be asked for, in words, and the job script or manifest ("" if there is none). Nothing is started.

    Raises:
        NotStarted: the class cannot be imported, or refuses its arguments.
    """
    process = _process(request.environ)
    try:
        told = _ask(process, _job(factory, arguments, request, preview=True))
    finally:
        process.communicate()
    if "words" not in told:
        raise NotStarted(told.get("text", ""), told.get("kind", "start"), told.get("extra", ""))
    return told["words"], told["script"]


def _job(factory: str, arguments: Mapping[str, Any], request: Request, **more: bool) -> dict[str, Any]:
    return {
        "path": [entry for entry in sys.path if isinstance(entry, str)],  # Python ignores other entries
        "factory": factory,
        "arguments": arguments,
        "request": request.to_json(),
        "inherited": _plain({k: v for k, v in dask.config.config.items() if k not in _PRIVATE}),
        "config": request.config,
        "preview": False,
        "open": False,
        **more,
    }


def _process(environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with block_sigint():
        return subprocess.Popen(
            [sys.executable, "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environ},
        )


def _ask(process: subprocess.Popen[bytes], job: Mapping[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):  # the process has ended; then its answer is empty too
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
    for answer in process.stdout:  # a sitecustomize module may print lines first
        with suppress(ValueError):
            found = json.loads(answer)
            if isinstance(found, dict):
                return found
    return {"text": f"its process ended with exit code {process.wait()}"}


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
