"""Printing of the command line, and its exit: every error becomes one message. Nothing else prints.

Results go to standard output. Progress, notes and errors go to standard error. The exit code is 0 after success, 1
after a failure (the message names it), 2 for a wrong command line, 130 after Ctrl-C.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.text import Text

from daskt2i.errors import Daskt2iError, Interrupted
from daskt2i.redact import without_secret

out = Console(soft_wrap=False, highlight=False)
err = Console(stderr=True, highlight=False)


def write(data: dict[str, Any], as_json: bool, table: Any) -> None:
    """Print a result on standard output: as one JSON object, or as a table."""
    if as_json:
        sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    else:
        out.print(table)


@contextmanager
def report_errors() -> Iterator[None]:
    """Print every error as one message. SIGTERM (a batch system ends the job) stops as cleanly as Ctrl-C."""

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with _without_dasks_log():
            yield
    except Interrupted as error:
        complain(str(error), "yellow")
        raise typer.Exit(130) from None
    except KeyboardInterrupt:
        complain("Stopped. What is committed stays; run the same command again to continue.", "yellow")
        raise typer.Exit(130) from None
    except Daskt2iError as error:
        complain(f"error: {' '.join(str(error).split())}")
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except Exception as error:
        name = tempfile.mkstemp(prefix="daskt2i-", suffix=".log")[1]
        Path(name).write_text(without_secret(traceback.format_exc()), encoding="utf-8")
        said = " ".join(str(error).split())
        complain(
            f"error: {type(error).__name__}: {said}. This is a bug in daskt2i; the traceback is in {name}. What is "
            "committed stays; run the same command again to continue."
        )
        raise typer.Exit(1) from None
    finally:
        signal.signal(signal.SIGTERM, before)


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


_OPTIONS = {
    **{name: f"--{name}" for name in ("out", "images", "captions", "where", "scheduler", "workflow", "prompts")},
    "devices": "--devices",
    "settings": "--set",
}
"""Messages name an argument in brackets, such as `(out)`. Here it is an option."""


def as_options(text: str) -> str:
    """A message with options in place of arguments: `"(out)"` becomes `"(--out)"`."""

    def named(found: re.Match[str]) -> str:
        words = found.group(1).split(", ")
        return f"({', '.join(_OPTIONS[word] for word in words)})" if set(words) <= _OPTIONS.keys() else found.group(0)

    return re.sub(r"\((\w+(?:, \w+)*)\)", named, text)


def complain(text: str, style: str = "red") -> None:
    err.print(Text(as_options(without_secret(text)), style=style), soft_wrap=True)
