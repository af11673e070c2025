"""A cluster that daskt2i starts: who can connect to it, what listens where, and which arguments its class gets."""

from __future__ import annotations

import os
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
from builders.processes import children, listening
from distributed import Client, LocalCluster, SpecCluster

from daskt2i.deploy import tls_files
from daskt2i.deploy.cluster_file import ClusterFile, uses_tls
from daskt2i.deploy.connect import Connection, attach
from daskt2i.deploy.kinds.kind import Kind, known
from daskt2i.deploy.kinds.request import Request
from daskt2i.deploy.tls_files import certificates_for, keep_certificates

OFFERED = {"n_workers": 2, "memory_limit": 1 << 30, "silence_logs": 50, "security": True}


@pytest.fixture(scope="module")
def local() -> Iterator[Connection]:
    """The cluster of the shipped file, with one worker."""
    connection = ClusterFile.read("local").start(1, 1, 1 << 30)
    yield connection
    connection.close()


def test_only_who_has_the_certificates_can_connect(local: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    address = local.client.scheduler.address
    assert address.startswith("tls://127.0.0.1:")
    security = certificates_for(address)
    assert security is not None
    for other in ("tcp", "tls"):
        with pytest.raises((OSError, TypeError)), Client(address.replace("tls", other, 1), timeout="2s"):
            pass
    second = attach(address, 0)  # another process of this user finds the files by the address
    assert second.client.submit(os.getpid, pure=False).result() != os.getpid()
    second.close()
    assert local.client.status == "running"


def test_the_files_of_the_certificates_are_for_this_user_alone(local: Connection) -> None:
    folder = tls_files._home() / tls_files._name(local.client.scheduler.address)
    assert {path.name for path in folder.iterdir()} == {"ca.pem", "cert.pem", "key.pem"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)} == {0o700}


def test_everything_listens_on_this_machine_alone(local: Connection) -> None:
    assert listening(children()) == {"127.0.0.1"}


def test_the_dashboard_runs_nothing(local: Connection) -> None:
    """The routes that change a cluster (`distributed.http.scheduler.api`) are not there."""
    base = local.client.dashboard_link.rpartition("/")[0]
    assert urllib.request.urlopen(f"{base}/health").status == 200
    for path in ("api/v1", "api/v1/retire_workers", "api/v1/adaptive_target"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(urllib.request.Request(f"{base}/{path}", data=b"{}"))


def test_files_of_somebody_else_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    security = dict.fromkeys(tls_files.FILES, "-----\nPEM\n")
    address = "tls://127.0.0.1:9"
    kept = keep_certificates(address, security)
    assert kept is not None
    assert certificates_for(address) is not None
    assert keep_certificates(address, dict.fromkeys(tls_files.FILES, "/a/file")) is None
    kept.parent.chmod(0o755)  # others could look inside
    assert certificates_for(address) is None
    assert keep_certificates("tls://127.0.0.1:10", security) is None
    kept.parent.chmod(0o700)
    kept.parent.rename(tmp_path / "elsewhere")
    kept.parent.symlink_to(tmp_path / "elsewhere")
    assert certificates_for(address) is None


def test_a_setting_and_the_users_own_certificates_turn_ours_off() -> None:
    assert uses_tls({}, {})
    assert not uses_tls({"security": False}, {})
    assert not uses_tls({"protocol": "tcp://"}, {})
    assert not uses_tls({}, {"distributed.comm.tls.ca-file": "ca.pem"})
    with dask.config.set({"daskt2i.tls": False}):
        assert not uses_tls({}, {})
    with dask.config.set({"distributed.comm.require-encryption": True}):
        assert not uses_tls({}, {})


class Queue(SpecCluster):
    """As in dask-jobqueue: what it does not know goes to its jobs, which refuse it."""

    def __init__(self, n_workers: int = 0, silence_logs: int = 0, security: Any = None, **job: Any) -> None: ...


class OnGpus(LocalCluster):
    """As in dask-cuda."""

    def __init__(self, n_workers: int | None = None, memory_limit: Any = "auto", **more: Any) -> None: ...


class Managed:
    """As in dask-cloudprovider: a class whose base class knows the arguments."""

    def __init__(self, *, n_workers: int = 0, quiet: bool = False) -> None: ...


class ManagedByDefault(Managed):
    def __init__(self, **more: Any) -> None: ...


def over_ssh(hosts: Any = None, **more: Any) -> None:
    """As in distributed: a function that passes everything on."""


@pytest.mark.parametrize(
    ("factory", "gets"),
    [
        (LocalCluster, {"n_workers", "memory_limit", "silence_logs", "security"}),
        (OnGpus, {"n_workers", "memory_limit", "silence_logs", "security"}),
        (Queue, {"n_workers", "silence_logs"}),
        (ManagedByDefault, {"n_workers"}),
        (over_ssh, set()),
        (dict, set()),
    ],
)
def test_a_class_gets_the_arguments_that_it_knows(factory: Any, gets: set[str]) -> None:
    assert set(known(factory, OFFERED)) == gets


class Scaled:
    def __init__(self, **spec: Any) -> None:
        self.worker_spec, self.asked = spec, 0

    def scale(self, number: int) -> None:
        self.asked = number


def test_a_cluster_that_takes_no_number_is_asked_for_one_or_has_its_own() -> None:
    asked, fixed = Scaled(), Scaled(host_a={}, host_b={}, host_c={})
    two = Request("two", 2, 1, 1 << 30)
    assert (Kind().fill(asked, {}, two), asked.asked) == (2, 2)
    assert (Kind().fill(fixed, {}, two), fixed.asked) == (3, 0)
    assert Kind().fill(object(), {"n_workers": 4}, two) == 4
