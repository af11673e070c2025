"""`bench encode`: choose the cells, run them one after the other, and make the report.

Covers: new run folders, repeats in rounds over all cells (so a slower machine affects all cells), exact counts, Ctrl-C.
Does not cover: one measurement (`bench.cell`, `naive`, `peak`), speed-up and flags (`scaling`), showing it
(`bench.report`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from daskt2i.bench import child
from daskt2i.bench.encode.rows import Part, with_rows
from daskt2i.bench.encode.runs import NAIVE, CellSettings, Ground, Runs
from daskt2i.bench.encode.scaling import make_report
from daskt2i.bench.measured import PEAK_CONVOLUTIONS, PEAK_SIDES, BenchTask, Measured
from daskt2i.bench.report import BenchReport
from daskt2i.config.settings import Workflow
from daskt2i.encode.prepare import planned_device
from daskt2i.encode.saved_workflow import with_source
from daskt2i.errors import ConfigError, Daskt2iError
from daskt2i.machine.machine import this_machine
from daskt2i.protocols import Source
from daskt2i.session.schedulers import Scheduler
from daskt2i.store.ownership import claim
from daskt2i.store.run_folder import RunFolder

PARTS: tuple[Part, ...] = ("vae", "text", "both")

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EncodeBenchSettings:
    """The settings from the command line.

    Attributes:
        schedulers: `serial`, `multiprocessing`, `joblib`, `local` or another cluster file, `tcp://…`, and `naive`.
        workers: numbers of workers; `serial` always has one, and an address has its own workers.
        parts: names in `PARTS`.
        rows, repeats: numbers for each cell.
        threads: torch threads of each worker.
        keep: keep the stores of the cells in the folder.
        peak_seconds, peak_sides, peak_convolutions: for each measurement of the machine's peak, as in `BenchTask`; 0
            seconds: none.
    """

    schedulers: tuple[str, ...]
    workers: tuple[int, ...]
    parts: tuple[Part, ...]
    rows: int
    repeats: int = 3
    threads: int = 1
    keep: bool = False
    peak_seconds: float = 1.0
    peak_sides: tuple[int, ...] = PEAK_SIDES
    peak_convolutions: tuple[tuple[int, int], ...] = PEAK_CONVOLUTIONS

    def cells(self) -> tuple[CellSettings, ...]:
        """The cells in the order of the table.

        Raises:
            ConfigError: a scheduler or part is unknown, or a number is below 1.
        """
        if min((*self.workers, self.repeats, self.threads, self.rows)) < 1 or not self.schedulers:
            raise ConfigError("Workers, rows, repeats and threads must be 1 or more, and there must be a scheduler.")
        found = []
        for part in self.parts:
            if part not in PARTS:
                raise ConfigError(f"There is no part {part!r}. Nothing was measured. Use {', '.join(PARTS)} (parts).")
            for name in self.schedulers:
                if name == NAIVE:
                    found += [CellSettings(part, name, count, 0) for count in self.workers]
                    continue
                scheduler = Scheduler.parse(name)
                if scheduler.workers is not None:
                    raise ConfigError(
                        f"The scheduler {name!r} has a number of workers. Nothing was measured. Name the scheduler "
                        "without it (schedulers), and give the numbers of workers separately (workers)."
                    )
                counts = (1,) if scheduler.kind == "serial" else (0,) if scheduler.address else self.workers
                found += [CellSettings(part, name, count, self.threads) for count in counts]
        return tuple(dict.fromkeys(found))


@dataclass(slots=True)
class EncodeBench:
    """One benchmark of `encode`.

    Args:
        workflow: the resolved workflow; its source gives the rows.
        folder: a folder on this machine, for the run folders of the cells and for drawn scenes.
        wanted: the settings.
        tell: called with a line before each measurement.

    Raises:
        ConfigError: the settings cannot work.
    """

    workflow: Workflow
    folder: RunFolder
    wanted: EncodeBenchSettings
    tell: Tell = lambda line: None
    _runs: dict[CellSettings, Runs] = field(default_factory=dict)
    _ground: dict[Part, Ground] = field(default_factory=dict)
    _notes: list[str] = field(default_factory=list)
    _of: dict[Part, Workflow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.folder.is_local:
            raise ConfigError(f"{self.folder} is not a folder on this machine. Benchmarks need a local folder (out).")
        self._runs = {cell: Runs(cell) for cell in self.wanted.cells()}

    def run(self, command: str) -> BenchReport:
        """Measure all cells with all repeats. After Ctrl-C the report has the finished measurements.

        Args:
            command: the command as it was typed, for the report.
        """
        complete = True
        try:
            self._settle()
            claim(self.folder)  # runs of cells are removed, so the folder must be ours
            for part in self._of:
                self._measure_ground(part)
            for repeat in range(self.wanted.repeats):
                for cell, runs in self._runs.items():
                    self._measure(cell, runs, repeat)
            for part in self._of:
                self._measure_ground(part)  # again, because the machine's speed may change; the better one counts
        except KeyboardInterrupt:
            complete = False
        report = make_report(
            self._runs.values(), self._ground, rows=self.wanted.rows, name=self.workflow.name, notes=self._notes
        )
        return replace(report, command=command, complete=complete)

    def _settle(self) -> None:
        """Choose the rows, draw them once and read them once, so that the files are cached for all cells."""
        rows = self.wanted.rows
        workflow = self.workflow
        if workflow.scenes is not None:
            workflow = workflow.model_copy(update={"scenes": workflow.scenes.model_copy(update={"rows": rows})})
            arguments = workflow.dataset.source.model_dump(by_alias=True)
            if "rows" in arguments:
                source = type(workflow.dataset.source).model_validate({**arguments, "rows": rows})
                dataset = workflow.dataset.model_copy(update={"source": source})
                workflow = workflow.model_copy(update={"dataset": dataset})
        workflow = with_source(workflow, self.folder, draw=True)
        self._of = {part: with_rows(workflow, rows, part) for part in self.wanted.parts}
        source = workflow.dataset.source.build(Source, "dataset.source")
        there = source.info().rows
        if there < rows:
            self._notes.append(
                f"The source has only {there:,} rows, so it is repeated {rows / there:.1f} times; within a chunk of "
                f"{workflow.dataset.rows_per_chunk} rows "
                + ("no row is repeated." if workflow.dataset.rows_per_chunk <= there else "rows are repeated.")
            )
        for row in source.rows(0, min(rows, there)):
            try:
                source.read(row)
            except Daskt2iError:
                continue  # every cell rejects and counts this row

    def _measure_ground(self, part: Part) -> None:
        """Measure the machine's peak and the operations of the encoders. This also sets the precision of all cells."""
        workflow = self._of[part]
        if not self.wanted.peak_seconds:
            return
        if planned_device(workflow.run.device) != "cpu":
            if part not in self._ground:
                self._notes.append("Shares of the peak are only measured on CPUs.")
            return
        cores = this_machine().cores
        cells = [cell for cell in self._runs if cell.part == part]
        busy = sorted({min(cores, cell.workers * cell.threads) for cell in cells if cell.workers and cell.threads})
        busy = sorted({*busy, *([cores] if any(cell.scheduler == NAIVE or not cell.workers for cell in cells) else [])})
        precisions = (workflow.dataset.precision, *(("fp32",) if any(c.scheduler == NAIVE for c in cells) else ()))
        task = self._task("peak", part, busy=tuple(busy or [cores]), precisions=precisions)
        self.tell(f"{part}: peak of {', '.join(map(str, task.busy))} of {cores} cores in products and convolutions")
        found = child.perform(task)["peak"]
        self._ground[part] = Ground.of(found).better(self._ground.get(part))
        changed = workflow.dataset.model_copy(update={"precision": found["precision"]})
        self._of[part] = workflow.model_copy(update={"dataset": changed})

    def _measure(self, cell: CellSettings, runs: Runs, repeat: int) -> None:
        if runs.failure:
            return
        self.tell(f"{cell.name}: run {repeat + 1} of {self.wanted.repeats}")
        place = self.folder.local_path(f"cells/{cell.part}-{_word(cell.scheduler)}-{cell.workers}-{repeat}")
        shutil.rmtree(place, ignore_errors=True)
        kind = NAIVE if cell.scheduler == NAIVE else "encode"
        task = self._task(kind, cell.part, str(place), cell.scheduler, cell.workers, cell.threads)
        try:
            measured = Measured.from_json(child.perform(task)["measured"])
            runs.add(measured, self.wanted.rows)
        except Daskt2iError as error:
            runs.failure = str(error)
            self.tell(f"{cell.name}: failed: {error}")
        finally:
            if not self.wanted.keep:
                shutil.rmtree(place, ignore_errors=True)

    def _task(
        self,
        kind: Any,
        part: Part,
        folder: str = "",
        scheduler: str = "",
        workers: int = 1,
        threads: int = 1,
        busy: Sequence[int] = (1,),
        precisions: Iterable[str] = (),
    ) -> BenchTask:
        return BenchTask(
            kind=kind,
            workflow=self._of[part].to_yaml(),
            folder=folder,
            part=part,
            scheduler=scheduler,
            workers=workers,
            threads=max(1, threads),
            busy=tuple(busy),
            precisions=tuple(precisions),
            peak_seconds=self.wanted.peak_seconds,
            peak_sides=self.wanted.peak_sides,
            peak_convolutions=self.wanted.peak_convolutions,
        )


def _word(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text)
