"""A worker or the driver is killed while figures are measured: the same command ends with the same figures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from builders.runs import SETS
from builders.waiting import wait_for
from builders.workflows import child_environment

from evaluation.figures.test_driver import models as models
from evaluation.figures.test_driver import out as out
from evaluation.figures.test_driver import real as real

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SAMPLES = 40


def command(out: Path, real: Path, models: dict[str, str]) -> list[str]:
    sets = [*SETS, "--set", "sample.steps=6", "--set", "sample.batch=2", "--set", "evaluate.few_samples=true"]
    figures = ["--metrics", "fid,kid,cmmd,clip,precision", "--reference", str(real), "--samples", str(SAMPLES)]
    weights = [word for place in models.values() for word in ("--weights", place)]
    return [sys.executable, "-m", "daskt2i.workflow", "evaluate", "-s", "local:2", "-o", str(out), "--json",
            *sets, *figures, *weights]  # fmt: skip


def parts(out: Path) -> int:
    """Parts of drawn pictures whose features are in the run folder."""
    return len(list((out / "reports" / "features").rglob("*.safetensors")))


def disturbed(words: list[str], out: Path, disturb: Callable[[psutil.Process], None]) -> tuple[int, str, str]:
    """Run the command, and disturb it when some parts are there. Its exit code, output and errors."""
    with subprocess.Popen(
        words, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: parts(out) >= 2 or process.poll() is not None, 240, every=0.02)
        assert process.poll() is None, "it ended before it was disturbed"
        children = psutil.Process(process.pid).children(recursive=True)
        disturb(psutil.Process(process.pid))
        told = process.communicate()
        psutil.wait_procs(children, timeout=20)
        assert [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
        return process.returncode, *told


def kill_worker(driver: psutil.Process) -> None:
    """Kill the process that draws: the one below Dask's nanny that uses most time."""
    workers = [one for one in driver.children(recursive=True) if not one.children()]
    max(workers, key=lambda one: sum(one.cpu_times()[:2])).kill()


def figures(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return {
        name: value for name, value in found.items() if name in ("fid", "kid", "cmmd", "clip", "precision", "drawn")
    }


def test_a_killed_worker_or_driver_changes_no_figure(
    out: Path, real: Path, models: dict[str, str], tmp_path: Path
) -> None:
    worker, driver = (Path(shutil.copytree(out, tmp_path / name)) for name in ("worker", "driver"))
    calm = subprocess.run(command(out, real, models), env=child_environment(), capture_output=True, text=True)
    assert calm.returncode == 0, calm.stderr
    wanted = figures(calm.stdout)
    assert len(wanted) > 3

    code, said, complaint = disturbed(command(worker, real, models), worker, kill_worker)
    assert code == 0, complaint
    assert figures(said) == pytest.approx(wanted, rel=1e-3)
    assert "Traceback" not in complaint

    code, _, complaint = disturbed(command(driver, real, models), driver, psutil.Process.kill)
    assert code != 0
    kept = parts(driver)
    again = subprocess.run(command(driver, real, models), env=child_environment(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert figures(again.stdout) == pytest.approx(wanted, rel=1e-3)
    assert kept >= 2
