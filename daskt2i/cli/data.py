"""The commands about data: encode, add, status, verify, export, push, insights, look, and others.

Covers: reading options, calling the function that does the work, showing its result.
Does not cover: how output and errors look (`console`, `front`), the commands about models (`cli.model`).
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.text import Text

from daskt2i.addresses import expanded
from daskt2i.cli.console import complain, err, out, write
from daskt2i.cli.endings import report_errors
from daskt2i.cli.front import answer, opened, parse_arguments
from daskt2i.cli.numbers import whole_numbers
from daskt2i.cli.options import (
    CaptionsOption,
    DryRunOption,
    ImagesOption,
    JsonOption,
    OutOption,
    SchedulerOption,
    SetOption,
    SourceOption,
    WhereOption,
    WorkflowOption,
)
from daskt2i.cli.streams import takes


def encode(
    workflow: WorkflowOption = None,
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    source: SourceOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    where: WhereOption = None,
    set_: SetOption = [],  # noqa: B006  # typer only reads it
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Encode images and captions into a Zarr store.

    Run the same command again to continue after a stop.
    """
    given = {"source": source, "images": images, "captions": captions, "where": where, "scheduler": scheduler}
    with opened(workflow, out_folder, set_, **given, as_json=as_json) as run:
        if dry_run:
            answer(run.plan("encode"), as_json)
        else:
            answer(run.encode(), as_json).raise_for_failed()


