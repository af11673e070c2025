"""The process that holds a cluster, from inside.

Covers: starting the cluster of a request, sending its address and what its queue says, deleting Dask's records of
finished tasks, cancelling and closing at the end.
Does not cover: this process from outside (`cluster_process`), the arguments of each class (`deploy.kinds`).

It sends one JSON object a line: first the address or what went wrong, then what the queue says, when that changes.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Any, TextIO

import dask

from daskt2i.deploy.child_processes import block_sigint
from daskt2i.deploy.kinds.by_class import kind_by_path, kind_of
from daskt2i.deploy.kinds.kind import Kind
from daskt2i.deploy.kinds.request import Refused, Request

_CLOSE = b"close\n"
_FIXED = b"fixed\n"
_FORGET_SECONDS = 5.0


def main(job: Mapping[str, Any]) -> None:
    """Start the cluster, send its address, and wait until the driver closes it or ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of the workers must not be mistaken for an answer
    driver = _Driver(answers, kind_by_path(job["factory"]).close_seconds)
    threading.Thread(target=driver.listen, name="daskt2i-lifeline", daemon=True).start()
    _ignore_signals()
    dask.config.update(dask.config.config, job["inherited"])
    dask.config.set(job["config"])
    # If the port of the dashboard is taken, distributed takes a free one and warns. The display names the real one.
    warnings.filterwarnings("ignore", r"Port \d+ is already in use", UserWarning)
    with block_sigint(), ExitStack() as stack:  # for the workers; starting multiprocessing's tracker has unblocked it
        started = _live(job, driver, stack)
    if not started:
        os._exit(0)  # the thread that listens holds the lock of standard input, which Python's own end would wait for


class _Driver:
    """The process that wants the cluster.

    Attributes:
        ended: set when it asks to close, or has ended: the kernel closes the pipe when it ends for any reason.
        fixed: set when it needs a fixed number of workers.
    """

    def __init__(self, answers: TextIO, close_seconds: float) -> None:
        self._answers, self._close_seconds = answers, close_seconds
        self.ended, self.fixed = threading.Event(), threading.Event()

    def tell(self, **answer: Any) -> None:
        """Send an answer. A driver that has ended gets none."""
        with suppress(OSError, ValueError):
            self._answers.write(json.dumps(answer) + "\n")
            self._answers.flush()

    def listen(self) -> None:
        """Wait for its words.

        At the end the cluster is closed in every case, because it may have jobs in a queue or folders on a disk. The
        driver kills this process if that takes too long. Without a driver this process ends itself, even if the cluster
        hangs at its start.
        """
        while (line := sys.stdin.buffer.readline()) == _FIXED:
            self.fixed.set()
        logging.disable(logging.CRITICAL)  # its connections are gone, which Dask would log
        if line != _CLOSE:
            limit = threading.Timer(self._close_seconds + 5, os._exit, [1])
            limit.daemon = True
            limit.start()
        self.ended.set()


def _live(job: Mapping[str, Any], driver: _Driver, stack: ExitStack) -> bool:
    """Start the cluster, and close it at the end. Returns whether there was one."""
    try:
        module, _, name = job["factory"].rpartition(".")
        factory = getattr(importlib.import_module(module), name)
        _ignore_signals()  # dask_jobqueue sets a handler of its own for SIGINT when it is imported
    except (ImportError, AttributeError, ValueError) as error:
        package = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        extra = kind_by_path(job["factory"]).extra if package else ""
        driver.tell(kind="import", text=str(error), extra=extra)
        return False
    dask.config.update(dask.config.config, job["inherited"])  # the package of the class may have set its defaults
    dask.config.set(job["config"])
    kind, request, cluster = kind_of(factory), Request(**job["request"]), None
    try:
        arguments = kind.arguments(factory, job["arguments"], request, stack)
        kind.check(factory, arguments)
        if job["preview"]:
            text = kind.preview(factory, arguments, request)
            driver.tell(words=kind.words(arguments, request), script=text)
            return False
        cluster = kind.start(factory, arguments, request)
        address = _address_of(cluster, factory)
        refuse_open(address, job, kind)
        workers = None if driver.ended.is_set() else kind.fill(cluster, arguments, request)
    except Exception as error:  # the class of the cluster file may raise anything
        told = {"kind": "refused", "text": str(error)} if isinstance(error, Refused) else {"kind": "start"}
        _close(cluster, kind, request)
        driver.tell(**{"text": kind.explain(error), **told})
        return False
    driver.tell(address=address, security=kind.security(cluster), workers=workers)
    _watch(cluster, kind, request, driver)
    _close(cluster, kind, request)
    return True


def _watch(cluster: Any, kind: Kind, request: Request, driver: _Driver) -> None:
    """Until the end: forget finished tasks, and tell what the queue says."""
    before, fixed = None, False
    while not driver.ended.wait(_FORGET_SECONDS if before else 1.0):
        forget(cluster)
        if driver.fixed.is_set() and not fixed:
            fixed = True
            kind.fix(cluster, request)
        queue = kind.queue(cluster, request)
        if queue is not None and kind.renew(cluster, request):
            queue = kind.queue(cluster, request)
        if queue is not None and queue != before:
            driver.tell(queue=queue)
        before = queue or {"": ""}


def _close(cluster: Any, kind: Kind, request: Request) -> None:
    """Cancel what waits or runs, then close the cluster."""
    if cluster is None:  # something of it may be there
        kind.cancel(cluster, request)
        return
    kind.cancel(cluster, request)
    with suppress(Exception):
        cluster.close(timeout=kind.close_seconds)
    kind.cancel(cluster, request)  # a job may have been submitted meanwhile


def _address_of(cluster: Any, factory: Any) -> str:
    """The address of the scheduler.

    Raises:
        Refused: there is none, because this is no cluster.
    """
    if not hasattr(cluster, "scheduler_address"):
        made, name = type(cluster).__name__, getattr(factory, "__name__", factory)
        raise Refused(f"{name} makes no cluster, but a {made}")
    return str(cluster.scheduler_address)


def refuse_open(address: str, job: Mapping[str, Any], kind: Kind) -> None:
    """Refuse a scheduler that no other process reaches, and one that others can use without a certificate.

    Raises:
        Refused: with what to write into the file.
    """
    if address.startswith("inproc://"):
        advice = "add protocol: 'tcp://' to its arguments"
        raise Refused(f"its scheduler is at {address}, which no other process can reach; {advice}")
    host = address.partition("://")[2].rpartition(":")[0].strip("[]")
    closed = not address.startswith(("tcp://", "ws://")) or host in ("localhost", "::1") or host.startswith("127.")
    if not (closed or job["open"]):
        raise Refused(
            f"its scheduler is at {address} without TLS, so whoever reaches it can run code as this user; give "
            "security among its arguments, or write `tls: false` into the file if that is wanted"
        )


def _ignore_signals() -> None:
    """Ignore the signals that a terminal and a batch system send to all processes.

    This process ends when its driver is done. The handler is a function, because workers would inherit an ignored
    signal.
    """
    signal.signal(signal.SIGINT, _stay)
    signal.signal(signal.SIGTERM, _stay)


def _stay(signum: int, frame: FrameType | None) -> None:
    """Ignore the signal."""


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
