"""Killed processes, a lost scheduler, a full disk: no row is lost or stored twice, and the same command resumes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr
from builders import CHILD_PATH
from builders.command_line import run
from builders.waiting import wait_for

from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder

CHUNKS = 32
ROWS_PER_CHUNK = 4


class CountedSource:
    """A `FakeSource` that leaves a mark each time the second row of a chunk is read."""

    def __new__(cls, marks: str, rows: int) -> Any:
        from daskt2i.sources.fake import FakeSource

        class Inner(FakeSource):
            def read(self, row: Any) -> bytes:
                if row.index % ROWS_PER_CHUNK == 1:  # workers also read the first row of all, to compare it
                    (Path(marks) / f"{row.index // ROWS_PER_CHUNK}-{os.getpid()}-{time.monotonic_ns()}").touch()
                return super().read(row)

        return Inner(rows)


def also_slow(*values: str) -> list[Any]:
    """Cases that a quick run skips: another case covers the same code."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def write_workflow(folder: Path, seconds: float, chunks: int = CHUNKS) -> Path:
    """A workflow with fake components, whose image encoder needs `seconds` for an image."""
    (folder / "marks").mkdir(parents=True, exist_ok=True)
    rows = chunks * ROWS_PER_CHUNK
    settings = {
        "name": "faults",
        "dataset": {
            "source": {"class": "encode.test_faults.CountedSource", "marks": str(folder / "marks"), "rows": rows},
            "image": {"resolution": 32},
            "encoders": {
                "image": {"class": "daskt2i.encoders.fake.FakeImageEncoder", "seconds": seconds},
                "text": {"class": "daskt2i.encoders.fake.FakeTextEncoder"},
            },
            "precision": "fp32",
            "rows_per_chunk": ROWS_PER_CHUNK,
        },
        "run": {"device": "cpu"},  # no process asks torch, which takes seconds to import
    }
    path = folder / "faults.yaml"
    path.write_text(json.dumps(settings))
    return path


def command(*words: str) -> subprocess.Popen[str]:
    """The command line in its own process group, as a shell starts it."""
    environment = {**os.environ, "PYTHONPATH": CHILD_PATH}
    return subprocess.Popen(
        [sys.executable, "-m", "daskt2i.workflow", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str], timeout: float = 200) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def encode(workflow: Path, out: Path, scheduler: str) -> subprocess.Popen[str]:
    return command("encode", "-w", str(workflow), "-o", str(out), "-s", scheduler, "--json")


