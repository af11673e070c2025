"""Clusters that are really there: a SLURM (`sinfo` answers), and an SSH server that the test starts on 127.0.0.1.

They need programs that most machines lack, and minutes: `--slow`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders.workflows import child_environment
from distributed import Client

from daskt2i.deploy.cluster_file import ClusterFile
from daskt2i.errors import SchedulerError

pytestmark = pytest.mark.slow

DRIVER = """
import sys, time
from daskt2i.deploy.cluster_file import ClusterFile
connection = ClusterFile.read(sys.argv[1]).start(2, 1, 1 << 30)
print("up", flush=True)
if sys.argv[2] == "raises":
    raise SystemExit(3)
time.sleep(600)
"""


def soon(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether it holds in time."""
    end = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < end:
        time.sleep(0.5)
    return found


def ended_driver(path: Path, how: str) -> None:
    """A process that starts the cluster of a file and then ends."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(path), how], stdout=subprocess.PIPE, text=True, env=child_environment()
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "up\n"
        if how == "is killed":
            driver.send_signal(signal.SIGKILL)
        elif how == "gets SIGINT":
            driver.send_signal(signal.SIGINT)
        driver.wait(60)


@pytest.fixture
def slurm(tmp_path: Path) -> Callable[..., Path]:
    """Writes a cluster file for the SLURM of this machine."""
    pytest.importorskip("dask_jobqueue")
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("there is no SLURM on this machine")

    def written(**changes: Any) -> Path:
        arguments = {"shared_temp_directory": str(tmp_path / "jobs"), **changes.pop("arguments", {})}
        given = {"worker": {"cores": 1, "memory": "1 GiB"}, "config_of": "local", "arguments": arguments, **changes}
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"cluster": "dask_jobqueue.SLURMCluster", **given}))
        return path

    return written


def jobs() -> str:
    """The jobs of daskt2i that wait or run."""
    found = subprocess.run(["squeue", "--noheader", "--format=%j %T"], capture_output=True, text=True, check=True)
    return "\n".join(line for line in found.stdout.splitlines() if "daskt2i-" in line and "COMPLETING" not in line)


def test_jobs_of_slurm_work_with_certificates_of_their_own(slurm: Callable[..., Path], tmp_path: Path) -> None:
    connection = ClusterFile.read(str(slurm())).start(2, 1, 1 << 30)
    try:
        assert connection.client.scheduler.address.startswith("tls://")
        connection.gather(2)
        found = connection.client.run(lambda: (os.environ["SLURM_JOB_ID"], os.environ["OMP_NUM_THREADS"]))
        assert len({job for job, _ in found.values()}) == 2
        assert {threads for _, threads in found.values()} == {"1"}
        with pytest.raises((OSError, TypeError)), Client(connection.client.scheduler.address, timeout="2s"):
            pass
    finally:
        connection.close()
    assert soon(lambda: not jobs())
    assert not list((tmp_path / "jobs").iterdir())


@pytest.mark.parametrize("how", ["is killed", "raises", "gets SIGINT"])
def test_no_job_is_left_when_the_driver(how: str, slurm: Callable[..., Path]) -> None:
    ended_driver(slurm(), how)
    assert soon(lambda: not jobs())


def test_a_partition_that_does_not_exist_is_named_and_no_job_is_left(slurm: Callable[..., Path]) -> None:
    with pytest.raises(
        SchedulerError, match=r"refused a job .*invalid partition specified: nosuch.* Nothing of it is left"
    ):
        ClusterFile.read(str(slurm(arguments={"queue": "nosuch"}))).start(2, 1, 1 << 30)
    assert not jobs()


def test_jobs_that_stay_in_the_queue_are_cancelled_with_the_reason(slurm: Callable[..., Path]) -> None:
    later = slurm(wait_minutes=0.2, arguments={"job_extra_directives": ["--begin=now+1hour"]})
    told: list[str] = []
    with pytest.raises(SchedulerError, match=r"2 jobs of mine.yaml are pending \(BeginTime\), after 12"):
        ClusterFile.read(str(later)).start(2, 1, 1 << 30, told.append)
    assert told == ["2 jobs of mine.yaml are pending (BeginTime); waiting up to 12.0 s"]
    assert soon(lambda: not jobs())


def test_cancelled_jobs_are_noticed(slurm: Callable[..., Path]) -> None:
    connection = ClusterFile.read(str(slurm())).start(1, 1, 1 << 30)
    try:
        assert connection.ended() == ""
        subprocess.run(["scancel", f"--name={jobs().split()[0]}"], check=True)
        assert soon(lambda: "left the queue (cancelled" in connection.ended())
    finally:
        connection.close()


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[Path]:
    """A cluster file for an SSH server on 127.0.0.1 with keys of its own."""
    pytest.importorskip("asyncssh", reason="the extra ssh is not installed")
    server = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    if server is None:
        pytest.skip("there is no sshd on this machine")
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = {"Port": port, "ListenAddress": "127.0.0.1", "HostKey": tmp_path / "host", "PidFile": "none"}
    options |= {"AuthorizedKeysFile": tmp_path / "key.pub", "StrictModes": "no", "PasswordAuthentication": "no"}
    given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    public = (tmp_path / "host.pub").read_text().split()[:2]
    (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {' '.join(public)}\n")
    connect = {"port": port, "client_keys": [str(tmp_path / "key")], "known_hosts": str(tmp_path / "known")}
    path = tmp_path / "mine.yaml"
    arguments = {"hosts": ["127.0.0.1"] * 3, "connect_options": connect}
    worker = {"cores": 1, "memory": "1 GiB"}
    data = {"cluster": "distributed.SSHCluster", "worker": worker, "config_of": "local", "arguments": arguments}
    path.write_text(yaml.safe_dump(data))
    Path("/run/sshd").mkdir(exist_ok=True)
    with subprocess.Popen([server, "-D", "-f", "/dev/null", *given]) as process:
        yield path
        process.terminate()


def remote() -> list[str]:
    """Processes that SSH started."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in found.stdout.splitlines() if "distributed.cli.dask_spec" in line]


