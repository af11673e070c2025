"""The command bench peers.

Covers: reading options, calling the benchmark.
Does not cover: measuring (`daskt2i.bench.peers`), writing and showing reports (`cli.bench.command`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from daskt2i.addresses import expanded
from daskt2i.cli.bench.command import BenchWorkflowOption, report_folder, show, tell, typed
from daskt2i.cli.endings import report_errors
from daskt2i.cli.front import load
from daskt2i.cli.numbers import words
from daskt2i.cli.options import CaptionsOption, ImagesOption, JsonOption, SetOption, SourceOption


def peers(
    workflow: BenchWorkflowOption = "coco-sd15-random",
    names: Annotated[
        str, typer.Option("--peers", help="ray, ray-tuned, datasets, datasets-tuned, naive, with commas.")
    ] = "ray,ray-tuned,datasets,datasets-tuned,naive",
    rows: Annotated[int, typer.Option("--rows", "-n", min=2, help="Rows of each run.")] = 32,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images in a batch of the other tools.")] = 4,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes of each tool. [default: one a core]")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Rounds. Reports show medians.")] = 3,
    max_seconds: Annotated[float, typer.Option("--max-seconds", min=1, help="A longer run is stopped.")] = 1800.0,
    place: Annotated[
        str | None, typer.Option("--dir", help="Folder for the temporary files. [default: the system's]")
    ] = None,
    environments: Annotated[
        str | None, typer.Option("--environments", help="Folder that keeps the environments of the other tools.")
    ] = None,
    out_folder: Annotated[str, typer.Option("--out", "-o", help="The folder of the reports.")] = "runs/bench-peers",
    source: SourceOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Compare our encoding with Ray Data, datasets.map and a plain loop.

    Each other tool gets an environment of its own, which needs a package index. All use the same models, photographs
    and cores, and must make the same latents.
    """
    with report_errors():
        from daskt2i.bench.peers.driver import PeerBench, PeerSettings

        folder = report_folder(out_folder)
        wanted = PeerSettings(
            peers=words(names),
            rows=rows,
            batch=batch,
            workers=workers,
            rounds=repeats,
            place=None if place is None else str(expanded(place, "--dir").absolute()),
            environments=None if environments is None else str(expanded(environments, "--environments").absolute()),
            max_seconds=max_seconds,
        )
        show(PeerBench(load(workflow, set_, images, captions, source), wanted, tell).run(typed()), folder, as_json)
