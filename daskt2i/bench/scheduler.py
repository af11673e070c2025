"""`bench scheduler`: how many workers one scheduler keeps busy, by a simulation with the real driver and scheduler.

Covers: the runs and their report: seconds per chunk, memory over chunks, number of busy workers.
Does not cover: one run (`simulation`).

    seconds per chunk   = steady seconds / chunks                     (at 0 s a chunk: only the overhead)
    most workers        = chunk seconds / overhead                    (extrapolated)
    busy                = chunks x chunk seconds / (workers x steady seconds)   (measured)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from daskt2i.bench import child
from daskt2i.bench.measured import BenchTask
from daskt2i.bench.report import BenchReport, Cell, Column, Curve, Plot, Value, spread
from daskt2i.bench.simulation import Simulated
from daskt2i.config.settings import Workflow
from daskt2i.config.workflow_file import load_defaults, load_workflow
from daskt2i.errors import ConfigError, Daskt2iError
from daskt2i.store.ownership import claim
from daskt2i.store.run_folder import RunFolder

BUSY = 0.95
"""If workers spend at least this share of their time in chunks, the scheduler keeps them busy."""

EXAMPLES = (1.0, 10.0, 60.0)
"""Chunk times in seconds for which the report gives the number of workers."""

COLUMNS = (
    Column("workers", "count"),
    Column("chunk_seconds", "seconds", "chunk"),
    Column("chunks", "count", "", "Speed", meaning="Chunks of this run; fewer if it would take too long."),
    Column("steady_s", "seconds", "steady", "Speed", meaning="From the first chunk to the last one; median."),
    Column("seconds_per_chunk", "seconds", "per chunk", "Speed", meaning="Steady seconds divided by chunks."),
    Column("cpu_per_chunk", "seconds", "processor", "Speed", meaning="Processor seconds per chunk: client, scheduler,"
           " workers and receipts together."),
    Column("busy_share", "share", "busy", "Speed", meaning="Share of worker time in chunks, measured."),
    Column("most_workers", "count", "most workers", "Speed", meaning="Chunk time divided by the seconds per chunk at"
           " 0 s, extrapolated."),
    Column("memory_start_bytes", "bytes", "at 10 %", "Memory", meaning="Resident size of driver, scheduler and workers"
           " when a tenth of the chunks is done."),
    Column("memory_end_bytes", "bytes", "at the end", "Memory", meaning="The same at the end."),
    Column("growth_bytes", "bytes", "per 1,000 chunks", "Memory", meaning="Growth over the second half (least"
           " squares)."),
    Column("finish_s", "seconds", "manifest", "Memory", meaning="From the last chunk to the end: closing, manifest."),
    Column("rows", "count", "", "Memory", meaning="Counted rows."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """Settings of the simulation.

    Attributes:
        rows, chunks: numbers of a whole run.
        workers: numbers of workers.
        chunk_seconds: durations of a chunk.
        repeats: repeats of each run.
        arrays: write the arrays too.
        max_seconds: maximum duration of a run; a longer run gets fewer chunks.
        keep: keep the run folders.
    """

    rows: int
    chunks: int
    workers: tuple[int, ...]
    chunk_seconds: tuple[float, ...]
    repeats: int = 1
    arrays: bool = False
    max_seconds: float = 120.0
    keep: bool = False

    def chunks_of(self, workers: int, seconds: float) -> int:
        """Number of chunks of one run, at least 4 for each worker."""
        if not seconds:
            return self.chunks
        return min(self.chunks, max(4 * workers, int(self.max_seconds * workers / seconds)))


@dataclass(slots=True)
class SchedulerBench:
    """One benchmark of the scheduler.

    Args:
        folder: a folder on this machine.
        asked: the settings.
        tell: called with a line before each run.

    Raises:
        ConfigError: the settings cannot work.
    """

    folder: RunFolder
    asked: SimulationSettings
    tell: Callable[[str], None] = lambda line: None
    _runs: dict[tuple[int, float], list[Simulated]] = field(default_factory=dict)
    _failures: dict[tuple[int, float], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.folder.is_local:
            raise ConfigError(f"{self.folder} is not a folder on this machine. Benchmarks need a local folder (out).")
        if not 1 <= self.asked.chunks <= self.asked.rows:
            raise ConfigError(
                f"There are {self.asked.chunks} chunks for {self.asked.rows} rows. Use 1 to {self.asked.rows} chunks "
                "(chunks)."
            )
        if min(self.asked.chunk_seconds, default=-1.0) < 0:
            raise ConfigError("The seconds of a chunk (chunk-seconds) must be 0 or more.")

    def run(self, command: str) -> BenchReport:
        """Simulate all runs, and make the report. After Ctrl-C the report has the finished runs."""
        complete = True
        claim(self.folder)  # runs of cells are removed, so the folder must be ours
        cells = [(workers, seconds) for seconds in self.asked.chunk_seconds for workers in self.asked.workers]
        try:
            for _ in range(self.asked.repeats):
                for cell in cells:
                    if cell not in self._failures:
                        self._measure(cell)
        except KeyboardInterrupt:
            complete = False
        return replace(make_report(self.asked, self._runs, self._failures), command=command, complete=complete)

    def _measure(self, cell: tuple[int, float]) -> None:
        workers, seconds = cell
        chunks = self.asked.chunks_of(workers, seconds)
        self.tell(f"{workers} workers, {chunks:,} chunks of {seconds:g} s")
        place = self.folder.local_path(f"cells/scheduler-{workers}-{seconds:g}")
        shutil.rmtree(place, ignore_errors=True)
        per_chunk = -(-self.asked.rows // self.asked.chunks)
        task = BenchTask(
            kind="scheduler",
            workflow=simulated_workflow(min(self.asked.rows, chunks * per_chunk), per_chunk).to_yaml(),
            folder=str(place),
            part="both",
            workers=workers,
            chunk_seconds=seconds,
            arrays=self.asked.arrays,
        )
        try:
            found = child.perform(task)["simulated"]
            memory = tuple((int(done), int(size)) for done, size in found["memory"])
            self._runs.setdefault(cell, []).append(Simulated(**{**found, "memory": memory}))
        except Daskt2iError as error:
            self._failures[cell] = str(error)
            self.tell(f"failed: {error}")
        finally:
            if not self.asked.keep:
                shutil.rmtree(place, ignore_errors=True)


def simulated_workflow(rows: int, rows_per_chunk: int) -> Workflow:
    """A workflow with fake components: rows are made when they are read, and arrays have a few bytes for each row."""
    load_defaults()
    workflow = load_workflow("demo")
    fake = "daskt2i.encoders.fake.Fake"
    dataset = workflow.dataset.model_dump(mode="json", by_alias=True) | {
        "source": {"class": "daskt2i.sources.fake.FakeSource", "rows": rows},
        "image": {"resolution": 8, "min_side": 1},
        "encoders": {
            "image": {"class": f"{fake}ImageEncoder"},
            "text": {"class": f"{fake}TextEncoder", "features": 1, "max_tokens": 2, "pooled": False},
        },
        "precision": "fp32",
        "rows_per_chunk": rows_per_chunk,
    }
    run = workflow.run.model_copy(update={"device": "cpu", "check_disk": False, "gate_rows": 0})
    changed = type(workflow.dataset).model_validate(dataset)
    return workflow.model_copy(update={"name": "simulation", "scenes": None, "dataset": changed, "run": run})


def make_report(
    asked: SimulationSettings, runs: dict[tuple[int, float], list[Simulated]], failures: dict[tuple[int, float], str]
) -> BenchReport:
    """Make the report of the simulated runs."""
    overheads = {workers: _per_chunk(found) for (workers, seconds), found in runs.items() if seconds == 0 and found}
    cells = [_cell(cell, asked, runs.get(cell, []), overheads, failures.get(cell, "")) for cell in [*runs, *failures]]
    facts: dict[str, Any] = {
        "rows": asked.rows,
        "chunks": asked.chunks,
        "arrays written": "yes" if asked.arrays else "no",
    }
    if overheads:
        worst = max(overheads.values())
        facts["overhead_s"] = worst
        told = ", ".join(f"{int(seconds / worst):,} at {seconds:g} s" for seconds in EXAMPLES)
        facts["workers kept busy, extrapolated"] = f"{told} a chunk (the slowest of the runs at 0 s)"
        facts["most_workers"] = {f"{seconds:g}": int(seconds / worst) for seconds in EXAMPLES}
    notes = [
        "Workers are threads of the scheduler's process, with messages over TCP. They share one Python interpreter "
        "with the scheduler, so a scheduler with separate workers keeps more workers busy than these figures say."
    ]
    if not asked.arrays:
        notes.append("No arrays were written: the receipts are real, but their shards do not exist.")
    if not overheads:
        notes.append("There was no run at 0 s a chunk, so the report has no overhead and no largest number of workers.")
    return BenchReport(
        name="bench-scheduler",
        title=f"One scheduler, {asked.rows:,} rows in {asked.chunks:,} chunks, simulated",
        command="",
        columns=COLUMNS,
        cells=tuple(cells),
        facts=facts,
        notes=tuple(notes),
        plots=tuple(_plots(runs)),
    )


def _per_chunk(runs: Sequence[Simulated]) -> float:
    return spread([one.steady / one.chunks for one in runs])[0]


def _cell(
    cell: tuple[int, float],
    asked: SimulationSettings,
    runs: Sequence[Simulated],
    overheads: dict[int, float],
    failure: str,
) -> Cell:
    workers, seconds = cell
    values: dict[str, Value] = {"workers": workers, "chunk_seconds": seconds}
    if not runs or failure:
        return Cell(values, (f"Failed: {failure}",))
    first = runs[-1]
    steady = spread([one.steady for one in runs])[0]
    tenth = next(size for done, size in first.memory if done * 10 >= first.chunks)
    values |= {
        "chunks": first.chunks,
        "steady_s": steady,
        "seconds_per_chunk": _per_chunk(runs),
        "cpu_per_chunk": spread([one.cpu / one.chunks for one in runs])[0],
        "memory_start_bytes": tenth,
        "memory_end_bytes": first.memory[-1][1],
        "growth_bytes": growth(first.memory[len(first.memory) // 2 :]),
        "finish_s": spread([one.finish for one in runs])[0],
        "rows": first.rows,
    }
    flags = []
    if first.chunks < asked.chunks:
        flags.append(f"Only {first.chunks:,} of {asked.chunks:,} chunks, to end within {asked.max_seconds:g} s.")
    if seconds:
        busy = first.chunks * seconds / (workers * steady)
        values["busy_share"] = busy
        if workers in overheads:
            values["most_workers"] = int(seconds / overheads[workers])
        if busy < BUSY:
            flags.append(f"The workers were busy for only {busy:.0%} of the time: too many workers at {seconds:g} s.")
    return Cell(values, tuple(flags))


def growth(memory: Sequence[tuple[int, int]]) -> float | None:
    """Bytes per 1,000 chunks: the slope of a least squares fit. None for fewer than three points."""
    if len(memory) < 3:
        return None
    mean_x = sum(done for done, _ in memory) / len(memory)
    mean_y = sum(size for _, size in memory) / len(memory)
    spread_x = sum((done - mean_x) ** 2 for done, _ in memory)
    if not spread_x:
        return None
    return 1000 * sum((done - mean_x) * (size - mean_y) for done, size in memory) / spread_x


def _plots(runs: dict[tuple[int, float], list[Simulated]]) -> list[Plot]:
    if not runs:
        return []
    by_seconds: dict[float, list[tuple[int, float]]] = {}
    for (workers, seconds), found in sorted(runs.items()):
        by_seconds.setdefault(seconds, []).append((workers, 1 / _per_chunk(found)))
    curves = []
    for seconds, points in by_seconds.items():
        at = tuple(float(workers) for workers, _ in points)
        curves.append(Curve(f"{seconds:g} s a chunk", at, tuple(rate for _, rate in points)))
        if seconds:
            curves.append(Curve(f"{seconds:g} s, ideal", at, tuple(workers / seconds for workers in at), ideal=True))
    memory = [
        Curve(
            f"{workers} workers, {seconds:g} s",
            tuple(float(done) for done, _ in found[-1].memory),
            tuple(size / 2**20 for _, size in found[-1].memory),
        )
        for (workers, seconds), found in sorted(runs.items())
    ]
    return [
        Plot("rate", "Chunks per second", "workers", "chunks/s", tuple(curves)),
        Plot("memory", "Memory of driver, scheduler and workers", "chunks done", "MiB", tuple(memory)),
    ]
