"""Workers on other hosts are asked before the first chunk, and the host that lacks something is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.coco import coco_source, write_coco
from builders.hosts import HostsExecutor
from builders.workflows import fake_settings, with_parts

from daskt2i.config.component import Component
from daskt2i.config.settings import Workflow
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.errors import WorkerWithoutFiles
from daskt2i.events import Event, Note
from daskt2i.executors.serial import SerialExecutor
from daskt2i.hosts import sight
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder


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
