"""`doctor` on workers of a real cluster: nothing is found where all is well, and what is wrong is named.

Two workers serve all tests. A path below /proc/self/cwd leads each process to its own folder, so one worker can see
what the other does not.
"""

from __future__ import annotations

import ast
import asyncio
import getpass
import hashlib
import inspect
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from builders import CHILD_PATH
from builders.coco import settings as coco_settings
from builders.coco import write_coco
from builders.command_line import one_object, run
from builders.workflows import small_settings, write_workflow
from distributed import Client, LocalCluster
from fsspec.implementations.memory import MemoryFileSystem

import daskt2i
from daskt2i.config.component import Component
from daskt2i.deploy import connect
from daskt2i.doctor import asking, bare, meeting, speeds, wire
from daskt2i.doctor.result import DoctorResult
from daskt2i.doctor.sight import Wanted, object_name, see
from daskt2i.encoders.finding import model_copies
from daskt2i.encoders.finding.model_copies import ModelFile
from daskt2i.machine.machine import this_machine
from daskt2i.store.publishing import lock
from daskt2i.store.run_folder import RunFolder

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A user's client, with a cluster of two workers with nannies that use all cores."""
    threads = max(1, this_machine().cores // 2)
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "protocol": "tls://", "security": True}
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=threads, silence_logs=50, env={"PYTHONPATH": CHILD_PATH}, **here
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def _small_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds are not what is tested."""
    monkeypatch.setattr(speeds, "SIZE", 65_536)
    monkeypatch.setattr(speeds, "_TURNS", 2)


def second(client: Client) -> str:
    """The address of one of the two workers."""
    return str(list(client.run(int))[1])


def looked(client: Client | None, out: Path | str, **settings: Any) -> DoctorResult:
    return daskt2i.Run(small_settings(**settings), out, client=client, progress=False).doctor()


def found(result: DoctorResult) -> list[tuple[str, str, int]]:
    """Severity, subject and number of workers of each problem."""
    return [(one.severity, one.about, len(one.workers)) for one in result.problems]


def test_healthy_workers_have_no_problem_and_nothing_stays_behind(client: Client, tmp_path: Path) -> None:
    result = looked(client, tmp_path / "runs" / "new")
    assert result.problems == ()
    assert result.ok
    assert list(tmp_path.iterdir()) == []
    told = result.to_json()
    assert [one["sees"][part]["error"] for one in told["workers"] for part in ("source", "folder", "text_model")] == [
        ""
    ] * 6
    assert {one["kind"] for one in told["speeds"]} == {"driver-worker", "worker-worker", "run-folder"}
    assert [one["error"] for one in told["speeds"]] == [""] * len(told["speeds"])
    assert "A run can start" in repr(result)
    json.dumps(told)


def test_this_machine_is_looked_at_without_a_cluster(tmp_path: Path) -> None:
    result = daskt2i.Run(small_settings(), tmp_path / "out", progress=False).doctor()
    assert result.problems == ()
    assert [one.address for one in result.found.workers] == [""]
    assert not (tmp_path / "out").exists()


def test_the_objects_of_a_look_do_not_disturb_a_finished_run(tmp_path: Path) -> None:
    run = daskt2i.Run(small_settings(), tmp_path / "out", scheduler="serial", progress=False)
    run.encode()
    before = sorted(str(path) for path in (tmp_path / "out").rglob("*"))
    assert run.doctor().ok
    assert sorted(str(path) for path in (tmp_path / "out").rglob("*")) == before
    assert run.verify().ok


@contextmanager
def own_folders(client: Client, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """/proc/self/cwd leads driver and first worker into one folder, and the second worker into another."""
    mine, theirs, before = tmp_path / "mine", tmp_path / "theirs", Path.cwd()
    for folder in (mine, theirs):
        folder.mkdir()
    were = client.run(os.getcwd)
    try:
        os.chdir(mine)
        client.run(os.chdir, str(mine))
        client.run(os.chdir, str(theirs), workers=[second(client)])
        yield mine, theirs
    finally:
        os.chdir(before)
        for address, folder in were.items():
            client.run(os.chdir, folder, workers=[address])


@linux
def test_a_worker_that_does_not_see_the_run_folder_is_named_and_makes_none(client: Client, tmp_path: Path) -> None:
    with own_folders(client, tmp_path) as (_, theirs):
        result = looked(client, "/proc/self/cwd/run")
        (theirs / "run").mkdir()  # a folder of the same name, on another disk
        again = looked(client, "/proc/self/cwd/run")
    assert found(result) == found(again) == [("slows", "run-folder", 1)]  # half of the workers is enough for an encode
    assert "a training would stop" in result.problems[0].text
    assert result.problems[0].workers == (second(client),)
    assert [path.name for path in theirs.iterdir()] == ["run"]
    assert list((theirs / "run").iterdir()) == []
    assert result.ok


@linux
def test_a_worker_that_sees_other_images_is_named(client: Client, tmp_path: Path) -> None:
    with own_folders(client, tmp_path) as (mine, theirs):
        write_coco(mine / "coco")
        workflow = coco_settings(Path("/proc/self/cwd/coco"), None)
        run = daskt2i.Run(workflow, tmp_path / "out", client=client, progress=False)
        missing = run.doctor()
        write_coco(theirs / "coco", [["another"]] * 10, same={0: 7})
        other = run.doctor()
        shutil.copytree(mine / "coco", theirs / "coco", dirs_exist_ok=True)
        healthy = run.doctor()
    assert found(missing) == found(other) == [("stops", "source", 1)]
    assert found(healthy) == []


@linux
def test_a_worker_that_cannot_write_is_named(client: Client, tmp_path: Path) -> None:
    worker, limits = second(client), resource.getrlimit(resource.RLIMIT_FSIZE)
    client.run(resource.setrlimit, resource.RLIMIT_FSIZE, (0, limits[1]), workers=[worker])
    try:
        result = looked(client, tmp_path / "out")
    finally:
        client.run(resource.setrlimit, resource.RLIMIT_FSIZE, limits, workers=[worker])
    assert found(result) == [("slows", "temp", 1), ("slows", "run-folder", 1)]


def be_version(client: Client, worker: str, version: str) -> None:
    client.run(exec, f"import daskt2i; daskt2i.__version__ = {version!r}", {}, workers=[worker])


def test_a_worker_with_another_version_is_named(client: Client, tmp_path: Path) -> None:
    worker = second(client)
    be_version(client, worker, "0.0.1")
    try:
        result = looked(client, tmp_path / "out")
    finally:
        be_version(client, worker, daskt2i.__version__)
    assert found(result) == [("stops", "versions", 1)]
    assert f"daskt2i 0.0.1 there, {daskt2i.__version__} here" in result.problems[0].text


def test_a_frozen_worker_is_a_line_and_no_hang(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ASK_SECONDS", 2.0)
    worker = second(client)
    pid = client.run(os.getpid, workers=[worker])[worker]
    os.kill(pid, signal.SIGSTOP)
    try:
        result = looked(client, tmp_path / "out")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert found(result) == [("slows", "silent", 1)]
    assert "A run can start, but 1 of 2 workers did not answer" in repr(result)
    assert result.found.workers[0].host == result.found.workers[1].host


def test_a_setting_that_fits_no_worker_is_a_problem_and_the_workers_are_listed_by_name(
    client: Client, tmp_path: Path
) -> None:
    result = looked(client, tmp_path / "run", only="node7*")
    assert ("stops", "workers", 0) in found(result)
    (said,) = [one.words() for one in result.problems if one.about == "workers"]
    assert said.startswith("run.only is node7*, but no worker whose name, host or address is like 'node7*' is there.")
    assert "They are: 0, 1. Change run.only" in said
    assert [one["name"] for one in result.to_json()["workers"]] == ["0", "1"]
    (section,) = result.view().sections
    assert section.rows[0][0].startswith("0 (127.0.0.1:")
    assert ("stops", "workers", 0) not in found(looked(client, tmp_path / "run", only="0"))


def test_a_copy_of_a_model_that_was_sent_counts_as_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder = Component.model_validate({"class": "daskt2i.encoders.vae.VaeEncoder", "model": "nobody/nothing"})
    assert asyncio.run(see(Wanted(image_encoder=encoder)))["image_model"]["error"] == "it is not here"
    config = ModelFile("config.json", 2, hashlib.sha256(b"{}").hexdigest())
    model_copies.add("nobody/nothing", None, [config], lambda file, path: path.write_text("{}") and None)
    assert asyncio.run(see(Wanted(image_encoder=encoder)))["image_model"]["error"] == ""


def test_memory_below_the_need_is_named_before_the_run(client: Client, tmp_path: Path) -> None:
    result = looked(client, tmp_path / "out", batch=10_000_000)
    assert ("stops", "memory-limit", 0) in found(result)
    assert "its limit is" in next(one.text for one in result.problems if one.about == "memory-limit")


def test_a_scheduler_that_cannot_be_reached_is_a_problem_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_SERVER_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    write_workflow(tmp_path / "fake.yaml")
    given = ("doctor", "--workflow", tmp_path / "fake.yaml", "--out", tmp_path / "out")
    done = run(*given, "--scheduler", f"tcp://127.0.0.1:{port}")
    assert done.returncode == 1
    assert "No scheduler answers at" in done.stdout
    assert "plan: rows" in done.stdout  # the rest is told all the same
    told = one_object(run(*given, "--scheduler", "serial", "--json"))
    assert (told["doctor"], told["ok"], told["problems"]) == (1, True, [])
    assert not (tmp_path / "out").exists()


def test_a_plan_that_fails_is_a_problem_and_the_machine_is_told(tmp_path: Path) -> None:
    workflow = coco_settings(tmp_path / "none", None)
    result = daskt2i.Run(workflow, tmp_path / "out", progress=False).doctor()
    assert [(one.severity, one.about) for one in result.problems] == [("stops", "plan")]
    assert str(tmp_path / "none") in result.problems[0].text
    assert result.found.here["host"]


def test_a_folder_that_another_process_encodes_into_is_in_use(tmp_path: Path) -> None:
    one = daskt2i.Run(small_settings(), tmp_path / "out", scheduler="serial", progress=False)
    one.encode()
    with lock.hold(RunFolder(tmp_path / "out"), "encode"):
        result = one.doctor()
    assert [(one.severity, one.about) for one in result.problems] == [("stops", "run-folder")]
    assert f"user {getpass.getuser()}" not in repr(result)
    assert one.doctor().ok  # as the advice says, once it has ended


class Stalled(MemoryFileSystem):
    """A store whose server does not answer while `away` is set."""

    protocol = "stalled"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    back = threading.Event()

    def cat_file(self, path: str, *given: Any, **more: Any) -> Any:
        self.back.wait(30)
        return super().cat_file(path, *given, **more)


def test_a_run_folder_that_does_not_answer_is_a_problem_and_another_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "FOLDER_SECONDS", 0.2)
    fsspec.register_implementation("stalled", Stalled, clobber=True)
    Stalled.back.set()
    away = daskt2i.Run(small_settings(), "stalled://run", progress=False)
    Stalled.back.clear()
    try:
        result = away.doctor()
    finally:
        Stalled.back.set()
    assert [(one.severity, one.about) for one in result.problems] == [("stops", "run-folder")]
    assert "did not answer" in result.problems[0].text
    assert looked(None, tmp_path / "out").ok


def test_a_connection_takes_only_the_one_with_the_token() -> None:
    async def both(token: str) -> dict[str, Any]:
        port = await wire.listen("127.0.0.1", "right", 3_000_000)
        return await wire.send("127.0.0.1", port, token, 3_000_000)

    assert asyncio.run(both("right"))["error"] == ""
    assert asyncio.run(both("wrong"))["error"] != ""


@pytest.mark.parametrize(("trip", "rate"), [(0.1, 1000 / 0.9), (0.0, 1000.0), (5.0, 2000.0)])
def test_a_transfer_that_is_faster_than_a_message_before_it_has_a_rate_that_can_be(trip: float, rate: float) -> None:
    assert wire.bytes_a_second(1000, 1.0, trip) == pytest.approx(rate)


def test_a_port_that_nobody_listens_to_is_an_error_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert asyncio.run(wire.send("127.0.0.1", port, "x", 1))["error"]


def test_a_model_of_the_hub_that_is_missing_is_not_fetched(tmp_path: Path) -> None:
    encoder = Component.model_validate({"class": "daskt2i.encoders.vae.VaeEncoder", "model": "nobody/nothing"})
    seen = asyncio.run(see(Wanted(image_encoder=encoder, resolution=64, models=True)))
    assert seen["image_model"] == {
        "error": "it is not here",
        "missing": True,
        "fetches": False,
    }  # tests have no network
    folder = Component.model_validate({"class": "daskt2i.encoders.vae.VaeEncoder", "model": str(tmp_path / "none")})
    seen = asyncio.run(see(Wanted(image_encoder=folder, resolution=64, models=True)))
    assert "There is no folder" in seen["image_model"]["error"]


def test_no_home_and_no_user_is_in_what_a_process_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    told = bare.private({"a": "/home/alice/runs/x", "b": ["/scratch/alice/tmp", "/home/alice2"], "c": "malice/alice."})
    assert told == {"a": "~/runs/x", "b": ["/scratch/***/tmp", "/home/alice2"], "c": "malice/***."}
    assert json.loads(json.dumps(bare.look("", asking.PACKAGES)))


def test_a_process_without_daskt2i_is_looked_at(tmp_path: Path) -> None:
    """Plain Python with the packages of Dask, as on a worker that lacks daskt2i."""
    code = f"{inspect.getsource(bare)}\nsys.modules['daskt2i'] = None\nprint(look('', ['daskt2i', 'dask']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    found = ast.literal_eval(done.stdout)
    assert "dask" in found["packages"]
    assert "daskt2i" not in found["packages"]
    assert found["cores"]["usable"] >= 1


def test_a_wait_for_the_run_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings are read before anything else: without a word that would look like a hang."""
    monkeypatch.setattr("daskt2i.cli.doctor._WAIT_SECONDS", 0.2)
    fsspec.register_implementation("stalled", Stalled, clobber=True)
    write_workflow(tmp_path / "fake.yaml")
    Stalled.back.clear()
    timer = threading.Timer(1.0, Stalled.back.set)
    timer.start()
    try:
        done = run("doctor", "--workflow", tmp_path / "fake.yaml", "--out", "stalled://late")
    finally:
        timer.join()
    assert "has not answered" in done.stderr
    assert "A run can start" in done.stdout


def test_a_dashboard_that_nobody_serves_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert asking.dashboard_error(f"http://127.0.0.1:{port}/status") == ""
    assert asking.dashboard_error(f"http://127.0.0.1:{port}/status")
    assert asking.dashboard_error("/user/me/proxy/8787/status") == ""


def test_objects_that_a_folder_did_not_show_in_time_are_not_told_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "out")
    with meeting.meeting_in(folder) as found:
        there, away = object_name(found.prefix), object_name(found.prefix)
        folder.write(there, found.content)
        assert found.seen([there, away]) == {there: True, away: False}
        monkeypatch.setattr(meeting, "FOLDER_SECONDS", 0.2)
        fsspec.register_implementation("stalled", Stalled, clobber=True)
        Stalled.back.clear()
        late = replace(found, folder=RunFolder("stalled://late"))
        try:
            assert late.seen([there]) == {}
        finally:
            Stalled.back.set()
    assert not (tmp_path / "out").exists()
