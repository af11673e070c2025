"""The process of a cluster that daskt2i starts: it starts under unusual conditions, and ends with its driver."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.config
import pytest
import yaml
from builders import CHILD_PATH
from builders.processes import at, children, left
from builders.workflows import child_environment
from distributed import Client, LocalCluster

from daskt2i.deploy import cluster_process
from daskt2i.deploy.cluster_file import ClusterFile
from daskt2i.deploy.cluster_process import ClusterProcess, NotStarted
from daskt2i.deploy.kinds.kind import Kind
from daskt2i.deploy.kinds.request import Request
from daskt2i.encode import model_cache
from daskt2i.errors import ConfigError
from daskt2i.executors.unload import unload_encoders

PRETENDED = "builders.clusters.Pretended"
NOTHING = Request("nothing", 1, 1, 1 << 30, tls=False)


def started(folder: Path, factory: str = PRETENDED, **arguments: Any) -> ClusterProcess:
    return ClusterProcess(factory, {"folder": str(folder), **arguments}, NOTHING)


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process ends in time. A zombie has ended: it only waits for its parent to read its exit code."""
    return left(at([pid]), seconds) == []


def test_it_gives_the_address_and_may_be_closed_twice(tmp_path: Path) -> None:
    cluster = started(tmp_path)
    assert cluster.address == "tcp://127.0.0.1:9"
    pid = int((tmp_path / "started").read_text())
    assert pid != os.getpid()
    cluster.close()
    cluster.close()
    assert (tmp_path / "closed").exists()
    assert gone(pid)


def test_output_of_a_sitecustomize_module_is_not_taken_for_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello'); print('[1]')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cluster = started(tmp_path)
    cluster.close()
    assert cluster.address


def test_an_entry_of_the_import_path_that_is_not_text_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [tmp_path, *sys.path])
    started(tmp_path).close()
    assert (tmp_path / "closed").exists()


def test_dask_settings_that_json_can_hold_are_passed_on(tmp_path: Path) -> None:
    with dask.config.set({"temporary-directory": tmp_path / "scratch"}):
        started(tmp_path).close()
    assert (tmp_path / "config").read_text() == str(tmp_path / "scratch")
    some = {"whole": [1, "two", Path("/three")], "not whole": [1, object()], "deep": {"x": object(), "y": None}}
    assert cluster_process._plain(some) == {"whole": [1, "two", "/three"], "deep": {"y": None}}


def test_a_cluster_that_does_not_start_says_why_and_leaves_no_process(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no node is free"):
        started(tmp_path, refuse="no node is free")
    with pytest.raises(NotStarted, match="Nowhere") as error:
        ClusterProcess("builders.clusters.Nowhere", {}, NOTHING)
    assert error.value.kind == "import"
    assert not [one for one in children() if "cluster_process" in " ".join(one.cmdline())]


def test_an_inproc_scheduler_is_refused_with_the_argument_to_add() -> None:
    here = {"processes": False, "dashboard_address": "127.0.0.1:0"}
    with pytest.raises(
        RuntimeError, match=r"inproc://.* no other process can reach; add protocol: 'tcp://' to its arguments"
    ):
        ClusterProcess("distributed.LocalCluster", here, NOTHING)


def test_a_dashboard_whose_port_is_taken_gets_another_port_without_a_warning(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = f"""
import distributed
from daskt2i.deploy.cluster_process import ClusterProcess
from daskt2i.deploy.kinds.request import Request
here = {{"processes": False, "protocol": "tcp://", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:{port}"}}
cluster = ClusterProcess("distributed.LocalCluster", here, Request("one", 1, 1, 1 << 30, tls=False))
with distributed.Client(cluster.address) as client:
    print(client.dashboard_link)
cluster.close()
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=child_environment())
    assert not re.search("Warning|already in use|Traceback", done.stderr), done.stderr
    assert done.stdout.startswith("http://127.0.0.1:")
    assert f":{port}/" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_outlives_ctrl_c_though_the_package_of_the_cluster_sets_a_handler_of_its_own(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dask_jobqueue does that for SIGINT when it is imported. A terminal sends Ctrl-C to all processes."""
    handlers = "".join(f"signal.signal(signal.{name}, lambda *_: sys.exit())\n" for name in ("SIGINT", "SIGTERM"))
    package, name = PRETENDED.rsplit(".", 1)
    (tmp_path / "hasty.py").write_text(f"import signal, sys\nfrom {package} import {name}\n{handlers}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    cluster = started(tmp_path, factory=f"hasty.{name}")
    os.kill(int((tmp_path / "started").read_text()), number)
    cluster.close()
    assert (tmp_path / "closed").exists()


@pytest.mark.parametrize("how", ["ends without closing", "is killed"])
def test_it_closes_its_cluster_when_the_driver(how: str, tmp_path: Path) -> None:
    """It closes its cluster in every case, because there may be jobs in a queue and folders on a disk."""
    code = f"""
import time
from daskt2i.deploy.cluster_process import ClusterProcess
from daskt2i.deploy.kinds.request import Request
cluster = ClusterProcess({PRETENDED!r}, {{"folder": {str(tmp_path)!r}}}, Request("nothing", 1, 1, 1 << 30, tls=False))
print("up", flush=True)
{"time.sleep(600)" if how == "is killed" else "raise SystemExit(3)"}
"""
    driver = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": CHILD_PATH}
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "up\n"
        if how == "is killed":
            driver.send_signal(signal.SIGKILL)
        driver.wait(30)
    assert gone(int((tmp_path / "started").read_text()))
    assert (tmp_path / "closed").exists()


def test_a_client_gets_certificates_even_if_encryption_is_not_required() -> None:
    given = SimpleNamespace(
        tls_ca_file="ca.pem", tls_client_cert="c.pem", tls_client_key="k.pem", require_encryption=None
    )
    found = Kind().security(SimpleNamespace(security=given))
    assert found == {"tls_ca_file": "ca.pem", "tls_client_cert": "c.pem", "tls_client_key": "k.pem"}
    assert Kind().security(SimpleNamespace(security=None)) is None


def test_a_cluster_file_with_a_date_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"cluster": PRETENDED, "arguments": {"since": date(2026, 1, 31)}}))
    with pytest.raises(ConfigError, match=r"mine\.yaml holds a value .* Put it in quotes"):
        ClusterFile.read(str(path))


def test_own_workers_without_a_nanny_unload_their_encoders_and_are_not_restarted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a nanny they would not start again."""
    here = {"processes": False, "host": "127.0.0.1", "protocol": "tcp://", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(1, silence_logs=50, **here) as cluster, Client(cluster) as client:
        monkeypatch.setattr("daskt2i.executors.unload._ASK_SECONDS", 60.0)
        monkeypatch.setitem(model_cache._held, "", SimpleNamespace(image=None, text=None))
        before = set(client.scheduler_info()["workers"])
        assert model_cache.held() > 0
        assert unload_encoders(client, restart=True) == []
        assert model_cache.held() == 0
        assert set(client.scheduler_info()["workers"]) == before
