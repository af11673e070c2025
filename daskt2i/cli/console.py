"""What the command line prints, and how each of its ways out becomes one sentence. Nothing else prints.

Results go to standard output. Progress, notes and errors go to standard error. The exit code is 0 when all is well, 1
when something failed (the sentence says what), 2 for a wrong command line, 130 after Ctrl-C.
"""

from __future__ import annotations

import json
import logging
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

out = Console(soft_wrap=False, highlight=False)
err = Console(stderr=True, highlight=False)


def write(data: dict[str, Any], as_json: bool, table: Any) -> None:
    """What a command found, on standard output: one JSON object, or a table."""
    if as_json:
        sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    else:
        out.print(table)


@contextmanager
def report_errors() -> Iterator[None]:
    """Every way out is one sentence. SIGTERM (a batch system ending the job) stops as cleanly as Ctrl-C."""

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
        complain("Stopped. What is committed stays; the same command goes on from there.", "yellow")
        raise typer.Exit(130) from None
    except Daskt2iError as error:
        complain(f"error: {' '.join(str(error).split())}")
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except Exception as error:
        name = tempfile.mkstemp(prefix="daskt2i-", suffix=".log")[1]
        Path(name).write_text(traceback.format_exc(), encoding="utf-8")
        said = " ".join(str(error).split())
        complain(
            f"error: {type(error).__name__}: {said}. This is a bug in daskt2i. What is committed stays, and "
            f"the same command goes on; the traceback is in {name}."
        )
        raise typer.Exit(1) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _without_dasks_log() -> Iterator[None]:
    """A scheduler that goes away is told in our words, not in distributed's tracebacks. This process is ours to say so.

    distributed gives its loggers a handler of their own when it is imported, which is later, unless the root has one.
    So the root gets one: as Python's own, which tells warnings of everybody else.
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
    """Writes to what standard error is at that moment: a live bar takes it over, and lets lines pass above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _not_dasks(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] != "distributed"


def complain(text: str, style: str = "red") -> None:
    err.print(Text(text, style=style), soft_wrap=True)