def add(
    column: Annotated[str, typer.Option("--column", help="Name of the column.", metavar="NAME")],
    encoder: Annotated[
        str,
        typer.Option("--encoder", help="vae, text, or the dotted path of a class.", metavar="NAME_OR_CLASS"),
    ],
    model: Annotated[str | None, typer.Option("--model", help="The model of the encoder: a name or a folder.")] = None,
    arguments: Annotated[
        list[str], typer.Option("--arg", help="key=value, for any other argument of the encoder; may be repeated.")
    ] = [],  # noqa: B006
    workflow: WorkflowOption = None,
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Encode another encoder's output for the rows of a store.

    The store is not changed. Run the same command again to continue after a stop.
    """
    with opened(workflow, out_folder, set_, scheduler=scheduler, as_json=as_json) as run:
        given = {**({} if model is None else {"model": model}), **parse_arguments(arguments)}
        answer(run.add(column, encoder, arguments=given), as_json).raise_for_failed()


def status(
    workflow: WorkflowOption = None,
    out_folder: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Show how much of a run folder is encoded."""
    with opened(workflow, out_folder, set_) as run:
        answer(run.status(), as_json)


def rejected(
    workflow: WorkflowOption = None,
    out_folder: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """List the rejected rows of a store by file name, with the reason of each."""
    with opened(workflow, out_folder, set_) as run:
        answer(run.rejected_rows(), as_json)


def report(
    workflow: WorkflowOption = None,
    out_folder: OutOption = None,
    html: Annotated[
        str | None, typer.Option("--html", help="Write the page of the dashboard into this file.", metavar="FILE")
    ] = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Report a whole run: rows, speed, rejected rows, losses, notes.

    It reads events.jsonl, receipts and metrics of the run folder. The page of --html is one file and makes no request.
    """
    with opened(workflow, out_folder, set_, as_json=as_json) as run:
        answer(run.report(html), as_json)


def verify(
    workflow: WorkflowOption = None,
    out_folder: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Check a store against its receipts.

    It hashes every shard, counts the rows and decodes a few latents. The exit code is 1 if a chunk is damaged.
    """
    with opened(workflow, out_folder, set_, as_json=as_json) as run:
        if not answer(run.verify(), as_json).ok:
            raise typer.Exit(1)


def export(
    dest: Annotated[str, typer.Argument(help="The folder to write; it must not exist, or be empty.", metavar="DEST")],
    to: Annotated[str, typer.Option("--to", help="webdataset, npy, parquet, hf, kohya-npz or mds.")],
    workflow: WorkflowOption = None,
    out_folder: OutOption = None,
    where: Annotated[
        str | None, typer.Option("--where", help="Write only rows for which this is true, e.g. 'people and words > 5'.")
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Write what is there of an unfinished store.")
    ] = False,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Write the accepted rows of a store as files of another format.

    A data card lies beside them. A stopped export leaves no folder DEST; run the same command again.
    """
    with opened(workflow, out_folder, set_, as_json=as_json) as run:
        answer(run.export(dest, to, where=where, unfinished=unfinished), as_json)


def push(
    to: Annotated[str, typer.Option("--to", help="The dataset repository on the hub.", metavar="OWNER/NAME")],
    workflow: WorkflowOption = None,
    out_folder: OutOption = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public. [default: private]")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files and their sizes, and send nothing.")
    ] = False,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Send a store to the Hugging Face hub, with receipts, settings and a data card.

    The token is that of `hf auth login` or of HF_TOKEN. Run the same command again to continue after a stop.
    """
    with opened(workflow, out_folder, set_, as_json=as_json) as run:
        answer(run.push(to, public=public, dry_run=dry_run), as_json)


def insights(
    workflow: WorkflowOption = None,
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    source: SourceOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    where: WhereOption = None,
    pictures: Annotated[bool, typer.Option(help="Read the image files too.")] = True,
    tokens: Annotated[bool, typer.Option(help="Count tokens with the text encoder of the workflow.")] = True,
    top: Annotated[int, typer.Option("--top", min=1, help="Number of activities to list.")] = 20,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Report the contents of a data set: people, activities, captions, files, duplicates.

    It writes reports/insights.html, .csv and .json into the run folder. --where selects rows by the same facts.
    """
    given = {"source": source, "images": images, "captions": captions, "where": where, "scheduler": scheduler}
    with opened(workflow, out_folder, set_, **given, as_json=as_json) as run:
        answer(run.insights(pictures=pictures, tokens=tokens, top=top), as_json)


def look(
    place: Annotated[
        str | None, typer.Argument(metavar="PLACE", help="A folder, zip, table or address of images.")
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", help="The same as PLACE, as the other commands take it.")
    ] = None,
    source: SourceOption = None,
    captions: CaptionsOption = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Rows to read.")] = 8,
    html: Annotated[str | None, typer.Option("--html", help="Write a page into this file.", metavar="FILE")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the first rows of a data set: pictures, captions, sizes, and what would be rejected.

    It counts all rows, and reads the images of the first ones. The page of --html is one file and makes no request.
    """
    given = place or images
    if not given or (place and images):
        raise typer.BadParameter("Give one place of images, such as: look photos")
    with report_errors():
        from daskt2i import look as look_at
        from daskt2i.display.first_rows import HALF, draws_pictures, look_table

        found = look_at(given, captions, source=source, rows=rows, html=html)
        for note in found.notes:
            complain(note, "yellow")
        write(found.to_json(), as_json, look_table(found, draws_pictures(out) and takes(sys.stdout, HALF)))


def estimate(
    workflow: WorkflowOption = None,
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    source: SourceOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    where: WhereOption = None,
    workers: Annotated[
        str | None, typer.Option(help="Numbers of workers to predict for, e.g. 1,2,8. [default: as encode uses]")
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="cpu, cuda, or cpu,cuda to compare. [default: run.device]")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Rows to measure. [default: as many as a minute allows]")
    ] = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Measure some rows, and predict time, disk, memory and cost of a whole encode.

    For the cost, set prices: in the workflow. The result is kept in reports/estimate.json. encode compares its own time
    with it.
    """
    given = {"source": source, "images": images, "captions": captions, "where": where, "scheduler": scheduler}
    with opened(workflow, out_folder, set_, **given, as_json=as_json) as run:
        counts = None if workers is None else whole_numbers(workers, "--workers")
        answer(run.estimate(counts, devices, rows), as_json)


def suggest(
    text: Annotated[str, typer.Argument(help="A few letters or words.")],
    workflow: WorkflowOption = None,
    out_folder: OutOption = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of suggestions.")] = 8,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Suggest prompts from the captions of a store."""
    with opened(workflow, out_folder, set_) as run:
        from daskt2i.display.insights import suggestions_view

        found = run.suggest(text, count)
        told = [{"text": one.text, "times": one.times, "why": one.why} for one in found]
        write({"text": text, "suggestions": told}, as_json, suggestions_view(found))


def scenes(
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Number of scenes.")] = 1000,
    out_folder: Annotated[str, typer.Option("--out", "-o", help="The folder to write.")] = "scenes",
    seed: Annotated[int, typer.Option("--seed", help="Another seed gives other scenes.")] = 0,
    shapes: Annotated[int, typer.Option("--shapes", min=1, max=2, help="Maximum number of shapes in a scene.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Draw scenes with captions, as a COCO folder.

    The folder contains images/*.jpg and captions.json.
    """
    with report_errors():
        from daskt2i.display.listener import progress_for
        from daskt2i.sources.scenes import write_scenes

        captions = write_scenes(expanded(out_folder, "out"), rows, seed, shapes, progress_for(err, as_json))
        result = {"out": str(captions.parent), "rows": rows, "captions": str(captions)}
        write(result, as_json, Text(f"{rows:,} scenes in {captions.parent}"))
