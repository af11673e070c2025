"""Workers on other hosts are asked before the first chunk, and the host that lacks something is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from builders.coco import coco_source, write_coco
from builders.hosts import HostsExecutor
from builders.workflows import fake_settings, with_parts

from daskt2i.config.component import Component
from daskt2i.config.settings import Workflow
from daskt2i.encode.choices import across_workers
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.errors import WorkerWithoutFiles
from daskt2i.events import Event, Note
from daskt2i.executors.serial import SerialExecutor
from daskt2i.hosts import sight
from daskt2i.insights.driver import insights, settled
from daskt2i.sources.coco import CocoSource
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.upkeep.rank_needs import named


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sight, "_PAUSE", 0.0)


def notes_of(workflow: Workflow, out: Path, executor: SerialExecutor) -> list[str]:
    heard: list[Event] = []
    assert encode(prepare(workflow, out), executor, heard.append).accepted > 0
    return [event.text for event in heard if isinstance(event, Note)]


def test_a_host_without_the_run_folder_gets_no_chunks_and_the_others_encode(tmp_path: Path) -> None:
    out = tmp_path / "run"
    executor = HostsExecutor(tmp_path / "hosts", {"node1": [out], "node2": [], "node3": []})
    (note,) = [text for text in notes_of(fake_settings(), out, executor) if "node1" in text]
    assert note.startswith(
        f"node1 (1 worker) does not see the run folder {out}, so no chunk of this run is encoded there,"
    )
    assert executor.left_out == {"node1"}
    assert set(executor.worked) == {"node2", "node3"}


def test_the_run_stops_if_too_few_hosts_see_the_run_folder_and_each_that_does_not_is_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    executor = HostsExecutor(tmp_path / "hosts", {"node1": [out], "node2": [], "node3": [out]})
    with pytest.raises(WorkerWithoutFiles) as error:
        encode(prepare(fake_settings(), out), executor)
    said = str(error.value)
    assert said.startswith(f"node1 (1 worker), node3 (1 worker) does not see the run folder {out}")
    assert "1 worker would be left" in said
    assert executor.worked == []
    assert list(Receipts(RunFolder(out)).read()) == []
    all_fit = HostsExecutor(tmp_path / "hosts", {"node2": []})
    assert encode(prepare(fake_settings(), out), all_fit).accepted == 20


def test_an_encode_counts_the_workers_that_are_left(tmp_path: Path) -> None:
    out = tmp_path / "run"
    executor = HostsExecutor(tmp_path / "hosts", {"node1": [out], "node2": [], "node3": []})
    found = encode(prepare(fake_settings(), out), executor)
    assert found.workers == found.to_json()["workers"] == 2
    assert "2 workers x 1 thread" in dict(found.view().rows)["speed"]


@pytest.mark.parametrize(
    ("kinds", "precision", "noted"),
    [
        ({"node1": ("cpu", "fp32"), "node2": ("cuda 8.0", "bf16")}, "fp32", True),
        ({"node1": ("cuda 8.0", "bf16"), "node2": ("cpu", "fp32")}, "fp32", True),
        ({"node1": ("cuda 8.0", "bf16"), "node2": ("cuda 9.0", "bf16")}, "bf16", False),
        ({"node1": ("cpu", "bf16"), "node2": ("cpu", "fp32")}, "auto", False),
    ],
)
def test_workers_of_several_kinds_agree_on_one_precision(
    kinds: dict[str, tuple[str, str]],
    precision: str,
    noted: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def here() -> tuple[str, str]:
        return kinds[os.environ["XDG_CACHE_HOME"].rpartition("/")[2]]

    monkeypatch.setattr(across_workers, "kind_of", lambda device: here()[0])
    monkeypatch.setattr(across_workers, "resolve", lambda asked, device: here()[1])
    executor = HostsExecutor(tmp_path, dict.fromkeys(kinds, ()))
    found, note = across_workers.agreed_precision(executor, "auto", "cpu")
    assert found == (precision if noted else "auto")
    assert bool(note) == noted
    if noted:
        assert "cpu (fp32) and cuda 8.0 (bf16)" in note
        assert across_workers.agreed_precision(executor, "bf16", "cpu") == ("bf16", ""), "as the note says"
        assert "set dataset.precision=bf16" in note


def test_a_host_without_the_images_is_named_before_the_first_chunk(tmp_path: Path) -> None:
    folder = write_coco(tmp_path)
    workflow = with_parts(fake_settings(min_fit_workers=1.0), source=Component.model_validate(coco_source(folder)))
    executor = HostsExecutor(tmp_path / "hosts", {"node1": [], "node2": [folder / "images"]})
    with pytest.raises(
        WorkerWithoutFiles, match=r"^node2 \(1 worker\) does not see the images, for example '"
    ) as error:
        encode(prepare(workflow, tmp_path / "run"), executor)
    assert "at an address such as s3://bucket/images (images)" in str(error.value)
    assert executor.worked == []


def test_workers_that_see_everything_cause_no_note(tmp_path: Path) -> None:
    executor = HostsExecutor(tmp_path / "hosts", {"node1": [], "node2": []})
    assert [text for text in notes_of(fake_settings(), tmp_path / "run", executor) if "node" in text] == []
    assert set(executor.worked) == {"node1", "node2"}


def test_insights_are_read_on_hosts_that_see_the_images(tmp_path: Path) -> None:
    folder = write_coco(tmp_path)
    workflow = with_parts(fake_settings(), source=Component.model_validate(coco_source(folder)))
    heard: list[Event] = []
    executor = HostsExecutor(tmp_path / "hosts", {"node1": [folder / "images"], "node2": []})
    found = insights(settled(workflow), RunFolder(tmp_path / "run"), executor, tokens=False, listener=heard.append)
    assert found.unreadable == 0
    assert set(executor.worked) == {"node2"}
    (note,) = [event.text for event in heard if isinstance(event, Note)]
    assert note.endswith("so no image is read there, but by 1 other worker.")
    nobody = HostsExecutor(tmp_path / "hosts", {"node1": [folder / "images"]})
    with pytest.raises(WorkerWithoutFiles, match=r"^node1 \(1 worker\) does not see the images.*run insights again"):
        insights(settled(workflow), RunFolder(tmp_path / "run"), nobody, tokens=False)


def test_a_host_that_cannot_read_the_bucket_is_named_with_what_the_bucket_said(tmp_path: Path) -> None:
    class Closed(RunFolder):
        def read(self, name: str) -> bytes:
            raise PermissionError(13, "Access Denied")

    found = sight.look(sight.Needs(Closed("memory://bucket/run"), "content"))
    (lack,) = found.lacks
    assert lack.clause.startswith("does not see the run folder memory://bucket/run (PermissionError: ")


def test_a_rank_without_the_images_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")

    def fit() -> int:
        with named(folder, lambda: None):
            return CocoSource(str(tmp_path / "images"), str(tmp_path / "captions.json")).info().rows

    with pytest.raises(WorkerWithoutFiles, match=r"^Rank 0 on .* does not see the images or the captions") as error:
        fit()
    assert str(tmp_path) not in str(error.value)
    there = write_coco(tmp_path / "there")
    for path in there.iterdir():
        path.rename(tmp_path / path.name)
    assert fit() > 0
