"""The command doctor.

Covers: reading options, calling the look, its exit code.
Does not cover: looking (`daskt2i.doctor`), how output and errors look (`console`, `front`).
"""

from __future__ import annotations

import typer

from daskt2i.cli.endings import ExitCode
from daskt2i.cli.front import answer, opened
from daskt2i.cli.options import (
    CaptionsOption,
    ImagesOption,
    JsonOption,
    OutOption,
    SchedulerOption,
    SetOption,
    WhereOption,
    WorkflowOption,
)


def doctor(
    workflow: WorkflowOption = None,
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
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
    given = {"images": images, "captions": captions, "where": where, "scheduler": scheduler}
    with opened(workflow, out_folder, set_, **given, as_json=as_json) as run:
        if not answer(run.doctor(), as_json).ok:
            raise typer.Exit(ExitCode.FAILURE)
