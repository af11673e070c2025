"""Rounds of chaos until the time is over, and the report."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.disk import Disk
from chaos.judge import differences, rows_counted, torn_receipts
from chaos.mischief import EVERYWHERE, TO_A_CLUSTER
from chaos.stage import Stage, environment, kill_family, write_workflow

PATIENCE = 240.0
"""Seconds that an undisturbed driver may take for the rest of a round."""


@dataclass
class Report:
    """What was done and what came of it.

    Attributes:
        done: kind of mischief -> how often.
        rounds: number of run folders that were finished.
        drivers: number of drivers that were started.
        problems: differences from the calm run, and whatever no user may see.
    """

    done: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    drivers: int = 0
    problems: list[str] = field(default_factory=list)


def chaos(
    seed: int,
    minutes: float,
    rows: int = 4000,
    workers: int = 3,
    seconds: float = 0.02,
    tell: Callable[[str], None] = print,
    keep: Path | None = None,
) -> Report:
    """Disturb encodes until the time is over.

    Args:
        rows: rows of a run folder.
        seconds: time that one image takes.
        keep: a folder for logs and run folders; by default they are removed.
    """
    dice, begun, report = random.Random(seed), time.monotonic(), Report()
    place = keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    place.mkdir(parents=True, exist_ok=True)
    try:
        calm = _calm(place, rows)
        workflow = write_workflow(place, rows)
        deadline = begun + 60 * minutes
        while not report.rounds or time.monotonic() < deadline:
            _round(place / f"round-{report.rounds}", calm, workflow, workers, seconds, dice, deadline, report, tell)
            if report.problems:
                break
    finally:
        if keep is None and not report.problems:
            shutil.rmtree(place, ignore_errors=True)
    shown = ", ".join(f"{count} x {name.replace('_', ' ')}" for name, count in sorted(report.done.items()))
    tell(f"seed {seed}: {report.rounds} rounds of {rows} rows, {report.drivers} drivers; {shown}")
    tell(f"differences: {len(report.problems)}" + (f"; logs are in {place}" if report.problems else ""))
    for problem in report.problems:
        tell(f"  {problem}")
    return report


def _calm(place: Path, rows: int) -> Path:
    """The run folder of an undisturbed encode in one process, at full speed."""
    out = place / "calm"
    words = ("encode", "-w", str(write_workflow(place, rows)), "-o", str(out), "-s", "serial")
    command = [sys.executable, "-m", "daskt2i.workflow", *words]
    subprocess.run(command, check=True, capture_output=True, env=environment())
    return out


def _round(
    folder: Path,
    calm: Path,
    workflow: Path,
    workers: int,
    seconds: float,
    dice: random.Random,
    deadline: float,
    report: Report,
    tell: Callable[[str], None],
) -> None:
    """Encode one run folder, with mischief until it is finished or the time is over."""
    folder.mkdir()
    size = sum(path.stat().st_size for path in calm.rglob("*") if path.is_file())
    disk = Disk(folder / "disk", 16 + 3 * size // 2**20)
    own = dice.random() < 0.4
    stage = Stage(folder, disk, workflow, workers, seconds, own)
    kinds = EVERYWHERE if own else EVERYWHERE + TO_A_CLUSTER
    begun = time.monotonic()
    tell(f"round {report.rounds}: {'a cluster of its own' if own else 'a cluster that others started'}")
    try:
        while time.monotonic() < deadline:
            stage.keep_cluster()
            stage.start_driver()
            stage.wait_for_receipts(dice.randrange(0, 6), 15)
            _look(stage, report)
            (kind,) = dice.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
            if shown := kind(stage, dice):
                report.done[kind.__name__] += 1
                tell(f"[{time.monotonic() - begun:5.1f} s, {stage.receipts():3d} chunks] {shown}")
            code = stage.look_at_driver()
            if code is not None:
                tell(f"[{time.monotonic() - begun:5.1f} s, {stage.receipts():3d} chunks] the driver ended with {code}")
            if code == 0 or stage.problems:
                break
        _finish(stage)
        if not stage.problems:
            stage.problems += differences(calm, stage.out)
            if (counted := rows_counted(stage.out)) != (wanted := rows_counted(calm)):
                stage.problems.append(f"{counted} rows are counted instead of {wanted}")
    finally:
        stage.close()
        disk.close()
    report.rounds += 1
    report.drivers += stage.drivers
    report.problems += [f"round {report.rounds - 1}: {problem}" for problem in stage.problems]


def _look(stage: Stage, report: Report) -> None:
    """No receipt may be visible whose shards are not."""
    stage.problems += torn_receipts(stage.out)


def _finish(stage: Stage) -> None:
    """Heal everything, and let drivers run in peace until one ends well."""
    stage.disk.free()
    stage.clock = 0.0
    if stage.proxy is not None:
        stage.proxy.heal()
    for _ in range(6):
        if stage.problems:
            return
        stage.keep_cluster()
        stage.start_driver()
        assert stage.driver is not None
        try:
            stage.driver.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            said = stage.driver_log.read_text(encoding="utf-8", errors="replace")
            stage.problems.append(f"an undisturbed driver did not end in {PATIENCE:.0f} s: {said[-300:]}")
            kill_family(stage.driver)
            return
        if stage.look_at_driver() == 0:
            return
        time.sleep(2)
    said = stage.driver_log.read_text(encoding="utf-8", errors="replace")
    stage.problems.append(f"six undisturbed drivers in a row did not end well: {said[-600:]}")
