"""The command line for its users: other programs, people at a terminal, batch systems."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from builders.command_line import long_lines, one_error, one_object, run, spawn, start
from builders.waiting import wait_for
from builders.workflows import fake_data, fake_settings, finish, write_workflow

COMMANDS = (
    *("run", "encode", "train", "train-vae", "sample", "evaluate"),
    *("status", "verify", "insights", "estimate", "suggest", "scenes"),
)

GROUPS = {"bench": ("encode", "scheduler", "read", "train", "sample")}
"""Commands that have subcommands."""

ENCODE_KEYS = [
    *("out", "store", "rows", "accepted", "rejected", "captions", "chunks", "seconds", "images_per_second", "bytes"),
    *("workers", "threads", "precision"),
]
"""Keys that other programs read (DESIGN.md)."""

VERIFY_KEYS = ["ok", "rows", "chunks", "bad", "unfinished"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `fake.yaml` and its finished run `out`: 20 rows, one of them missing."""
    folder = tmp_path_factory.mktemp("finished")
    settings: dict[str, Any] = {"source": {"missing": [3]}}
    write_workflow(folder / "fake.yaml", **settings)
    finish(fake_settings(**settings), folder / "out")
    return folder


# Help and wrong command lines


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=["top", *COMMANDS])
def test_help_fits_80_columns(command: tuple[str, ...]) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    wanted = COMMANDS if not command else ("--json", "--out")
    assert all(word in done.stdout for word in wanted)


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_a_group_names_its_commands_and_fits_80_columns(group: str) -> None:
    top, whole = run("--help"), run(group, "--help")
    assert group in top.stdout
    assert all(name in whole.stdout for name in GROUPS[group])
    for name in GROUPS[group]:
        done = run(group, name, "--help")
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert all(word in done.stdout for word in ("--json", "--out"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", "--colour"],
        ["paint"],
        ["encode", "extra"],
        ["scenes", "--rows", "0"],
        ["scenes", "--rows", "many"],
        [],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_2_with_nothing_on_standard_output(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    if arguments:
        assert done.stdout == ""


def test_the_version_is_printed() -> None:
    import daskt2i

    assert run("--version").stdout == f"daskt2i {daskt2i.__version__}\n"


# Errors


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["encode", "--workflow", "nowhere"], "There is no workflow named 'nowhere'"),
        (["encode", "--workflow", "nowhere.yaml"], "There is no file nowhere.yaml"),
        (["encode", "--set", "run.bach=4"], "there is no setting run.bach"),
        (["encode", "--set", "run.batch"], "does not have the form section.key=value"),
        (["encode", "--scheduler", "nowhere"], "There is no cluster named 'nowhere'"),
        (["encode", "--scheduler", "serial:2"], "The scheduler serial has only one process"),
        (["encode", "--images", "here"], "There is nothing at"),
        (["encode", "--captions", "here"], "give both"),
        (["encode", "--images", "here", "--captions", "nowhere.json", "--dry-run"], "nowhere.json"),
        (["encode", "--images", "nowhere", "--captions", "captions.json", "--dry-run"], "nowhere"),
        (["status", "--out", "nowhere"], "There is no latent store in"),
        (["verify", "--out", "nowhere"], "There is no latent store in"),
        (["status", "--set", "x"], "does not have the form section.key=value"),
        (["scenes", "--rows", "2", "--out", "captions.json"], "captions.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_an_error_is_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    (tmp_path / "captions.json").write_text('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}')
    assert sentence in one_error(run(*arguments, cwd=tmp_path))
    assert not (tmp_path / "nowhere").exists()


def test_an_error_with_json_leaves_standard_output_empty(tmp_path: Path) -> None:
    one_error(spawn("status", "--out", tmp_path / "nowhere", "--json"))


def test_an_encoder_that_does_not_decode_back_gives_an_error_with_its_psnr(tmp_path: Path) -> None:
    settings = write_workflow(tmp_path / "w.yaml", image={"pixel_range": "unit"})
    done = spawn("encode", "-w", settings, "-o", tmp_path / "out", "-s", "serial", "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.search(r"error: .* decode to pictures with 1\d\.\d dB PSNR.* wrong pixel range", done.stderr)
    assert "Traceback" not in done.stderr


def test_a_changed_setting_is_refused_and_the_error_names_the_difference(finished: Path) -> None:
    done = run("encode", "-w", finished / "fake.yaml", "-o", finished / "out", "--set", "dataset.image.resolution=64")
    assert "dataset.image.resolution: 32 there, 64 now" in one_error(done)


# Encode


def test_encode_prints_one_object_and_nothing_else(tmp_path: Path) -> None:
    settings = write_workflow(tmp_path / "w.yaml", source={"missing": [3], "uncaptioned": [7]})
    done = spawn("encode", "-w", settings, "-o", tmp_path / "out", "-s", "serial", "--json")
    assert done.returncode == 0, done.stderr
    found = one_object(done)
    assert list(found) == ENCODE_KEYS
    assert (found["rows"], found["accepted"], found["captions"]) == (20, 18, 36)
    assert found["rejected"] == {"missing-file": 1, "no-caption": 1}
    assert found["chunks"] == {"done": 3, "skipped": 0, "failed": 0}
    assert (found["workers"], found["precision"]) == (1, "fp32")
    assert found["out"] == str(tmp_path / "out")
    assert found["store"] == str(tmp_path / "out" / "latents.zarr")
    assert found["images_per_second"] == pytest.approx(18 / found["seconds"], rel=0.01)
    shards = [p for p in (tmp_path / "out" / "latents.zarr").rglob("c.*") if p.is_file()]
    assert found["bytes"] == sum(p.stat().st_size for p in shards)

    again = one_object(run("encode", "-w", settings, "-o", tmp_path / "out", "-s", "serial", "--json"))
    assert again["chunks"] == {"done": 0, "skipped": 3, "failed": 0}
    changing = {"chunks", "seconds", "images_per_second", "workers", "threads"}
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in found.items() if k not in changing
    }


def test_encode_for_a_person_shows_plan_and_summary(tmp_path: Path) -> None:
    settings = write_workflow(tmp_path / "w.yaml")
    done = run("encode", "-w", "w.yaml", "-o", "out", "-s", "serial", cwd=settings.parent)
    assert done.returncode == 0, done.stderr
    assert "Plan of fake" in done.stderr
    assert "20: 20 accepted, 0 rejected" in done.stdout
    assert "3 encoded now, 0 found done, 0 failed" in done.stdout
    assert long_lines(done.stdout + done.stderr, tmp_path) == []
    assert "\x1b" not in done.stdout + done.stderr


def test_the_run_folder_is_named_after_the_workflow(tmp_path: Path) -> None:
    write_workflow(tmp_path / "w.yaml")
    done = run("encode", "-w", "w.yaml", "-s", "serial", "--json", cwd=tmp_path)
    assert one_object(done)["out"] == str(tmp_path / "runs" / "fake")
    assert sorted(p.name for p in (tmp_path / "runs" / "fake").iterdir()) == [
        "daskt2i-run.json",
        "events.jsonl",
        "latents.zarr",
        "manifest.parquet",
        "receipts",
        "workflow.yaml",
    ]


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    settings = write_workflow(tmp_path / "w.yaml")
    done = run("encode", "-w", settings, "-o", tmp_path / "out", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("rows", "chunks", "workers", "thread", "memory", "disk"))
    found = one_object(run("encode", "-w", settings, "-o", tmp_path / "out", "--dry-run", "--json"))
    assert (found["rows"], found["chunks"], found["captions"]) == (20, 3, 40)
    assert found["memory_per_worker"] > 0 < found["bytes"]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_a_workflow_with_scenes_draws_nothing(tmp_path: Path) -> None:
    data = fake_data()
    del data["dataset"]["source"]
    (tmp_path / "w.yaml").write_text(yaml.safe_dump({**data, "scenes": {"rows": 30}}))
    found = one_object(run("encode", "-w", "w.yaml", "--dry-run", "--json", cwd=tmp_path))
    assert (found["rows"], found["captions"], found["chunks"]) == (30, 150, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["w.yaml"]


def test_chunks_that_fail_on_every_try_are_named_and_the_exit_code_is_1(tmp_path: Path) -> None:
    """The source is broken only for rows 8 to 11, which are chunk 1."""
    (tmp_path / "mine.py").write_text(
        "from daskt2i.sources.fake import FakeSource\n"
        "class Broken(FakeSource):\n"
        "    def read(self, row):\n"
        "        if row.index == 9: raise OSError('the disk is gone')\n"
        "        return super().read(row)\n"
    )
    write_workflow(tmp_path / "w.yaml", source={"class": "mine.Broken"}, retries=1)
    done = spawn("encode", "-w", "w.yaml", "-o", "out", "-s", "serial", "--json", cwd=tmp_path)
    assert done.returncode == 1
    found = one_object(done)
    assert found["chunks"] == {"done": 2, "skipped": 0, "failed": 1}
    assert "error: 1 chunk failed after 2 tries: 1." in done.stderr
    assert "the disk is gone" in done.stderr
    assert "Traceback" not in done.stderr
    assert "OSError: the disk is gone" in (tmp_path / "out" / "errors" / "chunk-0000001.log").read_text()
    assert not (tmp_path / "out" / "manifest.parquet").exists()


def test_a_third_party_class_beside_the_workflow_is_found_by_worker_processes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from daskt2i.sources.fake import FakeSource\nclass Mine(FakeSource): pass\n")
    write_workflow(tmp_path / "w.yaml", source={"class": "mine.Mine"})
    done = spawn("encode", "-w", "w.yaml", "-o", "out", "-s", "local:1", "--json", cwd=tmp_path)
    assert one_object(done)["accepted"] == 20


# Status and verify


def test_status_reports_the_progress_of_a_run(finished: Path) -> None:
    found = one_object(run("status", "-w", finished / "fake.yaml", "-o", finished / "out", "--json"))
    assert (found["rows"], found["rows_done"], found["accepted"], found["rejected"]) == (
        20,
        20,
        19,
        {"missing-file": 1},
    )
    assert found["chunks"] == {"done": 3, "open": 0}
    assert (found["complete"], found["running"], found["random_weights"]) == (True, "", False)
    done = run("status", "-w", finished / "fake.yaml", "-o", finished / "out")
    assert "The encode is complete" in done.stdout
    assert "20 of 20: 19 accepted, 1 rejected" in done.stdout
    assert done.stderr == ""


def test_verify_reports_that_the_store_is_in_order(finished: Path) -> None:
    done = run("verify", "-w", finished / "fake.yaml", "-o", finished / "out", "--json")
    found = one_object(done)
    assert done.returncode == 0
    assert list(found) == VERIFY_KEYS
    assert found == {"ok": True, "rows": 20, "chunks": 3, "bad": [], "unfinished": []}


def test_verify_names_the_damaged_chunk_and_encode_repairs_only_that_chunk(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = write_workflow(tmp_path / "w.yaml")
    finish(fake_settings(), out)
    shard = out / "latents.zarr" / "latent_mean" / "c.1.0.0.0"
    before = shard.read_bytes()
    shard.write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])

    done = run("verify", "-w", settings, "-o", out, "--json")
    assert done.returncode == 1
    assert one_object(done) == {"ok": False, "rows": 20, "chunks": 3, "bad": [1], "unfinished": []}
    shown = run("verify", "-w", settings, "-o", out)
    assert shown.returncode == 1
    assert "chunk 1:" in shown.stdout
    assert "encode again" in shown.stdout
    assert "Traceback" not in shown.stderr

    again = one_object(run("encode", "-w", settings, "-o", out, "-s", "serial", "--json"))
    assert again["chunks"] == {"done": 1, "skipped": 2, "failed": 0}
    assert shard.read_bytes() == before


# Scenes


def test_scenes_writes_a_coco_folder(tmp_path: Path) -> None:
    done = run("scenes", "--rows", "3", "--out", tmp_path / "drawn", "--json")
    assert one_object(done) == {
        "out": str(tmp_path / "drawn"),
        "rows": 3,
        "captions": str(tmp_path / "drawn" / "captions.json"),
    }
    document = json.loads((tmp_path / "drawn" / "captions.json").read_text())
    assert len(document["images"]) == 3
    assert len(document["annotations"]) == 15
    assert sorted(p.name for p in (tmp_path / "drawn" / "images").iterdir()) == sorted(
        image["file_name"] for image in document["images"]
    )
    assert "3 scenes in" in run("scenes", "-n", "3", "-o", tmp_path / "drawn").stdout


# Ctrl-C


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _receipts(out: Path) -> int:
    return len(list((out / "receipts").glob("chunk-*.json")))


@contextlib.contextmanager
def encoding(tmp_path: Path, scheduler: str) -> Iterator[tuple[subprocess.Popen[str], Path, list[str | Path]]]:
    """A slow encode that is running: 16 chunks of 100 ms or more."""
    settings = write_workflow(tmp_path / "w.yaml", rows=16, rows_per_chunk=1, image={"seconds": 0.1}, gate_rows=0)
    out = tmp_path / "out"
    command: list[str | Path] = ["encode", "-w", settings, "-o", out, "-s", scheduler, "--json"]
    with start(*command) as process:
        try:
            yield process, out, command
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(  # by default, tests/encode/test_faults.py tests Ctrl-C for the whole group of local:2
    "scheduler",
    ["serial", "multiprocessing:2", *(pytest.param(each, marks=pytest.mark.slow) for each in ("joblib:2", "local:2"))],
)
def test_ctrl_c_stops_cleanly_and_the_same_command_resumes(tmp_path: Path, scheduler: str) -> None:
    with encoding(tmp_path, scheduler) as (process, out, command):
        wait_for(lambda: _receipts(out) >= 2 or process.poll() is not None, what="two chunks")
        family = _family(process)
        assert bool(family) == (scheduler != "serial")
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
        printed, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert printed == ""
    assert "Traceback" not in said
    done = _receipts(out)
    assert 2 <= done < 16
    stopped = f"Stopped. {done} of 16 chunks are finished in {out}. Encode again to continue with the other chunks.\n"
    assert stopped in said
    assert len(said.splitlines()) <= 5, said
    wait_for(lambda: not any(map(_alive, family)), 10, "the workers to end")
    # Resuming does not depend on the scheduler, so two of them are enough.
    found = one_object(spawn(*command) if scheduler == "local:2" else run(*command, "-s", "serial"))
    assert found["chunks"] == {"done": 16 - done, "skipped": done, "failed": 0}
    assert found["accepted"] == 16


@pytest.mark.parametrize("scheduler", ["serial", pytest.param("local:2", marks=pytest.mark.slow)])
def test_sigterm_of_a_batch_system_stops_cleanly_too(tmp_path: Path, scheduler: str) -> None:
    with encoding(tmp_path, scheduler) as (process, out, _):
        wait_for(lambda: _receipts(out) >= 2 or process.poll() is not None, what="two chunks")
        family = _family(process)
        os.kill(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "chunks are finished in" in said
    wait_for(lambda: not any(map(_alive, family)), 10, "the workers to end")


@pytest.mark.parametrize("scheduler", ["multiprocessing:2", "joblib:2", "local:2"])
def test_ctrl_c_while_workers_start_prints_no_traceback(tmp_path: Path, scheduler: str) -> None:
    """Worker processes that are still importing must not print tracebacks."""
    with encoding(tmp_path, scheduler) as (process, _, _command):
        # The first child is Python's resource tracker; workers follow it.
        wait_for(lambda: len(_family(process)) >= 2 or process.poll() is not None, what="worker processes")
        time.sleep(0.05)
        family = _family(process)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("Stopped")
    wait_for(lambda: not any(map(_alive, family)), 10, "the workers to end")


def test_status_and_a_second_encode_see_that_the_first_is_running(tmp_path: Path) -> None:
    with encoding(tmp_path, "serial") as (process, out, command):
        wait_for(lambda: _receipts(out) >= 1 or process.poll() is not None, what="one chunk")
        found = one_object(run("status", "-o", out, "--json"))
        assert f"pid {process.pid}" in found["running"]
        assert not found["complete"]
        assert f"pid {process.pid}" in one_error(run(*command))
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    assert one_object(run("status", "-o", out, "--json"))["running"] == ""
