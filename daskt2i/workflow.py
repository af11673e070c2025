"""The command line. The only module that prints.

    python -m daskt2i.workflow encode [--workflow NAME|FILE] [--scheduler local] [--out DIR] [--set section.key=value] …

Results go to standard output, everything else (progress, notes, errors) to standard error. The exit code is 0 when all
is well, 1 when something failed (the sentence says what), 2 for a wrong command line, 130 after Ctrl-C.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from daskt2i import __version__
from daskt2i.errors import Daskt2iError, Stopped, StoreError

app = typer.Typer(
    name="daskt2i",
    help="Image-caption data to training-ready latents, on CPUs or GPUs, under Dask.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
out = Console(soft_wrap=False, highlight=False)
err = Console(stderr=True, highlight=False)

WorkflowOption = Annotated[str, typer.Option("--workflow", "-w", help="A shipped workflow, or a YAML file.")]
OutOption = Annotated[str | None, typer.Option("--out", "-o", help="The run folder. [default: runs/WORKFLOW]")]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        "-s",
        help="serial, multiprocessing[:N], joblib[:N], local[:N], tcp://host:port, or a cluster file. [default: local]",
    ),
]
SetOption = Annotated[list[str], typer.Option("--set", help="section.key=value, for any setting; may be repeated.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object, and nothing else, on standard output.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]
ImagesOption = Annotated[
    str | None, typer.Option("--images", help="A folder, zip or address of images, for any workflow.")
]
CaptionsOption = Annotated[
    str | None, typer.Option("--captions", help="The COCO caption file that goes with --images.")
]
WhereOption = Annotated[
    str | None, typer.Option("--where", help="Keep the rows of which it is true, e.g. 'people and not duplicate'.")
]


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Image-caption data to training-ready latents, on CPUs or GPUs, under Dask."""
    if version:
        out.print(f"daskt2i {__version__}")
        raise typer.Exit


