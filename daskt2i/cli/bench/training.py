"""The commands bench read, bench loaders, bench train and bench sample.

Covers: reading options, calling the benchmark.
Does not cover: measuring (`daskt2i.bench`), writing and showing reports (`cli.bench.command`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from daskt2i.addresses import expanded
from daskt2i.cli.bench.command import BenchWorkflowOption, RepeatsOption, report_folder, show, tell, typed
from daskt2i.cli.endings import report_errors
from daskt2i.cli.front import load
from daskt2i.cli.numbers import whole_numbers, words
from daskt2i.cli.options import JsonOption, PromptOption, SetOption
from daskt2i.config.samplers import SAMPLERS, SAMPLERS_TEXT

OutOption = Annotated[str, typer.Option("--out", "-o", help="The folder of the reports.")]
PlaceOption = Annotated[
    str | None, typer.Option("--dir", help="Folder for the temporary store. [default: the system's]")
]


def read(
    shapes: Annotated[str, typer.Option(help="demo, sd15 or sd15-full, with commas.")] = "demo,sd15,sd15-full",
    readers: Annotated[str, typer.Option(help="Numbers of reading threads, with commas.")] = "1,2",
    windows: Annotated[str, typer.Option(help="Numbers of shards to shuffle together, with commas.")] = "8",
    origins: Annotated[
        str, typer.Option("--from", help="memory, page cache or disk, with commas.")
    ] = "memory,page cache,disk",
    repeats: RepeatsOption = 5,
    place: PlaceOption = None,
    out_folder: OutOption = "runs/bench-read",
    as_json: JsonOption = False,
) -> None:
    """Time training samples out of a store, by readers, window and cache.

    One process reads stores of random numbers in real shapes, without a model.
    """
    with report_errors():
        from daskt2i.bench.read import ORIGINS, bench_read
        from daskt2i.errors import ConfigError

        folder = report_folder(out_folder)
        wanted = tuple(origin for origin in ORIGINS if origin in words(origins))
        if len(wanted) != len(words(origins)):
            raise ConfigError(f"--from is {origins!r}. Nothing was measured. Give {', '.join(ORIGINS)}, with commas.")
        report = bench_read(
            words(shapes),
            whole_numbers(readers, "--readers"),
            whole_numbers(windows, "--windows"),
            wanted,
            repeats=repeats,
            place=None if place is None else str(expanded(place, "--dir").absolute()),
            command=typed(),
            tell=tell,
        )
        show(report, folder, as_json)


def loaders(
    texts: Annotated[str, typer.Option(help="compact, full or both, with commas.")] = "compact,full",
    names: Annotated[
        str, typer.Option("--loaders", help="daskt2i, numpy, litdata, mosaicml-streaming, webdataset, with commas.")
    ] = "daskt2i,numpy,litdata,mosaicml-streaming,webdataset",
    repeats: RepeatsOption = 5,
    rows: Annotated[int, typer.Option("--rows", "-n", min=128, help="Rows of the data.")] = 2304,
    place: PlaceOption = None,
    environments: Annotated[
        str | None, typer.Option("--environments", help="Folder that keeps the environments of the other loaders.")
    ] = None,
    out_folder: OutOption = "runs/bench-loaders",
    as_json: JsonOption = False,
) -> None:
    """Compare our loader with others on the same rows.

    Each other loader gets an environment of its own, which needs a package index. All do the same work.
    """
    with report_errors():
        from daskt2i.bench.loaders.driver import bench_loaders

        folder = report_folder(out_folder)
        report = bench_loaders(
            words(texts),
            words(names),
            repeats=repeats,
            rows=rows,
            place=None if place is None else str(expanded(place, "--dir").absolute()),
            environments=None if environments is None else str(expanded(environments, "--environments").absolute()),
            command=typed(),
            tell=tell,
        )
        show(report, folder, as_json)


def train(
    workflow: BenchWorkflowOption = "demo",
    ranks: Annotated[str, typer.Option(help="Numbers of ranks, with commas.")] = "1,2",
    steps: Annotated[int, typer.Option(min=2, help="Steps of each launch; the first is not counted.")] = 30,
    shape: Annotated[str, typer.Option(help="Shape of the store: demo, sd15 or sd15-full.")] = "demo",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each rank. [default: cores / most ranks]")
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
    """Time training by ranks: samples/s, efficiency, and the parts of a step.

    The real trainer runs with the workflow's model and batch on a store of random numbers.
    """
    with report_errors():
        from daskt2i.bench.train import bench_train

        folder = report_folder(out_folder)
        settings = load(workflow, set_)
        report = bench_train(
            whole_numbers(ranks, "--ranks"),
            settings.train,
            settings.launch,
            shape=shape,
            steps=steps,
            threads=threads,
            repeats=repeats,
            place=None if place is None else str(expanded(place, "--dir").absolute()),
            spawner=spawner_of(scheduler),
            command=typed(),
            tell=tell,
        )
        show(report, folder, as_json)


def sample(
    pipeline: Annotated[
        str, typer.Option("--pipeline", help="A diffusers pipeline folder, as train writes it.")
    ] = "runs/demo/pipeline",
    steps: Annotated[str, typer.Option(help="Numbers of sampler steps, with commas.")] = "10,20",
    batches: Annotated[str, typer.Option(help="Batch sizes, with commas.")] = "1,4,16",
    prompts: PromptOption = [],  # noqa: B006
    guidance: Annotated[float, typer.Option(min=0, help="Weight of the prompt.")] = 3.0,
    sampler: Annotated[str, typer.Option(help=f"{SAMPLERS_TEXT}.")] = "dpm++",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Torch threads. [default: all cores]")] = None,
    repeats: RepeatsOption = 3,
    out_folder: OutOption = "runs/bench-sample",
    as_json: JsonOption = False,
) -> None:
    """Time drawing, by steps and batch.

    One process, which loads the pipeline before the clock starts.
    """
    with report_errors():
        from daskt2i.bench.sample import PROMPT, bench_sample
        from daskt2i.errors import ConfigError
        from daskt2i.machine.machine import this_machine

        folder = report_folder(out_folder)
        if sampler not in SAMPLERS:
            raise ConfigError(f"--sampler is {sampler!r}. Nothing was measured. Use {SAMPLERS_TEXT}.")
        report = bench_sample(
            expanded(pipeline, "--pipeline"),
            whole_numbers(steps, "--steps"),
            whole_numbers(batches, "--batches"),
            prompts=prompts or (PROMPT,),
            guidance=guidance,
            sampler=sampler,
            device=device,
            threads=threads or this_machine().cores,
            repeats=repeats,
            command=typed(),
            tell=tell,
        )
        show(report, folder, as_json)


def spawner_of(scheduler: str) -> Callable[[int, int], Any]:
    """A function that makes rank spawners: child processes for a pool, else workers of a new Dask cluster.

    Raises:
        ConfigError: there is no such scheduler.
    """
    from daskt2i.launch.rank_spawners import LocalRankSpawner
    from daskt2i.machine.machine import this_machine
    from daskt2i.plan import GIVEN, WorkerLayout
    from daskt2i.session.schedulers import Scheduler
    from daskt2i.session.session import Session

    chosen = Scheduler.parse(scheduler)

    @contextmanager
    def spawner(ranks: int, threads: int) -> Iterator[Any]:
        if chosen.is_pool:
            yield LocalRankSpawner(ranks)
            return
        with Session(chosen) as session:
            layout = WorkerLayout(ranks, threads, this_machine().memory // ranks, GIVEN)
            yield session.spawner(layout)[0]

    return spawner
