"""`bench encode`: which cells there are, running them one after the other, and the report of what they gave.

Covers: fresh run folders, repeats in turn (a machine that slows down hurts all cells alike), exact counts, stopping.
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
from daskt2i.bench.measured import PEAK_SIDES, BenchTask, Measured
from daskt2i.bench.report import BenchReport
from daskt2i.config.settings import Workflow
from daskt2i.encode.prepare import planned_device
from daskt2i.encode.saved_workflow import with_source
from daskt2i.errors import ConfigError, Daskt2iError
from daskt2i.machine.machine import this_machine
from daskt2i.protocols import Source
from daskt2i.session.schedulers import Scheduler
from daskt2i.store.run_folder import RunFolder

PARTS: tuple[Part, ...] = ("vae", "text", "both")

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EncodeBenchSettings:
    """What was asked for on the command line.

    Attributes:
        schedulers: `serial`, `multiprocessing`, `joblib`, `local` or another cluster file, `tcp://…`, and `naive`.
        workers: numbers of workers; `serial` has one, and an address its own.
        parts: of `PARTS`.
        rows, repeats: of each cell.
        threads: torch threads of each worker.
        keep: leave the stores of the cells in the folder.
        peak_seconds, peak_sides: of each measurement of the machine's peak, as in `BenchTask`.
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

    def cells(self) -> tuple[CellSettings, ...]:
        """The cells in the order of the table.

        Raises:
            ConfigError: an unknown scheduler or part, or a number below 1.
        """
        if min((*self.workers, self.repeats, self.threads, self.rows)) < 1 or not self.schedulers:
            raise ConfigError("Workers, rows, repeats and threads are 1 or more, and it takes one scheduler at least.")
        found = []
        for part in self.parts:
            if part not in PARTS:
                raise ConfigError(f"--parts names {part!r}; it can be {', '.join(PARTS)}.")
            for name in self.schedulers:
                if name == NAIVE:
                    found += [CellSettings(part, name, count, 0) for count in self.workers]
                    continue
                scheduler = Scheduler.parse(name)
                if scheduler.workers is not None:
                    raise ConfigError(f"--schedulers names {name!r}; give the number of workers with --workers.")
                counts = (1,) if scheduler.kind == "serial" else (0,) if scheduler.address else self.workers
                found += [CellSettings(part, name, count, self.threads) for count in counts]
        return tuple(dict.fromkeys(found))


@dataclass(slots=True)
class EncodeBench:
    """One benchmark of `encode`.

    Args:
        workflow: as resolved; its source gives the rows.
        folder: on this machine; the cells' run folders go below it, and its data is drawn into it.
        wanted: the cells.
        tell: called with a line before each measurement.

    Raises:
        ConfigError: what was asked for cannot be.
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
            raise ConfigError(f"A benchmark runs in a folder on this machine, and {self.folder} is none.")
        self._runs = {cell: Runs(cell) for cell in self.wanted.cells()}

    def run(self, command: str) -> BenchReport:
        """Measure all cells, as often as asked for; Ctrl-C ends it early, with a report of what there is.

        Args:
            command: what was typed, for the report.
        """
        complete = True
        try:
            self._settle()
            for part in self._of:
                self._measure_ground(part)
            for repeat in range(self.wanted.repeats):
                for cell, runs in self._runs.items():
                    self._measure(cell, runs, repeat)
            for part in self._of:
                self._measure_ground(part)  # again: the machine may have changed its mind; the better one counts
        except KeyboardInterrupt:
            complete = False
        report = make_report(
            self._runs.values(), self._ground, rows=self.wanted.rows, name=self.workflow.name, notes=self._notes
        )
        return replace(report, command=command, complete=complete)

    def _settle(self) -> None:
        """The rows, drawn once and read once, so that no cell meets cold files that another does not."""
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
                f"The source has {there:,} rows, so it is gone round {rows / there:.1f} times; within a chunk of "
                f"{workflow.dataset.rows_per_chunk} rows "
                + ("no row comes twice." if workflow.dataset.rows_per_chunk <= there else "rows come more than once.")
            )
        for row in source.rows(0, min(rows, there)):
            try:
                source.read(row)
            except Daskt2iError:
                continue  # rejected in every cell, and counted there

    def _measure_ground(self, part: Part) -> None:
        """The machine's peak, and the operations of the encoders. Fixes the precision of all cells."""
        workflow = self._of[part]
        if planned_device(workflow.run.device) != "cpu":
            if part not in self._ground:
                self._notes.append("Shares of a peak are told for CPUs alone.")
            return
        cores = this_machine().cores
        cells = [cell for cell in self._runs if cell.part == part]
        busy = sorted({min(cores, cell.workers * cell.threads) for cell in cells if cell.workers and cell.threads})
        busy = sorted({*busy, *([cores] if any(cell.scheduler == NAIVE or not cell.workers for cell in cells) else [])})
        precisions = (workflow.dataset.precision, *(("fp32",) if any(c.scheduler == NAIVE for c in cells) else ()))
        task = self._task("peak", part, busy=tuple(busy or [cores]), precisions=precisions)
        self.tell(f"{part}: peak of {', '.join(map(str, task.busy))} of {cores} cores in matrix products")
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
        )


def _word(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text)
