"""The scaling of training over ranks: the real trainer does some steps on a store of random numbers: `bench train`.

Covers: samples per second and efficiency by ranks, shares of a step's time, the start.
Does not cover: learning (the numbers are random), the stores (`stores`), reading alone (`read`).

Gradients are exchanged during the backward pass, so the duration of the exchange says little. `exchange` is its cost:
the time from sending the last gradients of a rank until those of all ranks have arrived. A DDP communication hook
measures it (`TrainState`). Waiting for a slower rank is included. The first step is not counted.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from daskt2i.bench.report import BenchReport, Cell, Column, Curve, Plot, spread
from daskt2i.bench.stores import MARK, shape_named, write_random
from daskt2i.config.settings import LaunchSettings, TrainSettings
from daskt2i.errors import ConfigError, Daskt2iError
from daskt2i.events import LaunchEvent
from daskt2i.launch.launcher import launch
from daskt2i.launch.rank_spawners import RankSpawner
from daskt2i.loader.dataset import SAMPLED, SAMPLES
from daskt2i.machine.machine import this_machine
from daskt2i.store.run_folder import PIPELINE, TRAIN, RunFolder
from daskt2i.train.denoiser_rank import DenoiserJob

SHARES = ("waiting", "forward", "backward", "exchange", "optimiser")
"""Shares of rank 0's time. The rest up to 1 is: figures over all ranks, events, noise of the machine."""

