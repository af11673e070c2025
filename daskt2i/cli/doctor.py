"""The command doctor.

Covers: reading options, calling the look, its exit code.
Does not cover: looking (`daskt2i.doctor`), how output and errors look (`console`, `front`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from daskt2i.cli.console import complain
from daskt2i.cli.endings import ExitCode
from daskt2i.cli.front import answer, opened
from daskt2i.cli.options import (
    CaptionsOption,
    ImagesOption,
    JsonOption,
    OutOption,
    SchedulerOption,
    SetOption,
    SourceOption,
    WhereOption,
    WorkflowOption,
)

_WAIT_SECONDS = 20.0
_WAITS = (
    "The run folder has not answered for 20 s: its mount or its server may be away. Press Ctrl-C to stop, and look "
    "there, or choose another run folder (out)."
)


def doctor(
    workflow: WorkflowOption = None,
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    source: SourceOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    where: WhereOption = None,
    set_: SetOption = [],  # noqa: B006  # typer only reads it
    as_json: JsonOption = False,
) -> None:
    """Look at this machine, the workers, the network and the plan, and name each problem with what to do.

    It encodes nothing. It starts workers only if --scheduler names some to start. The exit code is 1 if a run could not
    start.
    """
    given = {"source": source, "images": images, "captions": captions, "where": where, "scheduler": scheduler}
    with _telling_a_wait() as no_more, opened(workflow, out_folder, set_, **given, as_json=as_json) as run:
        no_more.set()
        if not answer(run.doctor(), as_json).ok:
            raise typer.Exit(ExitCode.FAILURE)


@contextmanager
def _telling_a_wait() -> Iterator[threading.Event]:
    """Tell when the run folder does not answer: its settings are read before anything else can be looked at."""
    over = threading.Event()

    def tell() -> None:
        if not over.wait(_WAIT_SECONDS):
            complain(_WAITS, "yellow")

    threading.Thread(target=tell, name="daskt2i-doctor-waits", daemon=True).start()
    try:
        yield over
    finally:
        over.set()
