"""What the messages about job scripts tell a user to do works."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from builders.advice import told
from builders.command_line import run

from daskt2i.deploy.slurm.job_folder import find_job, make_job_folder
from daskt2i.deploy.slurm.partition import require_nodes
from daskt2i.deploy.slurm.request import JobRequest, seconds_of

USUAL: dict[str, Any] = {"command": ("run",), "out": "/data/run", "folder": "/data", "cwd": "/", "time": "9"}


def test_a_size_of_the_form_that_the_message_names_is_taken() -> None:
    with told("deploy/slurm/request.py:JobRequest.__post_init__ ConfigError"):
        JobRequest(**USUAL, memory="64 GB")
    assert JobRequest(**USUAL, memory="64G").memory == "64G"


def test_a_number_that_is_not_too_small_is_taken() -> None:
    with told("deploy/slurm/request.py:_require_count ConfigError"):
        JobRequest(**USUAL, nodes=0)
    assert JobRequest(**USUAL, nodes=1).nodes == 1


def test_a_name_of_the_signs_that_the_message_names_is_taken() -> None:
    with told("deploy/slurm/request.py:JobRequest.__post_init__ ConfigError"):
        JobRequest(**USUAL, named={"partition": "a b"})
    name = "aZ9-_.,:@%+=/"
    assert JobRequest(**USUAL, named={"partition": name}).named["partition"] == name


def test_an_option_of_the_form_that_the_message_names_is_taken() -> None:
    with told("deploy/slurm/request.py:JobRequest.__post_init__ ConfigError"):
        JobRequest(**USUAL, flags=("--reservation course",))
    assert JobRequest(**USUAL, flags=("reservation=course",)).flags == ("reservation=course",)


def test_a_smaller_number_of_seconds_is_taken() -> None:
    with told("deploy/slurm/request.py:JobRequest.__post_init__ ConfigError"):
        JobRequest(**USUAL, stop_seconds=540)
    assert JobRequest(**USUAL, stop_seconds=539).stop_before == 539


def test_the_times_that_the_message_names_are_taken() -> None:
    with told("deploy/slurm/request.py:seconds_of ConfigError"):
        seconds_of("2h")
    assert [seconds_of(text) for text in ("90", "1:30:00", "2-12")] == [5400, 5400, 216_000]


def test_another_folder_for_the_certificates_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with told("deploy/slurm/job_folder.py:make_job_folder ConfigError"):
        make_job_folder(tmp_path / "file", "/data/run")
    assert make_job_folder(tmp_path / "folder", "/data/run").is_dir()


def test_a_command_and_options_that_the_messages_name_are_taken(tmp_path: Path) -> None:
    words = ["cluster", "slurm", "--time", "9"]
    assert "give one of run, encode" in run(*words, "--command", "status", cwd=tmp_path).stderr
    assert run(*words, "--command", "encode", cwd=tmp_path).returncode == 0
    assert "shows its options" in run(*words, "--", "--colour", cwd=tmp_path).stderr
    assert run(*words, "--", "--json", cwd=tmp_path).returncode == 0


def test_workers_join_a_job_that_was_submitted_first(tmp_path: Path) -> None:
    with told("deploy/slurm/job_folder.py:find_job SchedulerError"):
        find_job(tmp_path, "/data/run", 0)
    with socket.create_server(("127.0.0.1", 0)) as scheduler:
        folder = make_job_folder(tmp_path, "/data/run")
        (folder / "scheduler.json").write_text(f'{{"address": "tls://127.0.0.1:{scheduler.getsockname()[1]}"}}')
        assert find_job(tmp_path, "/data/run", 0)[0] == folder


def test_fewer_nodes_or_another_partition_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sinfo = tmp_path / "sinfo"
    sinfo.write_text('#!/bin/sh\n[ "$3" = --partition=large ] && echo "large 99" || printf "small* 2\\nlarge 99\\n"\n')
    sinfo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with told("deploy/slurm/partition.py:require_nodes ConfigError"):
        require_nodes(9, "")
    require_nodes(2, "")
    require_nodes(9, "large")
    sinfo.write_text("#!/bin/sh\nexit 1\n")  # SLURM does not answer
    require_nodes(9, "")
