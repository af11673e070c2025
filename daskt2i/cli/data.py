"""The commands about data: encode, status, verify, insights, suggest, scenes.

Covers: reading options, calling what does the work, showing what came of it.
Does not cover: how output and errors look (`console`), the commands about models (`cli.model`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from daskt2i.cli.console import answer, err, report_errors
from daskt2i.cli.options import (
    CaptionsOption,
    DryRunOption,
    ImagesOption,
    JsonOption,
    OutOption,
    SchedulerOption,
    SetOption,
    WhereOption,
    WorkflowOption,
)


def encode(
    workflow: WorkflowOption = "demo",
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    where: WhereOption = None,
    set_: SetOption = [],  # noqa: B006
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Encode images and captions into a Zarr store.

    The same command again goes on where it stopped.
    """
    with report_errors():
        from daskt2i.config.workflow_file import load_workflow
        from daskt2i.display.encode import plan_table, summary_table
        from daskt2i.display.listener import progress_for
        from daskt2i.encode.prepare import prepare
        from daskt2i.session.schedulers import Scheduler, open_executor
        from daskt2i.session.worker_layout import encode_layout

        settings = load_workflow(workflow, with_where(set_, where), images, captions)
        chosen = Scheduler.parse(scheduler or settings.run.scheduler)
        prepared = prepare(settings, out_folder or f"runs/{settings.name}", draw=not dry_run)
        layout = encode_layout(chosen, prepared)
        if dry_run:
            answer(plan_json(prepared, layout), as_json, plan_table(prepared, None if chosen.address else layout))
            return
        from daskt2i.encode.driver import encode as run_encode
        from daskt2i.encode.driver import failed_for_good

        if not as_json:
            err.print(plan_table(prepared, None if chosen.address else layout))
        summary = run_encode(prepared, open_executor(chosen, layout), progress_for(err, as_json))
        answer(summary.to_json(), as_json, summary_table(summary))
        if summary.failed:
            raise failed_for_good(summary, prepared.folder)


def status(
    workflow: WorkflowOption = "demo",
    out_folder: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Show how far a run folder has come."""
    with report_errors():
        from daskt2i.display.encode import status_table
        from daskt2i.store.status import status as run_status

        found = run_status(folder_of(workflow, out_folder, set_))
        answer(found.to_json(), as_json, status_table(found))


def verify(
    workflow: Annotated[
        str | None, typer.Option("--workflow", "-w", help="As it was encoded; by default the folder's own settings.")
    ] = None,
    out_folder: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Check a store against its receipts.

    Every shard is hashed again, the rows are counted, a sample is decoded back. Exit code 1 when a chunk is bad.
    """
    with report_errors():
        from daskt2i.config.workflow_file import load_workflow
        from daskt2i.display.encode import verdict_table
        from daskt2i.display.listener import progress_for
        from daskt2i.encode.saved_workflow import settings_of
        from daskt2i.encode.verify import verify as run_verify

        folder = folder_of(workflow or "demo", out_folder, set_)
        settings = load_workflow(workflow, set_) if workflow else settings_of(folder)
        verdict = run_verify(folder, settings, progress_for(err, as_json), trusted=workflow is not None)
        for note in verdict.notes if as_json else []:
            err.print(Text(note, style="yellow"), soft_wrap=True)
        answer(verdict.to_json(), as_json, verdict_table(verdict))
        if not verdict.ok:
            raise typer.Exit(1)


def insights(
    workflow: WorkflowOption = "demo",
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    where: WhereOption = None,
    pictures: Annotated[bool, typer.Option(help="Look at the image files too.")] = True,
    tokens: Annotated[bool, typer.Option(help="Count tokens by the workflow's text encoder.")] = True,
    top: Annotated[int, typer.Option("--top", min=1, help="How many activities to list.")] = 20,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Report what a data set holds: people, activities, captions, files, repeats.

    It writes reports/insights.html, .csv and .json into the run folder. What it finds can select rows: --where.
    """
    with report_errors():
        from daskt2i.config.workflow_file import load_workflow
        from daskt2i.display.insights import report_view
        from daskt2i.display.listener import progress_for
        from daskt2i.insights import driver as stage
        from daskt2i.session.schedulers import Scheduler, open_executor
        from daskt2i.session.worker_layout import insights_layout
        from daskt2i.store.run_folder import RunFolder

        settings = load_workflow(workflow, with_where(set_, where), images, captions)
        dataset = stage.settled(settings)
        chosen = Scheduler.parse(scheduler or settings.run.scheduler)
        report = stage.insights(
            dataset,
            RunFolder(out_folder or f"runs/{settings.name}", settings.run.storage_options),
            open_executor(chosen, insights_layout(chosen, tokens=tokens)),
            pictures=pictures,
            tokens=tokens,
            top=top,
            listener=progress_for(err, as_json),
        )
        answer(report.to_json(), as_json, report_view(report))


def suggest(
    text: Annotated[str, typer.Argument(help="A few letters or words.")],
    workflow: WorkflowOption = "demo",
    out_folder: OutOption = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many suggestions.")] = 8,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Suggest prompts from the captions of a store."""
    with report_errors():
        from daskt2i.display.insights import suggestions_view
        from daskt2i.insights.suggest import Suggestions

        folder = folder_of(workflow, out_folder, set_)
        found = Suggestions.of_store(folder.root, folder.storage_options).suggest(text, count)
        told = [{"text": one.text, "times": one.times, "why": one.why} for one in found]
        answer({"text": text, "suggestions": told}, as_json, suggestions_view(found))


def scenes(
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many scenes.")] = 1000,
    out_folder: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")] = Path("scenes"),
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other scenes.")] = 0,
    shapes: Annotated[int, typer.Option("--shapes", min=1, max=2, help="Most shapes in a scene.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Draw scenes with captions, as a COCO folder.

    It holds images/*.jpg and captions.json.
    """
    with report_errors():
        from daskt2i.display.listener import progress_for
        from daskt2i.sources.scenes import write_scenes

        captions = write_scenes(out_folder, rows, seed, shapes, progress_for(err, as_json))
        result = {"out": str(captions.parent), "rows": rows, "captions": str(captions)}
        answer(result, as_json, Text(f"{rows:,} scenes in {captions.parent}"))


def plan_json(prepared: Any, layout: Any) -> dict[str, Any]:
    return {
        "rows": prepared.source_info.rows,
        "captions": prepared.source_info.captions,
        "chunks": len(prepared.grid),
        "workers": layout.workers,
        "threads": layout.threads,
        "memory_per_worker": prepared.requirements.worker_memory,
        "bytes": prepared.requirements.disk,
        "precision": prepared.precision,
        "out": str(prepared.folder),
        **({"left_out": prepared.source_info.left_out} if prepared.workflow.dataset.where else {}),
    }


def with_where(sets: list[str], where: str | None) -> list[str]:
    """The `--set` texts, with `--where` among them."""
    return sets if where is None else [*sets, f"dataset.where={json.dumps(where)}"]


def folder_of(workflow: str, out_folder: str | None, sets: list[str]) -> Any:
    from daskt2i.config.workflow_file import load_workflow

    return run_folder(load_workflow(workflow, sets), out_folder)


def run_folder(settings: Any, out_folder: str | None) -> Any:
    from daskt2i.store.run_folder import RunFolder

    return RunFolder(out_folder or f"runs/{settings.name}", settings.run.storage_options)
