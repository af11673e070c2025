"""Killed changes of rows: readers see the rows of before or of after, and the same command ends the change."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from builders import TESTS
from builders.waiting import wait_for
from builders.workflows import IMAGE, child_environment, write_workflow

import daskt2i

ROWS, GROWN = 12, 24
COMMANDS = ("append", "remove", "replace")
NAMED = (2, 5, 7)
KILLS = 20
SLOW = {"image": {"class": IMAGE, "seconds": 0.005}, "rows_per_chunk": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 12 rows, workflows over 12 and 24 rows, and the ids of three rows. Do not change it."""
    place = tmp_path_factory.mktemp("killed")
    for rows in (ROWS, GROWN):
        write_workflow(place / f"{rows}.yaml", rows=rows, **SLOW)
    (place / "ids.txt").write_text("\n".join(str(row + 1) for row in NAMED))
    with daskt2i.Run(place / f"{ROWS}.yaml", place / "run", scheduler="serial", progress=False) as run:
        run.encode().raise_for_failed()
    return place


def shown(out: Path) -> list[tuple[int, int]]:
    """(image id, number of the row) of what a reader sees."""
    store = daskt2i.open_store(out)
    rows = store.valid.values.nonzero()[0].tolist()
    return sorted(zip(store.image_id.values[rows].tolist(), rows, strict=True))


def bits(out: Path) -> dict[str, str]:
    files = [*out.glob("latents.zarr/**/*"), *out.glob("receipts/*"), out / "manifest.parquet"]
    return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


def count(out: Path) -> int:
    """Files of a run folder now, partial ones too: how far a command is."""
    return sum(len(names) for _, _, names in os.walk(out))


def change(command: str, workflow: Path, out: Path, ids: Path) -> None:
    with daskt2i.Run(workflow, out, scheduler="serial", progress=False) as run:
        result = {"append": run.append, "remove": lambda: run.remove(ids), "replace": lambda: run.replace(ids)}[
            command
        ]()
        assert not result.unknown
        if command != "remove":
            result.raise_for_failed()


def kill_once(base: Path, place: Path, command: str, chance: random.Random) -> None:
    """Kill a command at a random moment, look, and end it."""
    workflow, ids = base / f"{GROWN if command == 'append' else ROWS}.yaml", base / "ids.txt"
    calm, out = place / "calm", place / "out"
    for folder in (calm, out):
        shutil.copytree(base / "run", folder)
    old, untouched = shown(out), bits(out)
    change(command, workflow, calm, ids)
    new, made = shown(calm), count(calm) - count(out)
    words = [sys.executable, "-m", "daskt2i.workflow", command, "-w", str(workflow), "--out", str(out), "--json"]
    words += ["--ids", str(ids)] if command != "append" else []
    words += [] if command == "remove" else ["-s", "serial"]
    environment = {**child_environment(), "PYTHONPATH": str(TESTS.parent)}
    until = count(out) + chance.randint(1, made)
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: count(out) >= until or process.poll() is not None, every=0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert shown(out) in (old, new), "half of a change is seen"
    if shown(out) == old:
        change(command, workflow, out, ids)
    assert shown(out) == new
    assert bits(out) == untouched
    with daskt2i.Run(workflow, out, scheduler="serial", progress=False) as run:
        assert run.status().complete
        assert run.verify().ok


@pytest.mark.parametrize("command", ["append", pytest.param("replace", marks=pytest.mark.slow)])
def test_a_killed_change_shows_old_or_new_rows_and_the_same_command_ends_it(
    command: str, base: Path, tmp_path: Path
) -> None:
    kill_once(base, tmp_path, command, random.Random(1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 2 + KILLS))
def test_a_change_that_is_killed_at_any_moment_shows_old_or_new_rows(seed: int, base: Path, tmp_path: Path) -> None:
    chance = random.Random(seed)
    kill_once(base, tmp_path, chance.choice(COMMANDS), chance)
