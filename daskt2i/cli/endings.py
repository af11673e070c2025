"""How a command ends: every error and every signal becomes one message and one exit code.

Covers: exit codes, Ctrl-C and SIGTERM (also when they come again), errors that nobody expected, and their log file.
Does not cover: printing (`console`), closed pipes and encodings (`streams`), the words of errors (`os_errors`).

The first Ctrl-C or SIGTERM stops the work, and the command cleans up: workers end, the lock is released. A line says so
if that takes longer than a moment. Further ones change nothing for `PATIENCE_SECONDS`: a wrapper may pass a signal on
that the process has already. After that the next one ends the process at once: its workers end with it, and what is
committed stays.
"""

from __future__ import annotations

import atexit
import contextlib
import enum
import logging
import os
import signal
import sys
import sysconfig
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import NoReturn, TextIO

import typer

from daskt2i.cli.console import complain
from daskt2i.errors import Daskt2iError, Interrupted
from daskt2i.events import Event, StageEnded, StageStarted
from daskt2i.faults import kinds
from daskt2i.os_errors import import_problem, meaning_of, place_of
from daskt2i.redact import without_secret

PATIENCE_SECONDS = 1.0
"""For so long after the first Ctrl-C another one changes nothing."""

TELL_SECONDS = 0.2
"""A command that ends sooner says nothing before its end."""

_PACKAGE = Path(__file__).parents[1]
_PYTHON = sysconfig.get_path("stdlib")

ZARR_SECONDS = 30.0
"""For so long the end of a command waits for the thread of Zarr."""

_STOPPING = {
    "encode": "Stopping: chunks that are finished are published, then the workers end.",
    "train": "Stopping: the ranks finish their step, then they end.",
    "train-vae": "Stopping: the ranks finish their step, then they end.",
    "": "Stopping: what runs is ended.",
}
"""Stage -> what happens after the first Ctrl-C."""

_AT_ONCE = "Press Ctrl-C again to end at once; what is committed stays."

_OF_OTHERS = {
    kinds.Kind.ACCESS: ("Access was refused", "renew the credentials"),
    kinds.Kind.TRANSPORT: ("The network or a server failed", "check the address and the connection"),
}
"""Kinds of errors of libraries that are no bugs: what happened, and what helps."""


class ExitCode(enum.IntEnum):
    """The exit codes of all commands. docs/reference/command-line.md explains them."""

    SUCCESS = 0
    FAILURE = 1
    USAGE = 2
    STOPPED = 130


STOPPED = "Stopped. What is committed stays; run the same command again to continue."


class _Stops:
    """The stops that this process was asked for."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.for_good = False
        self.stage = ""
        self._ended = threading.Event()
        self._teller: threading.Thread | None = None

    def handle(self, signum: int, frame: object) -> None:
        if self.first is None:
            self.first = monotonic()
            self._tell(by_key=signum == signal.SIGINT)
            raise KeyboardInterrupt
        if monotonic() - self.first > PATIENCE_SECONDS:
            with contextlib.suppress(OSError):
                os.write(2, b"Stopped at once. What is committed stays.\n")
            os._exit(ExitCode.STOPPED)

    def _tell(self, by_key: bool) -> None:
        """Say soon what happens. A thread does it: this one may be in the middle of printing."""
        self._ended = threading.Event()
        text = _STOPPING.get(self.stage, _STOPPING[""]) + f" {_AT_ONCE}" * by_key

        def tell(ended: threading.Event = self._ended) -> None:
            if not ended.wait(TELL_SECONDS):
                complain(text, "yellow")

        self._teller = threading.Thread(target=tell, name="daskt2i-stopping", daemon=True)
        with contextlib.suppress(RuntimeError):  # no more threads
            self._teller.start()

    def end(self) -> None:
        """The command has cleaned up. Afterwards no line is printed any more."""
        self._ended.set()
        if self._teller is not None and self._teller.is_alive():
            self._teller.join(1.0)


_stops = _Stops()


def end_of_stop() -> None:
    """After this, no line says that the command stops."""
    _stops.end()


def follow_stages(event: Event) -> None:
    """A listener that learns which stage runs, for the line after Ctrl-C."""
    if isinstance(event, StageStarted):
        _stops.stage = event.stage
    elif isinstance(event, StageEnded) and event.error is None:
        _stops.stage = ""


def handle_stops() -> None:
    """Handle signals until the process ends. Libraries have work to do at its end, which a signal must not disturb."""
    _stops.for_good = True
    _listen()
    atexit.register(_ignore_stops)  # the first to be registered is the last to be called


def _ignore_stops() -> None:
    """Python restores the signals' own actions when it ends; an ignored signal stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def end_of_command() -> None:
    """After this, a signal no longer raises: the command has its result."""
    if _stops.first is None:
        _stops.first = monotonic()
    atexit.register(_wait_for_zarr)  # the last to be registered is the first to be called


