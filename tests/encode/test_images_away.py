"""Images that go away while they are encoded: the run waits, then ends with a sentence. No row is rejected for it."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from builders.coco import write_coco
from builders.workflows import component, fake_settings, with_parts

from daskt2i.config.settings import Workflow
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.encode.summary import EncodeResult
from daskt2i.errors import Reason, RowRejected, TransportFailed
from daskt2i.events import ChunkDone, ChunkFailed, Event, Listener
from daskt2i.executors.serial import SerialExecutor
from daskt2i.sources.coco import CocoSource
from daskt2i.types import Row


@pytest.fixture(autouse=True)
def _no_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskt2i.retries.RETRY_SECONDS", 0.01)


def settings(folder: Path, kind: str = "daskt2i.sources.coco.CocoSource", **run: Any) -> Workflow:
    """Chunks of 2 rows."""
    source = component(kind, **paths(write_coco(folder, [["a picture"]] * 8)))
    return with_parts(fake_settings(rows_per_chunk=2, min_accepted=0.0, **run), source=source)


def paths(folder: Path) -> dict[str, str]:
    return {"images": str(folder / "images"), "captions": str(folder / "captions.json")}


def run(workflow: Workflow, out: Path, listener: Listener = lambda event: None) -> EncodeResult:
    return encode(prepare(workflow, out), SerialExecutor(), listener)


def test_a_folder_renamed_in_the_middle_rejects_nothing_and_the_next_run_ends_it(tmp_path: Path) -> None:
    workflow = settings(tmp_path, transport_patience=0.1)
    images, away = tmp_path / "images", tmp_path / "away"

    def rename(event: Event) -> None:
        if isinstance(event, ChunkDone) and images.exists():
            images.rename(away)

    with pytest.raises(TransportFailed, match=r"not there now.*no row was rejected.*[Rr]un it again"):
        run(workflow, tmp_path / "out", rename)
    away.rename(images)
    result = run(workflow, tmp_path / "out")
    assert (result.accepted, result.skipped, result.rejected) == (8, 1, {})


def test_a_folder_that_is_back_in_time_is_only_waited_for(tmp_path: Path) -> None:
    workflow = settings(tmp_path)
    images, away = tmp_path / "images", tmp_path / "away"
    failed: list[Event] = []

    def rename(event: Event) -> None:
        failed.extend([event] if isinstance(event, ChunkFailed) else [])
        if isinstance(event, ChunkDone) and event.receipt.chunk == 0:
            images.rename(away)
            threading.Timer(0.3, away.rename, [images]).start()

    result = run(workflow, tmp_path / "out", rename)
    assert (result.accepted, result.rejected, failed) == (8, {}, [])


class Deleting(CocoSource):
    """A source of which somebody deletes the third image, just before it is read."""

    def read(self, row: Row) -> bytes:
        if row.index == 2:
            (Path(self.images) / row.file_name).unlink(missing_ok=True)
        return super().read(row)


def test_one_deleted_image_is_missing_for_the_second_try_of_its_chunk(tmp_path: Path) -> None:
    failed: list[ChunkFailed] = []
    workflow = settings(tmp_path, f"{__name__}.Deleting")
    result = run(workflow, tmp_path / "out", lambda e: failed.extend([e] if isinstance(e, ChunkFailed) else []))
    assert (result.accepted, result.rejected) == (7, Counter({"missing-file": 1}))
    assert [(event.chunk, event.final) for event in failed] == [(1, False)]
    assert "were there before, and are not there now: 002.bmp" in str(failed[0].error)


class Unmounted(CocoSource):
    """A source on a worker that does not see the images which the driver sees."""

    def read(self, row: Row) -> bytes:
        raise RowRejected(Reason.MISSING_FILE, row.file_name)


def test_images_that_the_driver_alone_sees_are_not_missing_even_in_a_chunk_of_two_rows(tmp_path: Path) -> None:
    workflow = settings(tmp_path, f"{__name__}.Unmounted")
    result = run(workflow, tmp_path / "out")
    assert (result.accepted, result.rejected, sorted(result.failed)) == (0, {}, [0, 1, 2, 3])
    believed = run(settings(tmp_path, f"{__name__}.Unmounted", on_missing_chunk="reject"), tmp_path / "out")
    assert believed.rejected == Counter({"missing-file": 8})
