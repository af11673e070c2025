"""`bench peers`: images per second of our encoding and of other tools, with the same models and photographs.

Covers: an environment for each peer, rounds in alternating order, one new process for each run, the report.
Does not cover: what a tool does (`peer`), photographs and models (`inputs`), figures (`columns`, `watch`).

Each round runs every tool once, forwards and backwards by turns, so a machine that slows down affects all alike. A run
is a new process that starts, loads the models, encodes, writes its files and ends. Rates count from the moment when all
of its workers have their models. A run whose rows, numbers or latents are not ours has no figures, so nobody is
compared while doing something else.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daskt2i.bench.child import THREAD_VARIABLES
from daskt2i.bench.peers import agreement, peer
from daskt2i.bench.peers.columns import COLUMNS, Ran, cells, plots
from daskt2i.bench.peers.environments import python_for, version_in
from daskt2i.bench.peers.inputs import require_plain, write_models, write_rows
from daskt2i.bench.peers.watch import watch
from daskt2i.bench.report import BenchReport
from daskt2i.config.settings import Workflow
from daskt2i.errors import ConfigError, ExecutorError
from daskt2i.machine.machine import this_machine
from daskt2i.machine.precision import resolve

OURS = "daskt2i"
PACKAGES = {"ray": "ray[data]", "ray-tuned": "ray[data]", "datasets": "datasets", "datasets-tuned": "datasets"}
"""Peer -> what pip installs for it. The naive loop needs nothing else."""

CHECKED = 4
"""Rows whose latents and text states are compared with ours."""


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """The settings from the command line.

    Attributes:
        peers: names in `peer.NAMES`. Ours is always measured.
        rows, batch: rows of each run; images in a batch of a peer (ours chooses its own).
        workers: processes of each tool that has some; None: one a core.
        rounds: runs of each tool.
        place: folder for temporary files; None: the system's.
        environments: folder that keeps the environments of the peers; None: they are made and deleted.
        scheduler: ours runs with it.
        max_seconds: a run that takes longer is stopped, and its tool has no figures.
    """

    peers: tuple[str, ...] = peer.NAMES
    rows: int = 32
    batch: int = 4
    workers: int | None = None
    rounds: int = 3
    place: str | None = None
    environments: str | None = None
    scheduler: str = "local"
    max_seconds: float = 1800.0


@dataclass(slots=True)
class PeerBench:
    """One comparison.

    Args:
        workflow: the resolved workflow; its source gives the photographs, its encoders the models.
        wanted: the settings.
        tell: called with lines of progress.

    Raises:
        ConfigError: there is no such peer, or other tools cannot do what the workflow asks for.
    """

    workflow: Workflow
    wanted: PeerSettings
    tell: Callable[[str], None] = lambda line: None
    runs: dict[str, list[Ran]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    _versions: dict[str, str] = field(default_factory=dict)
    _ours: dict[str, Any] = field(default_factory=dict)
    _shared_once: bool = True

    def __post_init__(self) -> None:
        if wrong := [name for name in self.wanted.peers if name not in (*peer.NAMES, OURS)]:
            raise ConfigError(
                f"There is no peer {wrong[0]!r}. Nothing was measured. Use some of {', '.join(peer.NAMES)} (peers)."
            )
        if self.wanted.rows < max(2, self.workers):
            raise ConfigError(
                f"{self.wanted.rows} rows are too few for {self.workers} workers and a comparison of two rows. Nothing "
                f"was measured. Use {max(2, self.workers)} rows or more (rows)."
            )
        require_plain(self.workflow)
        self.runs = {name: [] for name in dict.fromkeys((OURS, *self.wanted.peers))}

    @property
    def workers(self) -> int:
        """Processes of each tool."""
        return self.wanted.workers or this_machine().cores

    def run(self, command: str = "") -> BenchReport:
        """Measure all tools in all rounds. After Ctrl-C the report has the finished runs.

        Args:
            command: the command as it was typed, for the report.

        Raises:
            Daskt2iError: photographs or models cannot be read.
        """
        complete = True
        with tempfile.TemporaryDirectory(dir=self.wanted.place, prefix="daskt2i-bench-") as made:
            there = Path(made)
            try:
                pythons = self._pythons(Path(self.wanted.environments or there / "environments"))
                task = self._task(there)
                for number in range(self.wanted.rounds):
                    for name in pythons if number % 2 == 0 else reversed(pythons):
                        if name not in self.failed:
                            self._measure(name, pythons[name], {**task, "name": name}, there, number)
            except KeyboardInterrupt:
                complete = False
        lines = tuple(cells(self.runs, self.failed, OURS))
        return BenchReport(
            name="bench-peers",
            title=f"Encoding beside other tools, {self.workflow.name}",
            command=command,
            columns=COLUMNS,
            cells=lines,
            facts=self._facts(),
            notes=self._notes(),
            plots=tuple(plots(lines)),
            complete=complete,
        )

    def _facts(self) -> dict[str, Any]:
        wanted = {"workflow": self.workflow.name, "rows": self.wanted.rows, "rounds": self.wanted.rounds}
        return {**wanted, "workers": self.workers, "batch of the peers": self.wanted.batch, **self._versions}

    def _notes(self) -> tuple[str, ...]:
        notes = [
            "Peers use a model as from_pretrained gives it (fp32), and pad captions to the full length. A tuned peer "
            "computes in the precision of ours, in channels_last, with one thread a process; it pads captions only to "
            "the longest of a batch, and writes fp16.",
            "Ours also checks some rows by decoding them, hashes its files, and can go on after an interruption.",
        ]
        if not self._shared_once:
            notes.append("Peak memory is the sum of resident sizes, in which shared pages count several times.")
        return tuple(notes)

    def _pythons(self, folder: Path) -> dict[str, str]:
        """Tool -> its Python, ours first. A peer that cannot be installed is left out, with a line."""
        found = dict[str, str]()
        for name in self.runs:
            base, package = name.removesuffix("-tuned"), PACKAGES.get(name)
            try:
                found[name] = python_for(base, package, folder, "tools")
            except ExecutorError as error:
                self.failed[name] = str(error)
                self.tell(str(error))
                continue
            if package:
                self._versions[base] = version_in(found[name], package)
        return found

    def _task(self, there: Path) -> dict[str, Any]:
        """Write photographs and models. Returns the task of every tool, without its name."""
        self.tell("writing photographs and models for all tools")
        workflow = write_rows(self.workflow, there, self.wanted.rows)
        models = write_models(workflow, there)
        precision = resolve(workflow.dataset.precision, "cpu")
        most = -(-self.wanted.rows // self.workers)
        chunk = min(workflow.dataset.rows_per_chunk, most)  # no worker of ours waits for rows that are in one chunk
        dataset = workflow.dataset.model_copy(update={"precision": precision, "rows_per_chunk": chunk})
        run = workflow.run.model_copy(update={"device": "cpu"})
        text = workflow.model_copy(update={"dataset": dataset, "run": run}).to_yaml()
        rows = min(CHECKED, self.wanted.rows)
        return {
            **models,
            "rows": str(there / "rows.json"),
            "workflow": text,
            "resolution": dataset.image.resolution,
            "precision": precision,
            "workers": self.workers,
            "batch": self.wanted.batch,
            "scheduler": self.wanted.scheduler,
            "checked": [number * self.wanted.rows // rows for number in range(rows)],
        }

    def _measure(self, name: str, python: str, task: dict[str, Any], there: Path, number: int) -> None:
        """One run of one tool."""
        self.tell(f"{name}: round {number + 1} of {self.wanted.rounds}")
        out, given, answer, log = (there / f"{name}{end}" for end in ("", ".json", ".result.json", ".txt"))
        out.mkdir()
        answer.unlink(missing_ok=True)
        begun = time.time()
        given.write_text(json.dumps({**task, "out": str(out), "begun": begun}), encoding="utf-8")
        command = [python, "-P", str(Path(peer.__file__)), str(given), str(answer)]
        try:
            watched = watch(command, environment_of(name, out), log, self.wanted.max_seconds)
            if watched.code != 0 or not answer.is_file():
                self._fail(name, _why(watched.code, log, self.wanted.max_seconds))
                return
            result = json.loads(answer.read_text(encoding="utf-8"))
            made = agreement.sample(out)
            self._ours = self._ours or (made if name == OURS else {})
            if why := agreement.problem(result, self.wanted.rows, made, self._ours or made):
                self._fail(name, why)
                return
            seconds = result["done"] - result["loaded"]
            encoding = max(result["encoded"] - result["loaded"], 1e-6)
            elsewhere = watched.elsewhere_between(result["loaded"], result["done"])
            self._shared_once = self._shared_once and watched.shared_once
            ran = Ran(
                round=number,
                precision=result["precision"],
                rate=self.wanted.rows / seconds,
                cpu=watched.cpu_between(result["loaded"], result["done"]) / self.wanted.rows,
                start=result["loaded"] - begun,
                whole=result["ended"] - begun,
                peak=watched.peak_until(result["ended"]),
                written=result["bytes"],
                elsewhere=elsewhere / seconds / this_machine().cores,
                encode_rate=self.wanted.rows / encoding,
                encode_cpu=watched.cpu_between(result["loaded"], result["encoded"]) / self.wanted.rows,
                latents=agreement.difference(made, self._ours, "mean") if self._ours else None,
                states=agreement.difference(made, self._ours, "states") if self._ours else None,
            )
            self.runs[name].append(ran)
            self.tell(f"{name}: {ran.rate:.3g} images/s, {ran.cpu:.3g} CPU seconds an image")
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def _fail(self, name: str, why: str) -> None:
        self.failed[name] = f"Failed, so {name} has no figures: {why}."
        self.tell(self.failed[name])


def environment_of(name: str, out: Path) -> dict[str, str]:
    """The variables of a tool's process. None finds ours by PYTHONPATH but ours; caches stay below `out`."""
    made = {key: value for key, value in os.environ.items() if key not in (*THREAD_VARIABLES, "PYTHONPATH")}
    made |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    made |= {"HF_DATASETS_CACHE": str(out / "cache"), "RAY_USAGE_STATS_ENABLED": "0"}
    if name == OURS:
        made["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return made


def _why(code: int | None, log: Path, most_seconds: float) -> str:
    """Why a process has no result, in a clause."""
    if code is None:
        return f"it took more than {most_seconds:.0f} seconds"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"it ended with code {code} and said: {lines[-1][:300].rstrip('.') if lines else 'nothing'}"