def _wait_for_zarr() -> None:
    """Zarr waits 0.2 s for its thread when Python ends, then prints a traceback. A busy machine needs longer."""
    zarr = sys.modules.get("zarr.core.sync")
    loop, thread = (getattr(zarr, name, [None])[0] for name in ("loop", "iothread"))
    if loop is not None and thread is not None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(ZARR_SECONDS)


def _listen() -> dict[signal.Signals, object]:
    """Handle SIGTERM (a batch system ends the job) and SIGINT. An ignored SIGINT (`nohup`) stays ignored."""
    before: dict[signal.Signals, object] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if number == signal.SIGTERM or signal.getsignal(number) is signal.default_int_handler:
            before[number] = signal.signal(number, _stops.handle)
    return before


@contextmanager
def report_errors() -> Iterator[None]:
    """Print every error as one message, and end the command with its exit code."""
    before = {} if _stops.for_good else _listen()
    try:
        with _without_dasks_log():
            yield
    except Interrupted as error:
        _stops.end()
        complain(str(error), "yellow")
        raise typer.Exit(ExitCode.STOPPED) from None
    except KeyboardInterrupt:
        _stops.end()
        complain(STOPPED, "yellow")
        raise typer.Exit(ExitCode.STOPPED) from None
    except Daskt2iError as error:
        complain(f"error: {' '.join(str(error).split())}")
        raise typer.Exit(ExitCode.FAILURE) from None
    except typer.Exit:
        raise
    except Exception as error:
        fail(error)
    finally:
        _stops.end()
        _stops.stage = ""
        if not _stops.for_good:
            _stops.first = None
            for number, handler in before.items():
                signal.signal(number, handler)  # type: ignore[arg-type]  # it is what `signal.signal` returned


def fail(error: Exception) -> NoReturn:
    """Print an error that is not one of daskt2i: of an import, of the operating system, or a bug.

    Raises:
        typer.Exit: always.
    """
    meaning, problem = meaning_of(error), import_problem(error)
    said = " ".join(without_secret(str(error)).split()).rstrip(".")
    if problem is not None:
        complain(f"error: {problem}")
    elif meaning is not None and isinstance(error, OSError):
        place = place_of(error)
        what = f"{place} cannot be used" if place else "A file or a connection cannot be used"
        complain(
            f"error: {what}: {meaning.says} ({error.strerror or type(error).__name__}). What is committed stays; "
            f"{meaning.advice}, and run the same command again to continue."
        )
    elif kinds.kind_of(error) in _OF_OTHERS:
        what, advice = _OF_OTHERS[kinds.kind_of(error)]
        complain(
            f"error: {what} ({type(error).__name__}: {said}). What is committed stays; {advice}, and run the same "
            "command again to continue."
        )
    elif (file := _file_of_user(error)) is not None:
        complain(
            f"error: {type(error).__name__}: {said}. It comes from {file}, which is not part of daskt2i; "
            f"{_kept(error)}. What is committed stays; correct this file, and run the same command again to continue."
        )
    else:
        complain(
            f"error: {type(error).__name__}: {said}. This is a bug in daskt2i; {_kept(error)}. What is committed "
            "stays; run the same command again to continue."
        )
    raise typer.Exit(ExitCode.FAILURE) from None


def _file_of_user(error: Exception) -> str | None:
    """Where an error comes from, if that is code of the user, such as an encoder of their own: file and line.

    Frames of installed packages and of Python itself say nothing: the code that called them decides.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        place = Path(frame.filename)
        if place.is_relative_to(_PACKAGE):
            return None
        installed = {"site-packages", "dist-packages"} & set(place.parts) or place.is_relative_to(_PYTHON)
        if not installed and place.is_file():  # "<string>" and "<frozen importlib>" are no files
            return f"line {frame.lineno} of {frame.filename}"
    return None


def _kept(error: Exception) -> str:
    """Write the traceback into a file, and say where. This never fails: without a file, it names the line."""
    try:
        handle, name = tempfile.mkstemp(prefix="daskt2i-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(without_secret("".join(traceback.format_exception(error))))
        return f"the traceback is in {name}"
    except OSError:
        last = traceback.extract_tb(error.__traceback__)[-1:]
        where = f"at line {last[0].lineno} of {Path(last[0].filename).name}" if last else "at an unknown line"
        return f"it is {where}, and no folder for temporary files can hold its traceback"


@contextmanager
def _without_dasks_log() -> Iterator[None]:
    """Hide the log of distributed. Our own message reports a lost scheduler, without distributed's tracebacks.

    distributed is imported later. It then gives its loggers their own handler, unless the root logger has one. So the
    root logger gets a handler here. Like Python's own handler, it prints the warnings of all other libraries.
    """
    handler = _StandardError()
    handler.setLevel(logging.WARNING)
    theirs = [h for name in ("distributed", "distributed.client") for h in logging.getLogger(name).handlers]
    logging.root.addHandler(handler)
    for each in (handler, *theirs):
        each.addFilter(_not_dasks)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
        for each in theirs:
            each.removeFilter(_not_dasks)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`: a live bar replaces it, and prints such lines above the bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _not_dasks(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] != "distributed"