COLUMNS = (
    Column("ranks", "count"),
    Column("threads", "count", meaning="Torch threads of each rank."),
    Column("rate", "rate", "median", "speed", unit="samples", meaning="Over all ranks, without the first step."),
    Column("rate_low", "rate", "least", "speed", unit="samples"),
    Column("rate_high", "rate", "most", "speed", unit="samples"),
    Column("speedup", "times", "speed-up", "speed", meaning="Rate divided by that of the fewest ranks."),
    Column("efficiency", "share", "efficiency", "speed", meaning="Speed-up divided by the cores used."),
    Column("start_seconds", "seconds", "start", "speed", meaning="Time until the first step begins, median."),
    Column("waiting", "share", "data", group="shares of a step", meaning="Waiting for a batch."),
    Column("forward", "share", group="shares of a step"),
    Column("backward", "share", group="shares of a step", meaning="Includes exchange at the same time."),
    Column("exchange", "share", "all-reduce", group="shares of a step", meaning="From last sent to all received."),
    Column("optimiser", "share", group="shares of a step", meaning="Muon also sums updates over ranks."),
    Column("rest", "share", group="shares of a step"),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One launch: samples/s of all ranks, shares of rank 0's time (on a GPU only `waiting`), seconds to start."""

    rate: float
    shares: dict[str, float]
    start_seconds: float


SpawnerFor = Callable[[int, int], Any]
"""(ranks, threads) -> a context manager that gives the `RankSpawner` for the ranks."""


@contextmanager
def on_this_machine(ranks: int, threads: int) -> Iterator[RankSpawner]:
    """Ranks as child processes of this process."""
    from daskt2i.launch.rank_spawners import LocalRankSpawner

    yield LocalRankSpawner(ranks)


def bench_train(
    ranks: Sequence[int],
    train: TrainSettings,
    ways: LaunchSettings,
    *,
    shape: str = "demo",
    rows: int | None = None,
    steps: int = 30,
    threads: int | None = None,
    repeats: int = 3,
    place: str | None = None,
    spawner: SpawnerFor = on_this_machine,
    command: str = "",
    tell: Callable[[str], None] = lambda text: None,
) -> BenchReport:
    """Measure each number of ranks.

    Args:
        ranks: numbers of ranks.
        train: model, batch and objective; its `steps` and `validation` are not used.
        ways: device, precision, accumulation and cache.
        shape: shape of the store, a name in `bench.stores.SHAPES`.
        rows: rows of the store; None: those of the shape.
        steps: steps of each launch; the first is not counted.
        threads: threads of each rank; by default the cores divided by the largest number of ranks, the same for all.
        place: folder for the store, which all ranks can read; None: the system's temporary folder.
        spawner: makes the rank spawner.
        command: the command as it was typed.
        tell: called with a line for each launch.

    Raises:
        ConfigError: there is no such shape, or the ranks do not divide the batch; nothing was started.
        StoreFull, StoreError: the store cannot be written.
    """
    made = shape_named(shape)
    if rows is not None:
        made = dataclasses.replace(made, rows=rows)
    if wrong := [n for n in ranks if train.batch % n]:
        raise ConfigError(
            f"{wrong[0]} ranks cannot share a batch of {train.batch} equally, so nothing was started. Use other "
            "numbers of ranks (ranks), or change train.batch."
        )
    if steps < 2:
        raise ConfigError("bench train needs at least 2 steps (steps): the first is not counted. Nothing was started.")
    cores = this_machine().cores
    if threads is None:
        threads = max(1, cores // max(ranks))
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory(dir=place, prefix="daskt2i-bench-") as there:
        folder = RunFolder(there)
        write_random(folder, made)
        job = _job(folder, train.model_copy(update={"steps": steps, "validation": 0}), ways)
        complete = True
        try:
            for count in ranks:
                base = cells[0] if cells else None
                cells.append(_cell(folder, job, count, threads, repeats, spawner, cores, base, tell))
        except KeyboardInterrupt:
            complete = False
    return BenchReport(
        name="bench-train",
        title=f"Training by ranks: {steps} steps of {train.batch} samples, store {shape}",
        command=command,
        columns=COLUMNS,
        cells=tuple(cells),
        facts={
            "steps": steps,
            "batch": train.batch,
            "optimiser": train.optimiser,
            "precision": ways.precision,
            "repeats": repeats,
            "preset": train.model.preset or "none",
        },
        notes=(
            "all-reduce is the cost of the exchange of gradients: from sending a rank's last gradients until those of "
            "all ranks have arrived. It includes waiting for a slower rank. Earlier exchange is in backward.",
        ),
        plots=tuple(_plots([cell for cell in cells if "rate" in cell.values])),
        complete=complete,
    )


def trial(folder: RunFolder, job: DenoiserJob, ranks: int, threads: int, spawner: RankSpawner) -> Trial:
    """Launch the real trainer once, from the first step to the last.

    Raises:
        Daskt2iError: the training failed.
    """
    for name in (TRAIN, PIPELINE):  # remove checkpoints and pipeline of the launch before
        shutil.rmtree(folder.local_path(name), ignore_errors=True)
    started: list[float] = []

    def listen(event: LaunchEvent) -> None:
        if event.kind == "started":
            started.append(time.perf_counter())

    begun = time.perf_counter()
    gpus = job.launch["device"] != "cpu"
    gone = launch(
        "daskt2i.train.denoiser_rank", dataclasses.asdict(job), spawner, ranks, threads, listen, attempts=1, gpus=gpus
    )
    done = gone.last["done"]
    return Trial(float(done["samples_per_second"]), dict(done["shares"]), started[0] - begun if started else 0.0)


def _job(folder: RunFolder, train: TrainSettings, ways: LaunchSettings) -> DenoiserJob:
    quiet = {"checkpoint_every": train.steps, "grid_every": 0, "profile_allreduce": True, "max_restarts": 0}
    plain: dict[str, Any] = json.loads(train.model_dump_json(by_alias=True))
    launched: dict[str, Any] = json.loads(ways.model_copy(update=quiet).model_dump_json(by_alias=True))
    fakes = "daskt2i.encoders.fake"
    return DenoiserJob(
        folder=folder.root,
        storage_options=None,
        train=plain,
        launch=launched,
        identity={"store": MARK, "train": plain, SAMPLES: dict(SAMPLED)},
        cache_bytes=ways.cache_bytes(),
        vae={"class": f"{fakes}.FakeImageEncoder"},
        text={"class": f"{fakes}.FakeTextEncoder"},
        sample={},
        batch=train.batch,
        allow_random=True,
    )


def _cell(
    folder: RunFolder,
    job: DenoiserJob,
    ranks: int,
    threads: int,
    repeats: int,
    spawner: SpawnerFor,
    cores: int,
    base: Cell | None,
    tell: Callable[[str], None],
) -> Cell:
    key: dict[str, Any] = {"ranks": ranks, "threads": threads}
    found: list[Trial] = []
    try:
        with spawner(ranks, threads) as these:
            for _ in range(repeats):
                found.append(trial(folder, job, ranks, threads, these))
                tell(f"{ranks} ranks x {threads} threads: {found[-1].rate:.1f} samples/s")
    except Daskt2iError as error:
        return Cell(key, (f"Failed after {len(found)} of {repeats} launches: {' '.join(str(error).split())}",))
    rate, low, high = spread([one.rate for one in found])
    values = {**key, "rate": rate, "rate_low": low, "rate_high": high}
    values["start_seconds"] = spread([one.start_seconds for one in found])[0]
    for name in SHARES:
        there = [one.shares[name] for one in found if name in one.shares]
        if there:
            values[name] = spread(there)[0]
    if "forward" in values:
        values["rest"] = max(0.0, 1 - sum(values.get(name, 0.0) for name in SHARES))
    first = values if base is None else base.values
    flags = [f"More threads than the {cores} cores of this machine."] * (ranks * threads > cores)
    if isinstance(first.get("rate"), float):
        values["speedup"] = rate / float(first["rate"] or 1)
        values["efficiency"] = values["speedup"] * first["ranks"] * first["threads"] / (ranks * threads)
        if values["efficiency"] > 1.05:
            flags.append("The efficiency is above 105 %: the measurement of the fewest ranks was too slow.")
    return Cell(values, tuple(flags))


def _plots(cells: Sequence[Cell]) -> Iterator[Plot]:
    if len(cells) < 2:
        return
    figures: list[dict[str, Any]] = [dict(cell.values) for cell in cells]
    x = tuple(float(cell["ranks"]) for cell in figures)
    rates, low, high = (tuple(float(cell[key]) for cell in figures) for key in ("rate", "rate_low", "rate_high"))
    ideal = Curve("ideal", x, tuple(rates[0] * n / x[0] for n in x), ideal=True)
    yield Plot("rate-by-ranks", "Samples/s by ranks", "ranks", "samples/s", (Curve("seen", x, rates, low, high), ideal))
    parts = {name: tuple(float(cell.get(name) or 0.0) for cell in figures) for name in (*SHARES, "rest")}
    names = tuple(f"{cell['ranks']}" for cell in figures)
    yield Plot("shares-by-ranks", "Shares of a step", "ranks", "share", categories=names, parts=parts)