def test_hosts_of_ssh_work_with_certificates_that_are_removed(ssh: Path) -> None:
    connection = ClusterFile.read(str(ssh)).start(2, 1, 1 << 30)
    folder = Path("~/.cache/daskt2i").expanduser()
    try:
        assert connection.client.scheduler.address.startswith("tls://")
        assert len(list(folder.glob("daskt2i-*/key.pem"))) == 1
        found = connection.client.run(lambda: os.environ["OMP_NUM_THREADS"])
        assert list(found.values()) == ["1", "1"]
        assert not [line for line in remote() if "PRIVATE" in line]
    finally:
        connection.close()
    assert soon(lambda: not remote())
    assert not list(folder.glob("daskt2i-*"))


def test_no_process_is_left_on_a_host_when_the_driver_is_killed(ssh: Path) -> None:
    ended_driver(ssh, "is killed")
    assert soon(lambda: not remote())


def test_a_host_that_refuses_is_named(ssh: Path) -> None:
    data = yaml.safe_load(ssh.read_text())
    data["arguments"]["connect_options"]["client_keys"] = [str(ssh.parent / "host")]
    ssh.write_text(yaml.safe_dump(data))
    with pytest.raises(SchedulerError, match=r"127\.0\.0\.1 cannot be used through SSH: Permission denied"):
        ClusterFile.read(str(ssh)).start(2, 1, 1 << 30)


def test_a_host_whose_key_is_not_known_is_named_with_how_to_accept_it(ssh: Path) -> None:
    known = ssh.parent / "known"
    text = known.read_text()
    known.write_text("")
    with pytest.raises(SchedulerError, match=r"the key of the host 127\.0\.0\.1 is not known here; run ssh 127\.0"):
        ClusterFile.read(str(ssh)).start(2, 1, 1 << 30)
    known.write_text(text)
    ClusterFile.read(str(ssh)).start(2, 1, 1 << 30).close()
