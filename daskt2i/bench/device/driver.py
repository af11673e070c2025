"""`bench device`: starts the measuring process, ends parts that hang, and makes the report.

Covers: the time budget, a process that dies (the next one goes on with the next part), Ctrl-C.
Does not cover: measuring (`worker` and the parts), showing the report (`bench.report`, `markdown`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from daskt2i.bench.child import THREAD_VARIABLES
from daskt2i.bench.device.clock import NO_TIME
from daskt2i.bench.device.columns import COLUMNS, NOTES, finished, plots
from daskt2i.bench.device.recorder import Lines
from daskt2i.bench.device.worker import SHARES, DeviceTask
from daskt2i.bench.report import BenchReport, Cell
from daskt2i.errors import ConfigError
from daskt2i.machine.precision import check_device

PARTS = tuple(SHARES)
GRACE = 20.0
"""Seconds that a part may take beyond its time before its process is killed."""

Tell = Callable[[str], None]


@dataclass(slots=True)
class _Found:
    """What was told so far. `part` is the part that is being measured, and `until` the time at which it is ended."""

    cells: list[Cell] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    finished: set[str] = field(default_factory=set)
    part: str | None = None
    until: float = 0.0

    def take(self, line: Mapping[str, Any], tell: Tell) -> None:
        match line["kind"]:
            case "begin":
                self.part, self.until = line["part"], time.monotonic() + line["seconds"] + GRACE
                tell(f"{line['part']}: at most {line['seconds']:.0f} s")
            case "end":
                self.finished.add(line["part"])
                self.part = None
            case "failed":
                self.cells.append(Cell({"part": line["part"]}, (line["why"],)))
                tell(f"{line['part']}: {line['why']}")
            case "cell":
                self.cells.append(Cell(line["values"], tuple(line["flags"])))
            case "fact":
                before = self.facts.get(line["name"])
                value = line["value"]
                self.facts[line["name"]] = {**before, **value} if isinstance(before, dict) else value
            case "note":
                self.notes.append(line["text"])
            case _:
                tell(line["text"])

    def give_up(self, why: str, tell: Tell) -> None:
        """The process ended before its part did."""
        part = self.part
        if part is None:
            return
        tell(f"{part}: {why}")
        self.cells.append(Cell({"part": part}, (f"Failed: {why}",)))
        self.finished.add(part)
        self.part = None


def bench_device(
    device: str,
    *,
    seconds: float = 400.0,
    tiny: bool = False,
    parts: Sequence[str] = PARTS,
    command: str = "",
    tell: Tell = lambda text: None,
) -> BenchReport:
    """Measure a device.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.
        seconds: time for all parts. Each part gets a share of what is left; what does not fit is left out, and said so.
        tiny: measure small models on few items, to see that it works.
        parts: names in `PARTS`.
        command: the command as it was typed.
        tell: called with a line of progress.

    Raises:
        ConfigError: there is no such device or part; nothing was measured.
    """
    check_device(device, "device")
    wanted = chosen(parts)
    found, complete = _Found(), True
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="daskt2i-bench-") as folder:
        try:
            while rest := [part for part in wanted if part not in found.finished]:
                task = DeviceTask(device, tiny, tuple(rest), max(0.0, end - time.monotonic()), os.getpid())
                if time.monotonic() >= end + GRACE:
                    found.cells += [Cell({"part": part}, (NO_TIME,)) for part in rest]
                    break
                _watch(task, Path(folder), found, end + GRACE, tell)
        except KeyboardInterrupt:
            complete = False
    peaks = found.facts.get("peaks", {})
    cells = finished(found.cells, peaks)
    report = BenchReport(
        name="bench-device",
        title=f"One device: {found.facts.get('device', device)}",
        command=command,
        columns=COLUMNS,
        cells=cells,
        facts={**found.facts, "torch_device": device, "seconds_given": seconds, "tiny": tiny},
        notes=(*NOTES, *found.notes),
        complete=complete,
    )
    return replace(report, plots=tuple(plots(cells, found.facts)))


def chosen(parts: Sequence[str]) -> list[str]:
    """These parts, in the order in which they are measured.

    Raises:
        ConfigError: there is no such part.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise ConfigError(f"There is no part {unknown[0]!r}. Nothing was measured. Use {', '.join(PARTS)} (parts).")
    return [part for part in PARTS if part in parts]


def _watch(task: DeviceTask, folder: Path, found: _Found, end: float, tell: Tell) -> None:
    """Run one process until it ends or is ended. Another one can go on with the rest."""
    given, lines = folder / "task.json", folder / "lines"
    given.write_text(task.to_json(), encoding="utf-8")
    lines.unlink(missing_ok=True)
    reader, said, before = Lines(lines), folder / "stderr", len(found.finished)
    environment = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
    environment["TOKENIZERS_PARALLELISM"] = "false"
    command = [sys.executable, "-m", "daskt2i.bench.device.worker", str(given), str(lines)]
    why = ""
    with said.open("wb") as errors:
        child = subprocess.Popen(
            command, stdout=errors, stderr=errors, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
        try:
            while child.poll() is None and not why:
                for line in reader.new():
                    found.take(line, tell)
                now = time.monotonic()
                if now > end or (found.part is not None and now > found.until):
                    why = "it took longer than its time, and was ended."
                time.sleep(0.1)
        finally:
            _kill(child)
    for line in reader.new():
        found.take(line, tell)
    last = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    text = f" ({last[0][:300]})" if last else ""
    why = why or f"the measuring process ended with code {child.returncode}{text}."
    if found.part is None and child.returncode and len(found.finished) == before:
        found.part = task.parts[0]  # it died before it began
    found.give_up(why, tell)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child and every process that it has started."""
    started: list[psutil.Process] = []
    with suppress(psutil.Error):
        started = [one for one in psutil.Process(child.pid).children(recursive=True) if child.poll() is None]
    with suppress(ProcessLookupError):
        child.kill()
    for one in started:
        with suppress(psutil.Error):
            one.kill()
    child.wait()
