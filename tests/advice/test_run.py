"""What the front object and `session` tell a user to do works."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from builders.advice import covers, told
from builders.workflows import small_settings, write_workflow
from distributed import Client, LocalCluster

import daskt2i
from daskt2i.events import Event, Note
from daskt2i.sample.driver import requests_for
from daskt2i.session.schedulers import Scheduler
from daskt2i.session.worker_layout import ranks_for


def run_of(out: Path, **changes: Any) -> daskt2i.Run:
    return daskt2i.Run(small_settings(**changes), out, scheduler="serial", progress=False)


@pytest.fixture(scope="module")
def cluster() -> Any:
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster:
        yield cluster


def test_a_prompt_in_utf_8_and_a_seed_of_64_bits_are_taken() -> None:
    for seed in (-1, 2**63, 10**5000):
        with told("sample/driver.py:requests_for ConfigError"):
            requests_for(["a cat"], seed)
    with told("sample/driver.py:requests_for ConfigError"):
        requests_for(["a cat", b"caf\xe9".decode("utf-8", "surrogateescape")], 0)
    assert [one.prompt for one in requests_for(["café"], 0)] == ["café"]


def test_a_client_or_a_scheduler_alone_is_taken(cluster: Any, tmp_path: Path) -> None:
    with Client(cluster, set_as_default=False) as client:
        with told("run.py:Run._begin ConfigError"):
            daskt2i.Run(small_settings(), tmp_path, client=client, scheduler="serial")
        assert daskt2i.Run(small_settings(), tmp_path / "a", client=client, progress=False).encode().accepted == 4
    assert daskt2i.Run(small_settings(), tmp_path / "b", scheduler="serial", progress=False).encode().accepted == 4


def test_a_client_and_the_address_of_a_scheduler_are_taken(cluster: Any, tmp_path: Path) -> None:
    wrong: Any = cluster.scheduler_address
    with told("deploy/connect.py:borrow ConfigError"):
        daskt2i.Run(small_settings(), tmp_path, client=wrong)
    with Client(cluster, set_as_default=False) as client:
        assert daskt2i.Run(small_settings(), tmp_path / "a", client=client, progress=False).encode().accepted == 4
    run = daskt2i.Run(small_settings(), tmp_path / "b", scheduler=cluster.scheduler_address, progress=False)
    with run:
        assert run.encode().accepted == 4


def test_a_client_that_waits_works_where_an_event_loop_runs_as_in_a_notebook(cluster: Any, tmp_path: Path) -> None:
    async def notebook() -> int:
        async with Client(cluster.scheduler_address, asynchronous=True, set_as_default=False) as wrong:
            with told("deploy/connect.py:borrow ConfigError"):
                daskt2i.Run(small_settings(), tmp_path, client=wrong)
        with Client(cluster.scheduler_address, set_as_default=False) as client:
            return daskt2i.Run(small_settings(), tmp_path, client=client, progress=False).encode().accepted

    assert asyncio.run(notebook()) == 4


def test_a_client_that_is_connected_is_taken(cluster: Any, tmp_path: Path) -> None:
    client = Client(cluster, set_as_default=False)
    client.close()
    with told("deploy/connect.py:borrow ConfigError"):
        daskt2i.Run(small_settings(), tmp_path, client=client)
    with Client(cluster, set_as_default=False) as connected:
        assert daskt2i.Run(small_settings(), tmp_path, client=connected, progress=False).encode().accepted == 4


def test_an_encode_writes_a_damaged_manifest_again(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.encode()
    (tmp_path / "manifest.parquet").write_text("junk")
    with told("session/run_reader.py:RunReader.manifest StoreError"):
        _ = run.manifest
    assert (run.encode().done, len(run.manifest)) == (0, 4)


def test_plans_that_are_named_are_there(tmp_path: Path) -> None:
    run = daskt2i.Run("demo", tmp_path / "run", scheduler="serial", progress=False)
    wrong: Any = "sample"
    with told("run.py:Run.plan ConfigError"):
        run.plan(wrong)
    assert run.plan("encode").view()
    assert run.plan("run").view()
    encoded = run_of(tmp_path / "encoded")
    encoded.encode()
    assert encoded.with_settings({"train.validation": 2}).plan("train").view()


def test_a_new_run_takes_the_scheduler_that_another_run_does_not(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    with told("session/run_settings.py:with_changes ConfigError"):
        run.with_settings({"run.scheduler": "multiprocessing"})
    assert run_of(tmp_path).encode().accepted == 4
    assert daskt2i.Run(out=tmp_path, scheduler="multiprocessing", progress=False).encode().skipped


def test_each_kind_of_progress_that_is_named_is_taken(tmp_path: Path) -> None:
    wrong: Any = "often"
    with told("display/listener.py:listener_for ConfigError"):
        daskt2i.Run(small_settings(), tmp_path, progress=wrong)
    heard: list[Event] = []
    for number, progress in enumerate((True, False, heard.append)):
        run = daskt2i.Run(small_settings(), tmp_path / str(number), scheduler="serial", progress=progress)
        assert run.encode().accepted == 4
    assert heard


@pytest.mark.parametrize("encoded", [False, True])
def test_a_run_that_was_closed_is_opened_again_as_the_message_says(encoded: bool, tmp_path: Path) -> None:
    given: dict[str, Any] = {"scheduler": "serial", "progress": False}
    run = daskt2i.Run(small_settings(), tmp_path / "run", **given)
    if encoded:
        run.encode()
    run.close()
    with told("run.py:Run._ready ConfigError"):
        run.encode()
    again = daskt2i.Run(run.workflow, run.out, **given)
    assert again.encode().accepted == 4
    assert daskt2i.open_run(run.out, **given).status().accepted == 4


def test_a_misspelt_argument_is_taken_as_it_is_suggested(tmp_path: Path) -> None:
    make: Any = daskt2i.Run
    with told("session/verbs.py:explain_arguments.call UnknownArgument") as error:
        make(small_settings(), tmp_path, setings={"run.batch": 2})
    assert "settings" in str(error.value)
    assert make(small_settings(), tmp_path, settings={"run.batch": 2}).workflow.run.batch == 2


def test_the_same_method_again_goes_on_after_a_stop(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.encode()
    stop = True

    def listener(event: Event) -> None:
        if stop:
            raise KeyboardInterrupt

    stopped = daskt2i.open_run(tmp_path, scheduler="serial", progress=listener)
    with told("session/verbs.py:verb.call Interrupted"):
        stopped.verify()
    stop = False
    assert stopped.verify().ok


def test_encoding_to_the_end_makes_the_manifest(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    with told("session/run_reader.py:RunReader.manifest StoreMissing"):
        _ = run.manifest
    run.encode()
    assert len(run.manifest) == 4
    (tmp_path / "manifest.parquet").unlink()
    with told("session/run_reader.py:RunReader.manifest StoreMissing"):
        _ = run.manifest
    run.encode()
    assert len(run.manifest) == 4


def test_a_run_with_a_workflow_makes_the_folder_that_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with told("session/run_settings.py:own_settings StoreMissing"):
        daskt2i.open_run(out)
    run_of(out).encode()
    assert daskt2i.open_run(out).status().accepted == 4


def test_a_workflow_that_is_named_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "encoder_of_a_stranger.py").write_text(
        "from daskt2i.encoders.fake import FakeImageEncoder as Encoder\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = write_workflow(tmp_path / "w.yaml", rows=4, image={"class": "encoder_of_a_stranger.Encoder"})
    out = tmp_path / "run"
    given: dict[str, Any] = {"scheduler": "serial", "progress": False}
    daskt2i.Run(path, out, **given).encode()
    own = daskt2i.open_run(out, **given)
    with told("session/run_settings.py:refuse_strangers ConfigError"):
        own.encode()
    notes = own.verify().notes
    covers("encode/verify.py:verify Note")
    assert [note for note in notes if "workflow" in note]
    named = daskt2i.Run(path, out, **given)
    assert named.encode().skipped == 1
    assert named.verify().psnr
    assert not named.verify().notes


def differs(run: daskt2i.Run, heard: list[Event]) -> list[str]:
    """Notes of an encode in a folder of other settings."""
    run.encode()
    return [event.text for event in heard if isinstance(event, Note) and run.out in event.text]


@pytest.mark.parametrize("usual_place", [False, True], ids=["a folder was named", "the usual folder"])
def test_the_folder_without_a_workflow_goes_on_with_its_own_settings(
    usual_place: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = None if usual_place else "mine"
    given: dict[str, Any] = {"scheduler": "serial"}
    first = daskt2i.Run(small_settings(), out, progress=False, settings={"train.steps": 7}, **given)
    first.encode()
    heard: list[Event] = []
    other = daskt2i.Run(small_settings(), out, progress=heard.append, settings={"train.steps": 8}, **given)
    (note,) = differs(other, heard)
    covers("session/run_settings.py:_compared Note")
    assert other.out in note
    heard.clear()
    own = daskt2i.Run(out=other.out, progress=heard.append, **given)
    assert differs(own, heard) == []
    assert own.workflow.train.steps == 7


@pytest.mark.parametrize("name", ["..", ".", " ", "", "a/../b", "/a"])
def test_another_name_or_a_run_folder_helps_where_no_folder_can_have_the_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = small_settings().model_copy(update={"name": name})
    with told("session/run_settings.py:_usual_place ConfigError"):
        daskt2i.Run(named, progress=False)
    assert list(tmp_path.iterdir()) == []
    assert daskt2i.Run(named, "mine", progress=False).out == str(tmp_path / "mine")
    other = named.model_copy(update={"name": "team/one"})
    assert daskt2i.Run(other, progress=False).out == str(tmp_path / "runs" / "team" / "one")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("local:", "local:1"),
        ("joblib:0", "joblib:1"),
        ("multiprocessing:x", "multiprocessing"),
        ("slurm:0", "slurm:1"),
        (":", "serial"),
    ],
)
def test_schedulers_of_the_forms_that_are_named_are_taken(wrong: str, right: str) -> None:
    with told("session/schedulers.py:Scheduler.parse ConfigError"):
        Scheduler.parse(wrong)
    assert Scheduler.parse(right)
    assert Scheduler.parse("tcp://10.0.0.1:8786").address


def test_a_number_of_workers_after_the_colon_is_taken() -> None:
    with told("session/schedulers.py:Scheduler.parse ConfigError") as error:
        Scheduler.parse("local:0")
    assert "local:1, or local alone" in str(error.value)
    assert (Scheduler.parse("local:1").workers, Scheduler.parse("local").workers) == (1, None)


def test_more_processes_come_from_the_schedulers_that_are_named(tmp_path: Path) -> None:
    with told("session/schedulers.py:Scheduler.parse ConfigError"):
        daskt2i.Run(small_settings(), tmp_path, scheduler="serial:2")
    run = daskt2i.Run(small_settings(rows_per_chunk=2), tmp_path, scheduler="multiprocessing:2", progress=False)
    assert run.encode().workers == 2
    assert Scheduler.parse("local:2").workers == 2


def test_changing_ranks_or_batch_lets_them_share(tmp_path: Path) -> None:
    with told("session/worker_layout.py:ranks_for ConfigError"):
        ranks_for(8, 3, 4)
    assert (ranks_for(8, 2, 4), ranks_for(9, 3, 4)) == (2, 3)


@pytest.mark.parametrize("devices", ["gpu", "cuda,tpu"])
def test_devices_of_the_form_that_is_named_are_taken(devices: str, tmp_path: Path) -> None:
    run = run_of(tmp_path)
    with told("session/estimate.py:_devices ConfigError"):
        run.estimate(devices=devices, rows=4)
    assert run.estimate(devices="cpu", rows=4).calibrations


def needs_no_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("here is a GPU")


@pytest.mark.parametrize("settings", [{}, {"device": "cuda"}], ids=["run.device=cpu", "run.device=cuda"])
def test_an_estimate_without_a_gpu_works_on_a_cpu(settings: dict[str, Any], tmp_path: Path) -> None:
    needs_no_gpu()
    run = run_of(tmp_path, **settings)
    with told("session/estimate.py:estimate ConfigError"):
        run.estimate(devices="cuda", rows=4)
    assert run.estimate(devices="cpu", rows=4).calibrations
    both = run.estimate(devices="cpu,cuda", rows=4)
    assert [one.device for one in both.calibrations] == ["cpu"]
    covers("session/estimate.py:estimate Note")
    assert [note for note in both.notes if "images_per_second" in note]


def test_a_price_with_its_speed_stands_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    needs_no_gpu()
    prices = {
        "currency": "USD",
        "date": "2024-01-01",
        "source": "a list",
        "instances": [{"name": "gpu.small", "device": "cuda", "per_hour": 1.0, "images_per_second": 500.0}],
    }
    run = run_of(tmp_path).with_settings({"prices": prices})
    result = run.estimate(devices="cpu,cuda", rows=4)
    assert result.notes
    assert [price.name for price in result.prices]


def test_fewer_validation_rows_or_another_folder_leave_rows_for_training(tmp_path: Path) -> None:
    workflow = write_workflow(tmp_path / "w.yaml")
    how: dict[str, Any] = {"scheduler": "serial", "progress": False}
    run = daskt2i.Run(workflow, tmp_path / "run", **how)
    run.encode()
    with told("session/stages.py:Stages.train_plan ConfigError") as error:
        run.plan("train")
    assert "set train.validation=2, a tenth of them" in str(error.value)
    assert run.with_settings({"train.validation": 2}).plan("train").to_json()["rows"] == 20
    more = daskt2i.Run(workflow, tmp_path / "more", settings={"dataset.source.rows": 80}, **how)
    more.encode()
    assert more.plan("train").to_json()["rows"] == 80


def test_an_absolute_path_is_found_from_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = write_workflow(tmp_path / "w.yaml")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with told("store/run_folder.py:RunFolder.__init__ ConfigError"):
        daskt2i.Run(workflow, "run", scheduler="serial", progress=False)
    run = daskt2i.Run(workflow, tmp_path / "run", scheduler="serial", progress=False)
    assert run.encode().accepted == 20


def test_a_method_of_the_class_is_called_on_a_run_as_the_message_says(tmp_path: Path) -> None:
    with told("session/verbs.py:_owner UnknownArgument"):
        daskt2i.Run.encode()  # type: ignore[call-arg]
    with daskt2i.Run(small_settings(), tmp_path / "run", scheduler="serial", progress=False) as run:
        assert run.encode().accepted == 4