def workers(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """Processes that run chunks: spawned by multiprocessing (Dask's too), or loky's."""
    found = []
    try:
        for child in psutil.Process(driver.pid).children(recursive=True):
            line = " ".join(child.cmdline())
            if "resource_tracker" not in line and ("spawn_main" in line or "loky" in line):
                found.append(child)
    except psutil.NoSuchProcess:
        pass
    return found


def encoded(workflow: Path, out: Path, scheduler: str) -> tuple[int, str, str]:
    """Exit code and output of an encode that runs to its end. `serial` needs no process of its own."""
    if scheduler != "serial":
        return finished(encode(workflow, out, scheduler))
    done = run("encode", "-w", workflow, "-o", out, "-s", scheduler, "--json")
    return done.returncode, done.stdout, done.stderr


def receipts(out: Path) -> int:
    return len(list((out / "receipts").glob("chunk-*.json")))


def arrays(out: Path) -> dict[str, Any]:
    group = zarr.open_group(out / "latents.zarr", mode="r")
    return {name: np.asarray(array[...]) for name, array in group.arrays()}


def assert_whole(out: Path, calm: dict[str, Any]) -> None:
    """Every row is stored once, the arrays equal those of an undisturbed run, and `verify` finds no problem."""
    found = arrays(out)
    for name, expected in calm.items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
    rows = [r for receipt in Receipts(RunFolder(out)).read() for r in range(receipt.start, receipt.stop)]
    assert rows == list(range(CHUNKS * ROWS_PER_CHUNK))
    done = run("verify", "-o", out, "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True), done.stderr


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The arrays of an undisturbed run."""
    folder = tmp_path_factory.mktemp("calm")
    done = run("encode", "-w", write_workflow(folder, 0.0), "-o", folder / "out", "-s", "serial", "--json")
    assert done.returncode == 0, done.stderr
    return arrays(folder / "out")


@pytest.mark.slow  # `.ci/run` kills workers in tests/chaos, and by default those of executors die in their conformance
@pytest.mark.parametrize(("deaths", "seconds"), [(5, 0.12), (20, 0.4)])
def test_killed_workers_lose_no_row(deaths: int, seconds: float, tmp_path: Path, calm: dict[str, Any]) -> None:
    out, dice, kills = tmp_path / "out", random.Random(7), 0
    driver = encode(write_workflow(tmp_path, seconds), out, "local:2")
    wait_for(lambda: any((tmp_path / "marks").iterdir()))
    while kills < deaths and driver.poll() is None:
        time.sleep(dice.uniform(0.3, 1.5))
        if victims := workers(driver):
            try:
                dice.choice(victims).kill()
                kills += 1
            except psutil.NoSuchProcess:
                continue
    code, text, err = finished(driver)
    assert code == 0, err
    assert kills == deaths
    assert "Traceback" not in err
    summary = json.loads(text)
    assert summary["accepted"] == CHUNKS * ROWS_PER_CHUNK
    assert summary["chunks"] == {"done": CHUNKS, "skipped": 0, "failed": 0}
    runs = Counter(int(mark.name.split("-")[0]) for mark in (tmp_path / "marks").iterdir())
    assert sorted(runs) == list(range(CHUNKS))
    assert sum(runs.values()) <= CHUNKS + kills  # a death costs only the worker's current chunk
    assert_whole(out, calm)


@pytest.mark.parametrize("scheduler", ["multiprocessing:2", *also_slow("local:2", "joblib:2", "serial")])
def test_a_killed_driver_costs_only_the_chunks_in_flight(scheduler: str, tmp_path: Path, calm: dict[str, Any]) -> None:
    out, workflow = tmp_path / "out", write_workflow(tmp_path, 0.02)
    driver = encode(workflow, out, scheduler)
    wait_for(lambda: receipts(out) >= 5)
    driver.kill()
    driver.communicate()
    before = receipts(out)
    assert before < CHUNKS
    code, text, err = finished(encode(workflow, out, scheduler))
    assert code == 0, err
    chunks = json.loads(text)["chunks"]
    assert chunks["done"] + chunks["skipped"] == CHUNKS
    assert chunks["skipped"] >= before
    runs = Counter(int(mark.name.split("-")[0]) for mark in (tmp_path / "marks").iterdir())
    assert sum(runs.values()) <= CHUNKS + 4
    assert_whole(out, calm)


@pytest.mark.parametrize("scheduler", [*also_slow("multiprocessing:2", "local:2")])
def test_ctrl_c_to_the_process_group_stops_cleanly_and_the_same_command_resumes(
    scheduler: str, tmp_path: Path, calm: dict[str, Any]
) -> None:
    out, workflow = tmp_path / "out", write_workflow(tmp_path, 0.05)
    driver = encode(workflow, out, scheduler)
    wait_for(lambda: receipts(out) >= 3)
    children = workers(driver)
    os.killpg(driver.pid, signal.SIGINT)
    code, text, err = finished(driver, 60)
    assert code == 130, err
    assert text == ""
    assert "Traceback" not in err
    assert "Encode again to continue with the other chunks" in err
    psutil.wait_procs(children, timeout=20)
    assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
    code, text, err = finished(encode(workflow, out, scheduler))
    assert code == 0, err
    assert json.loads(text)["chunks"]["skipped"] >= 3
    assert_whole(out, calm)


@pytest.mark.slow  # it waits for a scheduler that is gone
def test_a_lost_scheduler_is_reported_in_one_sentence(tmp_path: Path) -> None:
    script = (
        "from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    place = dict(host='127.0.0.1', dashboard_address='127.0.0.1:0')\n"
        "    cluster = LocalCluster(n_workers=1, threads_per_worker=1, **place)\n"
        "    print(cluster.scheduler_address, flush=True)\n"
        "    input()\n"
    )
    (tmp_path / "cluster.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": CHILD_PATH}
    cluster = subprocess.Popen(
        [sys.executable, str(tmp_path / "cluster.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert cluster.stdout is not None
    address = cluster.stdout.readline().strip()
    out = tmp_path / "out"
    driver = encode(write_workflow(tmp_path, 0.1), out, address)
    wait_for(lambda: receipts(out) >= 2 or driver.poll() is not None)
    ended = driver.poll() is not None
    cluster.kill()
    cluster.communicate()
    assert not ended, driver.communicate()
    code, text, err = finished(driver, 120)
    assert (code, text) == (1, "")
    assert "Traceback" not in err
    assert "error: The scheduler is gone" in err


def test_a_second_encode_while_one_runs_is_refused_and_the_error_names_the_first(tmp_path: Path) -> None:
    out, workflow = tmp_path / "out", write_workflow(tmp_path, 0.05)
    first = encode(workflow, out, "serial")
    wait_for(lambda: receipts(out) >= 1)
    code, text, err = encoded(workflow, out, "serial")
    assert (code, text) == (1, "")
    assert f"pid {first.pid}" in err
    assert "Traceback" not in err
    assert finished(first)[0] == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("scheduler", ["serial", *also_slow("local:2")])
def test_a_full_disk_is_reported_in_one_sentence_and_the_store_stays_valid(
    scheduler: str, small_disk: Path, tmp_path: Path, calm: dict[str, Any]
) -> None:
    out, workflow = small_disk / "out", write_workflow(tmp_path, 0.0)
    code, text, err = encoded(workflow, out, scheduler)
    assert (code, text) == (1, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: No space is left")
    assert "Traceback" not in err
    done = receipts(out)
    assert 0 < done < CHUNKS
    seen = run("verify", "-o", out, "--json")
    assert (seen.returncode, len(json.loads(seen.stdout)["bad"])) == (1, CHUNKS - done)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    code, text, err = encoded(workflow, out, scheduler)
    assert code == 0, err
    assert json.loads(text)["chunks"]["skipped"] == done
    assert_whole(out, calm)
