"""A job script for SLURM: what stands in it, and what its shell program does when things end.

SLURM itself is not needed: the script runs in bash, with small programs in place of `srun`, `sbatch` and Python.
One test of a real SLURM runs with --slow, where there is one.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import dask.config
import pytest
import yaml
from builders.workflows import child_environment, write_workflow

from daskt2i.deploy.slurm.job_folder import find_job, make_job_folder
from daskt2i.deploy.slurm.request import JobRequest, seconds_of
from daskt2i.deploy.slurm.script import job_script
from daskt2i.errors import ConfigError, SchedulerError

UGLY = 'a b\'s "c" $(touch HERE) `touch HERE` \\ * # ;\nnext'


def request(**given: Any) -> JobRequest:
    usual = {"command": ("encode", "--out", "/data/run"), "out": "/data/run", "folder": "/data", "cwd": "/"}
    return JobRequest(**{**usual, "time": "2:00:00", **given})


def header(**given: Any) -> list[str]:
    lines = job_script(request(**given)).splitlines()
    return [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]


# ---- what is asked of SLURM ----


def test_the_lines_for_sbatch_say_what_was_asked() -> None:
    found = header(nodes=4, cpus=8, memory="64G", gpus=2, named={"partition": "gpu", "account": ""}, flags=("qos=x",))
    assert found == [
        *("--job-name=daskt2i", "--nodes=4", "--ntasks-per-node=2", "--cpus-per-task=8", "--mem=64G"),
        *("--gpus-per-node=2", "--time=2:00:00", "--signal=B:USR1@120", "--partition=gpu"),
        *("--open-mode=append", "--requeue", "--no-kill", "--qos=x"),
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-2", 93_600), ("1-2:30", 95_400), ("1-2:30:10", 95_410)],
)
def test_a_time_has_each_of_the_forms_of_slurm(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "2h", "-5", "1:2:3:4", "1.5", "0:59", "UNLIMITED", "1-", "1:00\n--x"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--time is"):
        request(time=text)


@pytest.mark.parametrize(("limit", "before"), [("1", 15), ("4", 60), ("8", 120), ("2-0", 120)])
def test_a_short_job_stops_later(limit: str, before: int) -> None:
    assert request(time=limit).stop_before == before


@pytest.mark.parametrize(
    "given",
    [
        *({"nodes": 0}, {"nodes": 70_000}, {"cpus": 0}, {"workers_per_node": 0}, {"gpus": -1}, {"resubmit": -1}),
        *({"memory": text} for text in ("64 G", "lots", "0", "1.5G", "64GiB", "1G\n#SBATCH --x")),
        *({"name": text} for text in ("a b", "a\n#SBATCH --wrap=x", "a'b", "a#b")),
        *({"named": {"partition": text}} for text in ("a b", "x\ny")),
        *({"flags": (text,)} for text in ("", "--qos=x", "qos=a b", "Qos", "qos=a\nb")),
        *({"interface": "ib0 --port 1"}, {"stop_seconds": 7200}, {"stop_seconds": 0}),
    ],
    ids=str,
)
def test_what_sbatch_would_read_otherwise_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="No script was written"):
        request(**given)


# ---- quoting ----


def test_any_text_reaches_the_command_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "w d").mkdir()
    asked = request(command=("encode", "--set", UGLY), out=UGLY, folder=UGLY, cwd=str(tmp_path / "w d"))
    values = job_script(asked, python=UGLY, made_by=UGLY).partition("# The rest is the same")[0]
    show = 'printf "%s\\0" "${command[@]}" "$out" "$folder" "$python" "$PWD" "$resubmit"'
    done = subprocess.run(["bash", "-c", f"{values}\n{show}"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split("\0")[:-1] == ["encode", "--set", UGLY, *[UGLY] * 3, str(tmp_path / "w d"), "0"]
    assert not list(tmp_path.rglob("HERE"))


@pytest.mark.parametrize(
    "given", [{}, {"join": True}, {"out": UGLY, "command": ("run", UGLY), "setup": ("module load x",)}], ids=str
)
def test_the_script_is_right_to_the_shell_and_to_shellcheck(given: dict[str, Any]) -> None:
    script = job_script(request(interface="ib0", **given))
    assert subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True).stderr == ""
    if shutil.which("shellcheck") is None:
        pytest.skip("bash -n accepts it; shellcheck is not installed here")
    done = subprocess.run(["shellcheck", "-"], input=script, capture_output=True, text=True)
    assert done.stdout == ""


# ---- the folder of the job ----


def test_only_this_user_can_read_the_certificates_of_a_job(tmp_path: Path) -> None:
    folder = make_job_folder(tmp_path / "new", "/data/run")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}
    found = yaml.safe_load((folder / "dask.yaml").read_text())
    assert found["distributed"]["comm"]["require-encryption"] is True
    assert found["distributed"]["worker"]["memory"]["pause"] == 0.80
    assert found["distributed"]["nanny"]["pre-spawn-environ"]["MALLOC_TRIM_THRESHOLD_"] is None


def test_the_users_own_settings_and_certificates_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("distributed: {comm: {timeouts: {connect: 77s}}, admin: {tick: {interval: 1s}}}\n")
    monkeypatch.setenv("DASK_CONFIG", str(own))
    with dask.config.set({"distributed.comm.tls.ca-file": "/mine/ca.pem"}):
        folder = make_job_folder(tmp_path, "/data/run")
    assert sorted(one.name for one in folder.iterdir()) == ["dask.yaml", "run"]
    found = yaml.safe_load((folder / "dask.yaml").read_text())["distributed"]
    assert found["comm"] == {"timeouts": {"connect": "77s"}}
    assert found["admin"]["tick"]["interval"] == "500ms"


def test_the_folders_of_jobs_that_were_killed_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path / "bin" / "squeue", "echo 7; echo 8")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "here")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    old = ["here-5-a", "here-7-b", "here-8-c", "there-5-d"]
    for name in old:
        (tmp_path / f".daskt2i-job-{name}").mkdir()
    make_job_folder(tmp_path, "/data/run")
    assert [name for name in old if (tmp_path / f".daskt2i-job-{name}").exists()] == ["here-7-b", "there-5-d"]


# ---- what the shell program does: bash is real, the programs that it calls are small stand-ins ----

PYTHON = """
case "$*" in
*"cluster folder"*) mkdir -p job; echo "$PWD/job" ;;
*"dask scheduler"*)
    trap "echo end >>log; rm -f job/scheduler.json; exit 0" TERM
    echo '{"address": "tls://10.0.0.1:80"}' >job/scheduler.json
    while :; do sleep 0.05; done ;;
