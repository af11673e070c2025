"""Models that only the driver has come to the other hosts through the run folder: once, checked, within a limit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builders.hosts import HostsExecutor
from builders.workflows import component, fake_settings, load_workflow, with_parts

import daskt2i
from daskt2i.config.settings import Workflow
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.encoders.finding import model_copies
from daskt2i.encoders.finding.locate import locate, without_download
from daskt2i.encoders.finding.model_copies import ModelFile
from daskt2i.errors import ModelError, ModelMissing, WorkerWithoutFiles
from daskt2i.events import Event, Note
from daskt2i.executors.serial import SerialExecutor
from daskt2i.hosts.model_files import INDEX, encoder_infos, fetch, models_of, offer, offer_within
from daskt2i.hosts.sight import shown
from daskt2i.launch.launcher import LaunchResult
from daskt2i.launch.placement import WorkerNode
from daskt2i.launch.rank_spawners import Ended, LocalRankSpawner, Message
from daskt2i.launch.supervisor import RankSpec
from daskt2i.store.run_folder import CHECK, RunFolder
from daskt2i.train.denoiser_rank import SEEN
from daskt2i.train.upkeep.launching import launch_training

DEMO = Path(daskt2i.__file__).parent / "demo" / "text"


def with_text(folder: Path, **run: Any) -> Workflow:
    text = component("daskt2i.encoders.text.TextEncoder", model=str(folder), max_tokens=26)
    return with_parts(fake_settings(rows=8, rows_per_chunk=2, **run), text=text)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A model that only the driver has."""
    return Path(shutil.copytree(DEMO, tmp_path / "models" / "text"))


def test_hosts_without_the_model_get_it_once_and_encode_the_same_store(tmp_path: Path, text: Path) -> None:
    out, calm = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "calm")
    executor = HostsExecutor(tmp_path / "hosts", {"node1": [text], "node2": [text], "node3": []})
    assert encode(prepare(with_text(text), out.root), executor).accepted == 8
    assert set(executor.worked) == {"node1", "node2", "node3"}
    encode(prepare(with_text(text), calm.root), SerialExecutor())
    for name in calm.list("latents.zarr"):
        assert out.read(name) == calm.read(name), name
    sizes = {
        host: sum(one.stat().st_size for one in (tmp_path / "hosts" / host).rglob("*.safetensors"))
        for host in executor.hides
    }
    weights = (text / "model.safetensors").stat().st_size
    assert sizes == {"node1": weights, "node2": weights, "node3": 0}
    assert not [path for path in (tmp_path / "hosts").rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".py")]


def test_a_model_above_the_limit_is_not_sent_and_its_host_is_named(tmp_path: Path, text: Path) -> None:
    executor = HostsExecutor(tmp_path / "hosts", {"node1": [text], "node2": []})
    workflow = with_text(text, send_models="1 KiB", min_fit_workers=1.0)
    with pytest.raises(WorkerWithoutFiles, match=r"^node1 \(1 worker\) lacks the text model ") as error:
        encode(prepare(workflow, tmp_path / "run"), executor)
    assert "more than run.send_models allows (1.0 KiB)" in str(error.value)
    assert executor.worked == []
    assert not RunFolder(tmp_path / "run").exists("models")


def test_a_model_that_changed_is_sent_again(tmp_path: Path, text: Path) -> None:
    first = HostsExecutor(tmp_path / "hosts", {"node1": [text]})
    encode(prepare(with_text(text), tmp_path / "run"), first)
    config = json.loads((text / "config.json").read_text())
    (text / "config.json").write_text(json.dumps({**config, "eos_token_id": config["eos_token_id"], "note": 1}))
    assert encode(prepare(with_text(text), tmp_path / "again"), first).accepted == 8


