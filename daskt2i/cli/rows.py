"""The commands that change the rows of a store: append, remove, replace.

Covers: reading options, calling the method that does the work, showing its result.
Does not cover: encoding a store (`cli.data`), what a change does (`session.rows`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from daskt2i.cli.front import answer, opened
from daskt2i.cli.options import (
    CaptionsOption,
    DryRunOption,
    JsonOption,
    OutOption,
    SchedulerOption,
    SetOption,
    SourceOption,
    WorkflowOption,
)

_ImagesOption = Annotated[
    str | None, typer.Option("--images", help="Where the rows are. [default: the source of the store, which has grown]")
]
_IDS = "A text file with an image id or a file name in each line."


def append(
    workflow: WorkflowOption = None,
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    source: SourceOption = None,
    images: _ImagesOption = None,
    captions: CaptionsOption = None,
    set_: SetOption = [],  # noqa: B006  # typer only reads it
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Encode rows that a store does not have yet, by their image id.

    The rows of before are not read or changed. Run the same command again to continue after a stop.
    """
    with opened(workflow, out_folder, set_, scheduler=scheduler, as_json=as_json) as run:
        answer(run.append(images, captions, source, dry_run=dry_run), as_json).raise_for_failed()


def remove(
    workflow: WorkflowOption = None,
    out_folder: OutOption = None,
    ids: Annotated[str | None, typer.Option("--ids", help=_IDS, metavar="FILE")] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="Remove rows for which this is true, e.g. 'words < 3'.")
    ] = None,
    set_: SetOption = [],  # noqa: B006
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove rows from a store, by image id, file name or facts.

    Readers do not see them any more. Their bytes stay on disk.
    """
    with opened(workflow, out_folder, set_, as_json=as_json) as run:
        answer(run.remove(ids, where=where, dry_run=dry_run), as_json)


def replace(
    ids: Annotated[str, typer.Option("--ids", help=_IDS, metavar="FILE")],
    workflow: WorkflowOption = None,
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    source: SourceOption = None,
    images: _ImagesOption = None,
    captions: CaptionsOption = None,
    set_: SetOption = [],  # noqa: B006
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Encode rows of a store again, from pictures or captions that are better now.

    The old rows are there until all new ones are. Run the same command again to continue after a stop.
    """
    with opened(workflow, out_folder, set_, scheduler=scheduler, as_json=as_json) as run:
        answer(run.replace(ids, images, captions, source, dry_run=dry_run), as_json).raise_for_failed()