@app.command()
def encode(
    workflow: WorkflowOption = "demo",
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    where: WhereOption = None,
    set_: SetOption = [],  # noqa: B006  # typer reads it, nobody changes it
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Encode images and captions into a Zarr store.

    The same command again goes on where it stopped.
    """
    with _sentences():
        from daskt2i import cluster, terminal
        from daskt2i.config import load_workflow
        from daskt2i.prepare import prepare

        settings = load_workflow(workflow, _with_where(set_, where), images, captions)
        chosen = cluster.Scheduler.parse(scheduler or settings.run.scheduler)
        prepared = prepare(settings, out_folder or f"runs/{settings.name}", draw=not dry_run)
        crew = cluster.crew_for(chosen, prepared)
        if dry_run:
            _print(_plan_json(prepared, crew), as_json, terminal.plan_table(prepared, None if chosen.address else crew))
            return
        from daskt2i.encode import encode as run_encode

        if not as_json:
            err.print(terminal.plan_table(prepared, None if chosen.address else crew))
        with terminal.EncodeProgress(err, prepared.source_info.rows) as progress:
            summary = run_encode(prepared, cluster.open_executor(chosen, crew), progress)
        _print(summary.to_json(), as_json, terminal.summary_table(summary))
        if summary.failed:
            count = len(summary.failed)
            listed = ", ".join(map(str, summary.failed[:20])) + ", …" * (len(summary.failed) > 20)
            raise StoreError(
                f"{count} chunk{'s' * (count != 1)} failed for good: {listed}. All others are in {summary.store}; the "
                f"tracebacks are in {prepared.folder.address('errors')}. The same command tries those chunks again."
            )


@app.command()
def status(
    workflow: WorkflowOption = "demo",
    out_folder: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Show how far a run folder has come."""
    with _sentences():
        from daskt2i import terminal
        from daskt2i.status import status as run_status

        found = run_status(_folder(workflow, out_folder, set_))
        _print(found.to_json(), as_json, terminal.status_table(found))


@app.command()
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
    with _sentences():
        from daskt2i import terminal
        from daskt2i.config import load_workflow
        from daskt2i.verify import settings_of
        from daskt2i.verify import verify as run_verify

        folder = _folder(workflow or "demo", out_folder, set_)
        settings = load_workflow(workflow, set_) if workflow else settings_of(folder)
        tell = terminal.counting(err, "chunks checked:")
        verdict = run_verify(folder, settings, tell, trusted=workflow is not None)
        for note in verdict.notes if as_json else []:
            err.print(Text(note, style="yellow"), soft_wrap=True)
        _print(verdict.to_json(), as_json, terminal.verdict_table(verdict))
        if not verdict.ok:
            raise typer.Exit(1)


@app.command()
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
    with _sentences():
        from daskt2i import cluster, terminal
        from daskt2i import insights as stage
        from daskt2i.config import load_workflow
        from daskt2i.folder import RunFolder
        from daskt2i.insights_view import report_view

        settings = load_workflow(workflow, _with_where(set_, where), images, captions)
        dataset = stage.settled(settings)
        chosen = cluster.Scheduler.parse(scheduler or settings.run.scheduler)
        report = stage.insights(
            dataset,
            RunFolder(out_folder or f"runs/{settings.name}", settings.run.storage_options),
            cluster.open_executor(chosen, stage.crew_for_insights(chosen.workers, chosen.kind, tokens=tokens)),
            pictures=pictures,
            tokens=tokens,
            top=top,
            progress=terminal.counting(err, "images read:"),
        )
        _print(report.to_json(), as_json, report_view(report))


@app.command()
def suggest(
    text: Annotated[str, typer.Argument(help="A few letters or words.")],
    workflow: WorkflowOption = "demo",
    out_folder: OutOption = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many suggestions.")] = 8,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Suggest prompts from the captions of a store."""
    with _sentences():
        from daskt2i.insights_view import suggestions_view
        from daskt2i.suggest import Suggestions

        folder = _folder(workflow, out_folder, set_)
        found = Suggestions.of_store(folder.root, folder.storage_options).suggest(text, count)
        told = [{"text": one.text, "times": one.times, "why": one.why} for one in found]
        _print({"text": text, "suggestions": told}, as_json, suggestions_view(found))


@app.command()
def scenes(
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many scenes.")] = 1000,
    out_folder: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")] = Path("scenes"),
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other scenes.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Draw scenes with captions, as a COCO folder.

    It holds images/*.jpg and captions.json.
    """
    with _sentences():
        from daskt2i import terminal
        from daskt2i.sources.scenes import write_scenes

        tell = terminal.counting(err, "scenes drawn:")
        captions = write_scenes(out_folder, rows, seed, lambda done: tell(done, rows))
        result = {"out": str(captions.parent), "rows": rows, "captions": str(captions)}
        _print(result, as_json, Text(f"{rows:,} scenes in {captions.parent}"))


def _plan_json(prepared: Any, crew: Any) -> dict[str, Any]:
    return {
        "rows": prepared.source_info.rows,
        "captions": prepared.source_info.captions,
        "chunks": len(prepared.plan),
        "workers": crew.workers,
        "threads": crew.threads,
        "memory_per_worker": prepared.cost.worker_memory,
        "bytes": prepared.cost.disk,
        "precision": prepared.precision,
        "out": str(prepared.folder),
        **({"left_out": prepared.source_info.left_out} if prepared.workflow.dataset.where else {}),
    }


def _with_where(sets: list[str], where: str | None) -> list[str]:
    return sets if where is None else [*sets, f"dataset.where={json.dumps(where)}"]


def _folder(workflow: str, out_folder: str | None, sets: list[str]) -> Any:
    from daskt2i.config import load_workflow
    from daskt2i.folder import RunFolder

    settings = load_workflow(workflow, sets)
    return RunFolder(out_folder or f"runs/{settings.name}", settings.run.storage_options)


def _print(data: dict[str, Any], as_json: bool, table: Any) -> None:
    if as_json:
        sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    else:
        out.print(table)


@contextmanager
def _sentences() -> Iterator[None]:
    """Every way out is one sentence. SIGTERM (a batch system ending the job) stops as cleanly as Ctrl-C."""

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except Stopped as error:
        _complain(str(error), "yellow")
        raise typer.Exit(130) from None
    except KeyboardInterrupt:
        _complain("Stopped. What is committed stays; the same command goes on from there.", "yellow")
        raise typer.Exit(130) from None
    except Daskt2iError as error:
        _complain(f"error: {' '.join(str(error).split())}")
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except Exception as error:
        name = tempfile.mkstemp(prefix="daskt2i-", suffix=".log")[1]
        Path(name).write_text(traceback.format_exc(), encoding="utf-8")
        said = " ".join(str(error).split())
        _complain(
            f"error: {type(error).__name__}: {said}. This was not foreseen. What is committed stays, and the same "
            f"command goes on; the traceback is in {name}."
        )
        raise typer.Exit(1) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _complain(text: str, style: str = "red") -> None:
    err.print(Text(text, style=style), soft_wrap=True)


def main() -> None:
    """The `daskt2i` script."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are the parallelism
    app()


if __name__ == "__main__":
    main()