def offered(tmp_path: Path, text: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    offer(folder, models_of(encoder_infos(with_text(text).dataset.encoders, 32)))
    return folder


def test_a_copy_with_other_bytes_is_not_kept(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    folder = offered(tmp_path, text)
    (name,) = [name for name in folder.list("models") if (folder.size(name) or 0) > 10**6]
    folder.write(name, folder.read(name)[:-1] + b"x")
    with pytest.raises(ModelError, match="other bytes"):
        fetch(folder)
    assert model_copies.find(str(text), None) is None
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    for name in folder.list("models"):  # as the message says
        folder.delete(name)
    offered(tmp_path, text)
    assert fetch(folder)
    assert model_copies.find(str(text), None) is not None


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def halve(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("damage", [flip, halve])
def test_a_copy_that_a_disk_damaged_is_replaced_before_the_first_chunk(
    damage: Callable[[bytes], bytes], tmp_path: Path, text: Path
) -> None:
    executor = HostsExecutor(tmp_path / "hosts", {"node1": [text], "node2": []})
    encode(prepare(with_text(text), tmp_path / "run"), executor)
    (copy,) = (tmp_path / "hosts" / "node1").rglob("model.safetensors")
    good = copy.read_bytes()
    copy.write_bytes(damage(good))
    heard, again = list[Event](), RunFolder(tmp_path / "again")
    assert encode(prepare(with_text(text), again.root), executor, heard.append).accepted == 8
    assert [event.text for event in heard if isinstance(event, Note) and "go through the run folder" in event.text]
    assert copy.read_bytes() == good
    for name in again.list("latents.zarr"):
        assert again.read(name) == RunFolder(tmp_path / "run").read(name), name


def test_a_model_of_the_run_folder_that_a_disk_damaged_is_written_again(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    folder = offered(tmp_path, text)
    (name,) = [name for name in folder.list("models") if (folder.size(name) or 0) > 10**6]
    folder.write(name, flip(folder.read(name)))
    assert fetch(offered(tmp_path, text))


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "model.bin", "modeling.py", "a/../config.json", "/etc/config.json", "x\\config.json"]
)
def test_an_index_that_names_other_files_is_refused(
    name: str, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = offered(tmp_path, text)
    index = json.loads(folder.read(INDEX))
    index["models"][0]["files"][0]["name"] = name
    folder.write(INDEX, json.dumps(index).encode())
    with pytest.raises(ModelError, match="no file of a model"):
        fetch(folder)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_copies_that_were_not_used_for_long_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(model_copies, "MOST_BYTES", 250)
    for number in range(4):
        data = bytes([number]) * 100
        digest = hashlib.sha256(data).hexdigest()
        file = ModelFile("config.json", 100, digest)
        place = model_copies.add(f"/m/{number}", None, [file], lambda _, path, data=data: path.write_bytes(data))
        os.utime(place, (number, number))
    there = [number for number in range(4) if model_copies.find(f"/m/{number}", None) is not None]
    assert there == [2, 3]


def test_a_rank_zero_without_the_model_gets_it_before_the_first_step(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daskt2i.train.upkeep.rank_needs import require_seen

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    dataset = with_text(text).dataset.model_dump(mode="json", by_alias=True)
    folder = RunFolder(tmp_path / "empty")
    elsewhere = text.rename(text.with_name("away"))
    with pytest.raises(ModelMissing, match=r"^Rank 0 on .* lacks a model of the encoders"):
        require_seen(folder, "", CHECK, dataset)
    elsewhere.rename(text)
    folder = offered(tmp_path, text)
    text.rename(elsewhere)
    require_seen(folder, "", CHECK, dataset)


def test_a_hub_model_that_is_not_here_is_not_downloaded_by_a_check(text: Path) -> None:
    how: dict[str, Any] = {"needs": ("config.json",), "setting": "dataset.encoders.text.model"}
    with (
        without_download(),
        pytest.raises(ModelMissing, match=r"not downloaded; set dataset\.encoders\.text\.model to a folder"),
    ):
        locate("nobody/no-such-model", **how)
    with without_download():
        assert locate(str(text), **how) == text


def test_a_rank_zero_with_a_damaged_copy_trains_nothing_until_it_has_the_model_of_the_store(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daskt2i.train.upkeep.rank_needs import require_seen

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    workflow = with_text(text)
    dataset = workflow.dataset.model_dump(mode="json", by_alias=True)
    encode(prepare(workflow, tmp_path / "run"), SerialExecutor())
    folder = offered(tmp_path, text)
    assert fetch(folder)
    (copy,) = (tmp_path / "cache").rglob("model.safetensors")
    good = copy.read_bytes()
    copy.write_bytes(flip(good))
    away = text.rename(text.with_name("away"))
    index = folder.read(INDEX)
    folder.delete(INDEX)
    with pytest.raises(ModelMissing, match=r"^Rank 0 on .* has other weights of the encoders"):
        require_seen(folder, "", CHECK, dataset)
    away.rename(text)  # as the message says: under the same path there
    require_seen(folder, "", CHECK, dataset)
    text.rename(away)
    folder.write(INDEX, index)
    require_seen(folder, "", CHECK, dataset)
    assert copy.read_bytes() == good


class Refusing(LocalRankSpawner):
    """Its rank 0 lacks a model, until the models are sent."""

    def __init__(self) -> None:
        super().__init__(1)
        self.starts, self.sent = 0, False

    def start(self, node: WorkerNode, spec: RankSpec, launch: str) -> None:
        assert self._put is not None
        self.starts += 1
        assert shown(RunFolder(spec.job["folder"]), SEEN) == spec.job["nonce"]
        error = ModelMissing("Rank 0 on node1:8 lacks a model.")
        for event in ({"kind": "rendezvous", "port": 0}, {"kind": "alive"}):
            self._put(Message(launch, spec.rank, event))
        self._put(Message(launch, spec.rank, Ended("finished") if self.sent else Ended("final", str(error), error)))


@dataclass
class Job:
    folder: str
    nonce: str = ""


def test_a_training_whose_models_are_above_the_limit_begins_when_they_may_be_sent(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder, spawner, heard = RunFolder(tmp_path / "run"), Refusing(), list[Event]()
    ways, encoders = with_text(text), with_text(text).dataset.encoders

    def send(limit: int) -> str:
        why = offer_within(limit, encoder_infos(encoders, 32), folder, heard.append)
        spawner.sent = not why
        return why

    def train(limit: int) -> LaunchResult:
        job, launch = Job(folder.root), load_workflow().launch
        return launch_training("denoiser_rank", job, spawner, 1, 1, heard.append, launch, folder, partial(send, limit))

    with pytest.raises(ModelMissing, match=r"^Rank 0 on node1:8 lacks a model\. The models were not sent there: they"):
        train(1024)
    assert spawner.starts == 1
    assert train(ways.run.send_bytes()).ranks == 1
    assert spawner.starts == 3
    assert "The models (" in "".join(event.text for event in heard if isinstance(event, Note))
    assert fetch(folder)
    assert not folder.exists(SEEN)