*"cluster find"*) echo "$PWD/job"; echo tls://10.0.0.1:80; exit "${FIND_CODE:-0}" ;;
*"cluster wait"*) exit "${WAIT_CODE:-0}" ;;
*"dask worker"*)
    echo "$*" >>log
    sleep "${WORK:-0}"
    while [ -e job/scheduler.json ]; do sleep 0.05; done ;;
*)
    trap 'exit "${STOP_CODE:-130}"' TERM
    echo "$*" >>log
    [ -n "${CODE:-}" ] && exit "$CODE"
    touch begun
    while :; do sleep 0.05; done ;;
esac
"""


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


class Job:
    """The script, as SLURM starts it on the first node."""

    def __init__(
        self,
        folder: Path,
        *words: str,
        python: str = PYTHON,
        asked: dict[str, Any] | None = None,
        **environ: str,
    ) -> None:
        self.folder = folder
        bin_ = folder / "bin"
        _program(bin_ / "python", python)
        _program(bin_ / "srun", 'while [ "$1" != bash ]; do shift; done\n"$@"')
        _program(bin_ / "sbatch", 'echo "sbatch $* ${SLURM_NNODES:-clean}" >>log\necho "43;cluster"')
        _program(bin_ / "scancel", 'echo "scancel $*" >>log')
        script = folder / "job.sh"
        asked = {"cwd": str(folder), "folder": str(folder), "resubmit": 2, **(asked or {})}
        script.write_text(job_script(request(**asked), python=str(bin_ / "python")))
        slurm = {
            "SLURM_JOB_ID": "42",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_NTASKS_PER_NODE": "1",
            "SLURM_NNODES": "2",
            "SLURM_CPUS_PER_TASK": "3",
            "SLURM_MEM_PER_NODE": "8192",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURMD_NODENAME": "n1",
            "SLURM_LOCALID": "0",
            "SLURM_PROCID": "1",
        }
        env = {**child_environment(), **slurm, "PATH": f"{bin_}:{os.environ['PATH']}", **environ}
        self.process = subprocess.Popen(
            ["bash", str(script), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
        )
        (folder / "job").mkdir(exist_ok=True)
        (folder / "job" / "dask.yaml").touch()

    def send(self, number: int, after: str = "begun") -> None:
        """A signal to the shell alone, once the command runs, or has made another file."""
        deadline = time.monotonic() + 30
        while not (self.folder / after).exists():
            assert time.monotonic() < deadline, "the command did not begin"
            time.sleep(0.02)
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, list[str]]:
        """Exit code, output, and what the programs were called with."""
        out, _ = self.process.communicate(timeout=60)
        log = self.folder / "log"
        return self.process.returncode, out, log.read_text().splitlines() if log.exists() else []


def test_a_job_whose_command_is_done_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    code, out, log = Job(tmp_path, CODE="0").end()
    assert code == 0
    assert "Job 42: /data/run is finished." in out
    worker = "-m dask worker tls://10.0.0.1:80 --name n1-42-1 --nworkers 1 --nthreads 3 --memory-limit 7168MiB"
    assert any(line.startswith(worker) for line in log), log
    assert "-m daskt2i.workflow encode --out /data/run --scheduler tls://10.0.0.1:80" in log
    assert "end" in log, "the scheduler was stopped"
    assert not (tmp_path / "job").exists()
    assert not any("sbatch" in line for line in log)


def test_near_its_end_a_job_stops_the_command_and_submits_itself_again(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.send(signal.SIGUSR1)
    code, out, log = job.end()
    assert code == 130
    assert f"sbatch --parsable --dependency=afterany:42 {tmp_path}/job.sh 1 clean" in log
    assert "Job 43 continues it; 1 more may follow." in out
    assert not any("scancel" in line for line in log)


def test_the_last_job_of_a_row_submits_no_more(tmp_path: Path) -> None:
    job = Job(tmp_path, "0")
    job.send(signal.SIGUSR1)
    code, out, log = job.end()
    assert code == 130
    assert "Submit the same script again to continue." in out
    assert not any("sbatch" in line for line in log)


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_that_ends_by_itself_while_it_is_stopped_takes_the_next_one_back(tmp_path: Path, code: int) -> None:
    job = Job(tmp_path, STOP_CODE=str(code))
    job.send(signal.SIGUSR1)
    found, _, log = job.end()
    assert found == code
    assert "scancel 43" in log


def test_a_cancelled_job_says_that_it_can_be_continued_and_submits_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.send(signal.SIGTERM)
    code, out, log = job.end()
    assert code == 130
    assert "Job 42: it was cancelled or preempted. What is committed in /data/run stays." in out
    assert not any("sbatch" in line for line in log)


def test_a_job_that_is_cancelled_while_it_stops_takes_the_next_one_back(tmp_path: Path) -> None:
    slow = PYTHON.replace("trap 'exit \"${STOP_CODE:-130}\"' TERM", "trap 'touch asked; sleep 0.5; exit 130' TERM")
    job = Job(tmp_path, python=slow)
    job.send(signal.SIGUSR1)
    job.send(signal.SIGTERM, after="asked")
    code, out, log = job.end()
    assert code == 130
    assert "it was cancelled" in out
    assert "scancel 43" in log


def test_a_command_that_fails_ends_the_job_with_its_exit_code(tmp_path: Path) -> None:
    code, out, log = Job(tmp_path, CODE="3").end()
    assert code == 3
    assert "exit code 3" in out
    assert not any("sbatch" in line for line in log)


def test_without_workers_or_scheduler_no_command_starts(tmp_path: Path) -> None:
    code, _, log = Job(tmp_path, WAIT_CODE="1").end()
    assert code == 1
    assert not any("workflow encode" in line for line in log)
    (tmp_path / "b").mkdir()
    dead = PYTHON.replace('trap "echo end >>log; rm -f job/scheduler.json; exit 0" TERM\n', "exit 1\n")
    code, out, _ = Job(tmp_path / "b", python=dead).end()
    assert code == 1
    assert "Dask's scheduler did not start" in out


def test_a_job_of_which_no_node_sees_the_folder_ends_at_once(tmp_path: Path) -> None:
    blind = PYTHON.replace("mkdir -p job; echo", "mkdir -p job; rm -f job/dask.yaml; echo").replace(
        'exit "${WAIT_CODE:-0}"', "exec sleep 60"
    )
    code, out, log = Job(tmp_path, CODE="0", python=blind).end()
    assert code == 1
    assert "does not see the folder" in out
    assert "its workers have ended, so nothing was done" in out
    assert log == ["end"]


# ---- workers that join a running job ----


def test_workers_that_join_leave_before_the_time_of_their_job_is_over(tmp_path: Path) -> None:
    code, out, log = Job(tmp_path, asked={"join": True, "time": "1", "stop_seconds": 59}, WORK="1.1").end()
    assert code == 0, out
    assert "workers for the scheduler at tls://10.0.0.1:80: 2 on n[1-2]." in out
    assert "its time is nearly over. Its workers have left" in out
    assert len(log) == 1
    assert log[0].endswith("--lifetime 1s --lifetime-stagger 0s")
    assert (tmp_path / "job").exists()  # it belongs to the other job


def test_workers_that_end_at_once_are_not_started_for_ever(tmp_path: Path) -> None:
    code, out, log = Job(tmp_path, asked={"join": True}).end()
    assert code == 1
    assert len(log) == 3
    assert "ended three times within seconds" in out


def test_without_a_job_to_join_no_worker_starts(tmp_path: Path) -> None:
    code, _, log = Job(tmp_path, asked={"join": True}, FIND_CODE="1").end()
    assert (code, log) == (1, [])


def test_a_job_is_found_by_its_run_folder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as scheduler:
        for out, port in (("/data/other", 1), ("/data/run", scheduler.getsockname()[1])):
            address = f"tls://127.0.0.1:{port}"
            folder = make_job_folder(tmp_path, out)
            (folder / "scheduler.json").write_text(f'{{"address": "{address}"}}')
        assert find_job(tmp_path, "/data/run", 0) == (folder, address)
    for out in ("/data/run", "/data/other", "/data/none"):  # the scheduler is gone now
        with pytest.raises(SchedulerError, match="No job works on"):
            find_job(tmp_path, out, 0)


# ---- a real SLURM ----


@pytest.mark.slow
def test_a_real_job_encodes_and_leaves_nothing(tmp_path: Path) -> None:
    if shutil.which("sbatch") is None or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("no SLURM here: shared/tools/slurm-up starts one")
    workflow = write_workflow(tmp_path / "w.yaml")
    out = tmp_path / "runs" / "x"
    words = ("encode", "--workflow", str(workflow), "--out", str(out))
    asked = JobRequest(command=words, out=str(out), folder=str(out.parent), cwd=str(tmp_path), time="5", memory="2G")
    (tmp_path / "job.sh").write_text(job_script(asked))
    command = ["sbatch", "--wait", f"--output={tmp_path}/out.txt", str(tmp_path / "job.sh")]
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment())
    text = (tmp_path / "out.txt").read_text()
    assert done.returncode == 0, text
    assert f"{out} is finished." in text
    assert [one.name for one in out.parent.iterdir()] == ["x"]
