"""The command cluster slurm: a script on standard output alone, and mistakes that are found before a job waits."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from builders.command_line import one_error, one_object, run
from builders.workflows import write_workflow


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    return write_workflow(tmp_path / "w.yaml")


def command_of(script: str) -> list[str]:
    """The command in a script, as the shell reads it."""
    done = subprocess.run(
        ["bash", "-c", script.partition("# The rest")[0] + '\nprintf "%s\\0" "${command[@]}"'],
        capture_output=True,
        text=True,
    )
    return done.stdout.split("\0")[:-1]


def test_the_script_alone_is_on_standard_output_and_notes_are_not(tmp_path: Path, workflow: Path) -> None:
    words = ["--time", "2:00:00", "--nodes", "1", "-c", "4", "--command", "encode", "--out", "my runs/x"]
    done = run("cluster", "slurm", *words, "-w", "w.yaml", "--set", "run.batch=2", "--where", "a b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash\n")
    assert done.stdout.endswith('exit "$code"\n')
    assert {"#SBATCH --nodes=1", "#SBATCH --cpus-per-task=4"} <= set(done.stdout.splitlines())
    out = str(tmp_path / "my runs" / "x")
    wanted = ["encode", "--workflow", str(workflow), "--out", out, "--where", "a b", "--set", "run.batch=2"]
    assert command_of(done.stdout) == wanted
    assert f"folder={shlex.quote(str(tmp_path / 'my runs'))}" in done.stdout
    assert "--resubmit N" in done.stderr
    assert not (tmp_path / "my runs").exists()


def test_images_are_found_from_any_folder_and_more_options_follow_two_dashes(tmp_path: Path) -> None:
    words = ["--time", "9", "--command", "insights", "--images", "photos", "--captions", "c.json", "--json"]
    found = one_object(run("cluster", "slurm", *words, "--", "--top", "3", "--no-tokens", cwd=tmp_path))
    command = command_of(found["script"])
    assert command[3:] == [
        *("--images", f"{tmp_path}/photos", "--captions", f"{tmp_path}/c.json", "--top", "3", "--no-tokens")
    ]
    assert found["out"] == f"{tmp_path}/runs/demo"


def test_the_certificates_of_a_run_in_an_object_store_are_in_a_folder(tmp_path: Path) -> None:
    words = ["--time", "9", "--out", "memory://bucket/run"]
    assert f"\nfolder={tmp_path}\n" in run("cluster", "slurm", *words, cwd=tmp_path).stdout
    done = run("cluster", "slurm", *words, "--shared", "certificates", cwd=tmp_path)
    assert f"\nfolder={tmp_path}/certificates\n" in done.stdout
    assert "#SBATCH --job-name=daskt2i-run\n" in done.stdout


def test_a_secret_in_the_script_is_told_of(tmp_path: Path) -> None:
    words = ["--time", "9", "--out", "memory://bucket/run", "--set", "run.storage_options={secret: hunter2}"]
    done = run("cluster", "slurm", *words, cwd=tmp_path)
    assert "The script holds a secret" in done.stderr
    assert done.stdout.count("hunter2") == 1  # not in the comment about its making


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--time", "soon"], "--time is 'soon'"),
        (["--time", "9", "--nodes", "0"], "--nodes is 0"),
        (["--time", "9", "--command", "status"], "A job cannot run 'status'"),
        (["--time", "9", "--mem", "much"], "--mem is 'much'"),
        (["--time", "9", "--command", "train", "--images", "x", "--captions", "y"], "train does not take"),
        (["--time", "9", "--", "--colour"], "run does not take"),
        (["--time", "9", "--set", "run.bach=4"], "there is no setting run.bach"),
        (["--time", "9", "-w", "nowhere"], "There is no workflow named 'nowhere'"),
        (["--time", "9", "--job-name", "a b"], "--job-name is 'a b'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_would_fail_after_hours_in_a_queue_is_refused_now(tmp_path: Path, words: list[str], sentence: str) -> None:
    assert sentence in one_error(run("cluster", "slurm", *words, cwd=tmp_path))
