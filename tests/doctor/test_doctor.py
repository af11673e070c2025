"""`doctor` on workers of a real cluster: nothing is found where all is well, and what is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import CHILD_PATH
from builders.workflows import small_settings
from distributed import Client, LocalCluster

import daskt2i
from daskt2i.doctor.result import DoctorResult


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A user's client, with a cluster of two workers with nannies."""
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "protocol": "tls://", "security": True}
    with (
        LocalCluster(2, threads_per_worker=1, silence_logs=50, env={"PYTHONPATH": CHILD_PATH}, **here) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def looked(client: Client | None, out: Path, **settings: object) -> DoctorResult:
    return daskt2i.Run(small_settings(**settings), out, client=client, progress=False).doctor()


def test_healthy_workers_have_no_problem_and_nothing_stays_behind(client: Client, tmp_path: Path) -> None:
    found = looked(client, tmp_path / "runs" / "new")
    assert found.problems == ()
    assert found.ok
    assert list(tmp_path.iterdir()) == []
    workers = found.to_json()["workers"]
    assert [one["sees"][part]["error"] for one in workers for part in ("source", "folder", "image_model")] == [""] * 6
    assert {one["kind"] for one in found.to_json()["speeds"]} == {"driver-worker", "worker-worker", "run-folder"}
    json.dumps(found.to_json())
