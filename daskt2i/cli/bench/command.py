"""The commands bench encode and bench scheduler.

Covers: reading options, calling the benchmark, showing the report and the addresses of its files.
Does not cover: measuring and reports (`daskt2i.bench`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from daskt2i.cli.console import complain, err, write
from daskt2i.cli.endings import report_errors
from daskt2i.cli.front import load
from daskt2i.cli.numbers import seconds, whole_numbers, words
from daskt2i.cli.options import CaptionsOption, ImagesOption, JsonOption, SetOption, SourceOption
from daskt2i.redact import command_line

if TYPE_CHECKING:
    from daskt2i.store.run_folder import RunFolder

app = typer.Typer(
    name="bench",
    help="Measure how fast each stage runs on this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

BenchWorkflowOption = Annotated[str, typer.Option("--workflow", "-w", help="A shipped workflow, or a YAML file.")]
BenchOutOption = Annotated[
    str | None, typer.Option("--out", "-o", help="The folder of the reports. [default: runs/bench-WORKFLOW]")
]
RepeatsOption = Annotated[int, typer.Option("--repeats", min=1, help="Runs of each cell. Reports show their median.")]


@app.command("encode")
def bench_encode(
    workflow: BenchWorkflowOption = "demo",
    workers: Annotated[str, typer.Option("--workers", help="Numbers of workers, with commas.")] = "1,2,4,8",
    schedulers: Annotated[
        str, typer.Option("--schedulers", help="serial, multiprocessing, joblib, local, …, or naive, with commas.")
    ] = "serial,multiprocessing,joblib,local,naive",
    parts: Annotated[str, typer.Option("--parts", help="vae, text or both, with commas.")] = "both",
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Rows of each run.")] = 256,
    repeats: RepeatsOption = 3,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Torch threads of each worker, except naive.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the stores of the runs.")] = False,
    out_folder: BenchOutOption = None,
    source: SourceOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Time encoding by workers and schedulers.

    Reports time, speed-up, efficiency, time by stage, and the share of the machine's peak.
    """
    with report_errors():
        from daskt2i.bench.encode.driver import EncodeBench, EncodeBenchSettings

        settings = load(workflow, set_, images, captions, source)
        wanted = EncodeBenchSettings(
            schedulers=words(schedulers),
            workers=whole_numbers(workers, "--workers"),
            parts=words(parts),  # type: ignore[arg-type]  # checked by `cells`
            rows=rows,
            repeats=repeats,
            threads=threads,
            keep=keep,
        )
        place = f"runs/bench-{settings.name}" if out_folder is None else out_folder
        folder = report_folder(place, settings.run.storage_options)
        show(EncodeBench(settings, folder, wanted, tell).run(typed()), folder, as_json)


@app.command("scheduler")
def bench_scheduler(
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Rows of a whole run.")] = 1_000_000,
    chunks: Annotated[int, typer.Option("--chunks", min=1, help="Chunks of a whole run.")] = 4000,
    workers: Annotated[str, typer.Option("--workers", help="Numbers of workers, with commas.")] = "2,8,32",
    chunk_seconds: Annotated[
        str, typer.Option("--chunk-seconds", help="Seconds of a chunk, with commas; 0 shows only the overhead.")
    ] = "0,0.05,0.5",
    repeats: RepeatsOption = 1,
    arrays: Annotated[bool, typer.Option("--arrays/--no-arrays", help="Write tiny arrays too.")] = False,
    max_seconds: Annotated[float, typer.Option("--max-seconds", min=1, help="A longer run gets fewer chunks.")] = 120.0,
    most_seconds: Annotated[
        float | None, typer.Option("--most-seconds", min=1, hidden=True, help="The old name of --max-seconds.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the run folders.")] = False,
    out_folder: Annotated[str, typer.Option("--out", "-o", help="The folder of the reports.")] = "runs/bench-scheduler",
    as_json: JsonOption = False,
) -> None:
    """Simulate scale: how many workers one scheduler keeps busy.

    Driver, scheduler and receipts are real; the workers only sleep.
    """
    with report_errors():
        from daskt2i.bench.scheduler import SchedulerBench, SimulationSettings

        if most_seconds is not None:
            complain("--most-seconds is now called --max-seconds; the old name still works.", "yellow")
        folder = report_folder(out_folder)
        asked = SimulationSettings(
            rows=rows,
            chunks=chunks,
            workers=whole_numbers(workers, "--workers"),
            chunk_seconds=seconds(chunk_seconds, "--chunk-seconds"),
            repeats=repeats,
            arrays=arrays,
            max_seconds=max_seconds if most_seconds is None else most_seconds,
            keep=keep,
        )
        show(SchedulerBench(folder, asked, tell).run(typed()), folder, as_json)


def tell(line: str) -> None:
    """Print a line of progress on standard error."""
    err.print(Text(line, style="dim"), soft_wrap=True)


def show(report: Any, folder: Any, as_json: bool, also: Mapping[str, str] = {}) -> None:
    """Write the report's files, and print it.

    Args:
        also: kind -> text of more files.

    Raises:
        typer.Exit: 130 if the benchmark was stopped, 1 if a cell failed.
    """
    from daskt2i.bench.page import save

    places = save(report, folder, also)
    lines = [Text(f"{'' if kind == 'no png' else 'written  '}{place}", style="dim") for kind, place in places.items()]
    write({**report.to_json(), "files": places}, as_json, Group(report.view(), *lines))
    if not report.complete:
        raise typer.Exit(130)
    if any(flag.startswith("Failed") for cell in report.cells for flag in cell.flags):
        raise typer.Exit(1)


def report_folder(place: str, storage_options: Mapping[str, Any] | None = None) -> RunFolder:
    """The folder of the reports, which is refused now if it is somebody else's, and not after the measurement.

    Raises:
        ConfigError, StoreError: there can be no run folder at this place.
    """
    from daskt2i.store.ownership import refuse_foreign
    from daskt2i.store.run_folder import RunFolder

    folder = RunFolder(place, storage_options)
    refuse_foreign(folder)
    return folder


def typed() -> str:
    """The command as it was typed, without the folder of Python or of the script."""
    program = Path(sys.argv[0])
    start = "python -m daskt2i.workflow" if program.stem in ("workflow", "__main__") else program.name
    return f"{start} {command_line(sys.argv[1:])}"
