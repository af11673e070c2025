"""The commands that measure training and what is around it: bench read, bench train, bench sample.

Covers: reading options, calling what measures.
Does not cover: measuring (`daskt2i.bench`), where reports are written and how they are shown (`cli.bench`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from daskt2i.cli.bench import BenchWorkflowOption, RepeatsOption, show, tell, typed
from daskt2i.cli.console import report_errors
from daskt2i.cli.front import load
from daskt2i.cli.numbers import whole_numbers, words
from daskt2i.cli.options import JsonOption, PromptOption, SetOption

OutOption = Annotated[str, typer.Option("--out", "-o", help="The folder of the reports.")]
PlaceOption = Annotated[
    str | None, typer.Option("--dir", help="Where the store is written meanwhile. [default: a temporary folder]")
]


def read(
    shapes: Annotated[str, typer.Option(help="Of demo, sd15, sd15-full, with commas.")] = "demo,sd15,sd15-full",
    readers: Annotated[str, typer.Option(help="Numbers of reading threads, with commas.")] = "1,2",
    windows: Annotated[str, typer.Option(help="Shards that are shuffled together, with commas.")] = "8",
    origins: Annotated[
        str, typer.Option("--from", help="Of memory, page cache, disk, with commas.")
    ] = "memory,page cache,disk",
    repeats: RepeatsOption = 5,
    place: PlaceOption = None,
    out_folder: OutOption = "runs/bench-read",
    as_json: JsonOption = False,
) -> None:
    """Time training samples out of a store, by readers, window and cache.

    Stores of random numbers in real shapes; one process, no model.
    """
    with report_errors():
        from daskt2i.bench.read import ORIGINS, bench_read
        from daskt2i.errors import ConfigError
        from daskt2i.store.run_folder import RunFolder

        wanted = tuple(origin for origin in ORIGINS if origin in words(origins))
        if len(wanted) != len(words(origins)):
            raise ConfigError(f"--from is {origins!r}; give some of {', '.join(ORIGINS)}. Nothing was measured.")
        report = bench_read(
            words(shapes),
            whole_numbers(readers, "--readers"),
            whole_numbers(windows, "--windows"),
            wanted,
            repeats=repeats,
            place=place,
            command=typed(),
            tell=tell,
        )
        show(report, RunFolder(out_folder), as_json)


def train(
    workflow: BenchWorkflowOption = "demo",
    ranks: Annotated[str, typer.Option(help="Numbers of ranks, with commas.")] = "1,2",
    steps: Annotated[int, typer.Option(min=2, help="Of each launch; the first does not count.")] = 30,
    shape: Annotated[str, typer.Option(help="The store: demo, sd15 or sd15-full.")] = "demo",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of each rank. [default: the cores among the most ranks]")
    ] = None,
    scheduler: Annotated[
        str, typer.Option("--scheduler", "-s", help="multiprocessing (child processes), or local (Dask workers).")
    ] = "multiprocessing",
    repeats: RepeatsOption = 3,
    place: PlaceOption = None,
    out_folder: OutOption = "runs/bench-train",
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Time training by ranks: samples/s, efficiency, and where a step's time goes.

    The real trainer with the workflow's model and batch, on a store of random numbers.
    """
    with report_errors():
        from daskt2i.bench.train import bench_train
        from daskt2i.store.run_folder import RunFolder

        settings = load(workflow, set_)
        report = bench_train(
            whole_numbers(ranks, "--ranks"),
            settings.train,
            settings.launch,
            shape=shape,
            steps=steps,
            threads=threads,
            repeats=repeats,
            place=place,
            spawner=spawner_of(scheduler),
            command=typed(),
            tell=tell,
        )
        show(report, RunFolder(out_folder), as_json)


def sample(
    pipeline: Annotated[
        Path, typer.Option("--pipeline", help="A diffusers pipeline folder, as train makes it.")
    ] = Path("runs/demo/pipeline"),
    steps: Annotated[str, typer.Option(help="Of the sampler, with commas.")] = "10,20",
    batches: Annotated[str, typer.Option(help="Pictures at once, with commas.")] = "1,4,16",
    prompts: PromptOption = [],  # noqa: B006
    guidance: Annotated[float, typer.Option(min=0, help="Weight of the prompt.")] = 3.0,
    sampler: Annotated[str, typer.Option(help="ddim, dpm++ or euler.")] = "dpm++",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Torch threads. [default: all cores]")] = None,
    repeats: RepeatsOption = 3,
    out_folder: OutOption = "runs/bench-sample",
    as_json: JsonOption = False,
) -> None:
    """Time pictures, by steps and batch.

    One process that has loaded the pipeline already.
    """
    with report_errors():
        from daskt2i.bench.sample import PROMPT, bench_sample
        from daskt2i.errors import ConfigError
        from daskt2i.machine.machine import this_machine
        from daskt2i.store.run_folder import RunFolder

        if sampler not in ("dpm++", "ddim", "euler"):
            raise ConfigError(f"--sampler is {sampler!r}; it can be ddim, dpm++ or euler. Nothing was measured.")
        report = bench_sample(
            pipeline.expanduser(),
            whole_numbers(steps, "--steps"),
            whole_numbers(batches, "--batches"),
            prompts=prompts or (PROMPT,),
            guidance=guidance,
            sampler=sampler,  # type: ignore[arg-type]  # checked above
            device=device,
            threads=threads or this_machine().cores,
            repeats=repeats,
            command=typed(),
            tell=tell,
        )
        show(report, RunFolder(out_folder), as_json)


def spawner_of(scheduler: str) -> Callable[[int, int], Any]:
    """Where ranks run: child processes for a pool's name, else the workers of a Dask cluster started for them.

    Raises:
        ConfigError: no such scheduler.
    """
    from daskt2i.launch.rank_spawners import LocalRankSpawner
    from daskt2i.machine.machine import this_machine
    from daskt2i.plan import WorkerLayout
    from daskt2i.session.schedulers import Scheduler
    from daskt2i.session.session import Session

    chosen = Scheduler.parse(scheduler)

    @contextmanager
    def spawner(ranks: int, threads: int) -> Iterator[Any]:
        if chosen.is_pool:
            yield LocalRankSpawner(ranks)
            return
        with Session(chosen) as session:
            layout = WorkerLayout(ranks, threads, this_machine().memory // ranks, "as asked for")
            yield session.spawner(layout)[0]

    return spawner
