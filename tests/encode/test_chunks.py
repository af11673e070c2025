"""Chunks that fail, workers that fail, rows that kill: nothing is lost, and the right one is blamed."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from builders.executors import Died, PretendedWorkers
from builders.runs import arrays
from builders.workflows import component, fake_settings, finish, with_parts

from daskt2i.config.settings import Workflow
from daskt2i.encode.chunks import standstill, watch
from daskt2i.encode.chunks.culprit import closable
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.encode.summary import EncodeResult
from daskt2i.encoders.fake import FakeImageEncoder
from daskt2i.errors import AccessRefused, ExecutorError, Reason, SourceMissing, TakenOver
from daskt2i.events import ChunkFailed, Event, Moving, Note, Waiting
from daskt2i.executors.attempts import how_it_ended
from daskt2i.protocols import WorkerDeath
from daskt2i.sources.fake import FakeSource
from daskt2i.store.publishing.publication import begin
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import MANIFEST, STANDSTILL, RunFolder
from daskt2i.store.status import status
from daskt2i.types import Chunk, Row


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskt2i.retries.RETRY_SECONDS", 0.001)
    monkeypatch.setattr("daskt2i.retries.ACCESS_SECONDS", 0.001)


def run(workflow: Workflow, out: Path, workers: PretendedWorkers, told: list[Event] | None = None) -> EncodeResult:
    return encode(prepare(workflow, out), workers, (told if told is not None else []).append)


FOUR = ("node1:1", "node2:1", "node3:1", "node4:1")


def bad(*names: str, error: type[Exception] = ValueError) -> Any:
    def fault(worker: str, item: Any) -> None:
        if worker in names and isinstance(item, Chunk):
            raise error("this node is broken")

    return fault


def test_a_node_that_fails_everything_is_named_and_costs_no_chunk_a_try(tmp_path: Path) -> None:
    told: list[Event] = []
    found = run(
        fake_settings(rows=48, rows_per_chunk=4, retries=0), tmp_path, PretendedWorkers(FOUR, bad(FOUR[0])), told
    )
    assert (found.done, found.failed, found.accepted) == (12, {}, 48)
    (note,) = [event.text for event in told if isinstance(event, Note)]
    assert note.startswith("node1:1 failed 3 chunks in a row, so it gets no more chunks of this run.")
    assert "this node is broken" in note


def test_a_node_that_fails_one_chunk_is_named_in_the_singular_and_its_error_stands_once(tmp_path: Path) -> None:
    workers = PretendedWorkers(FOUR[:2], bad(FOUR[1], error=SourceMissing))
    told: list[Event] = []
    run(fake_settings(rows=16, rows_per_chunk=4, retries=0), tmp_path, workers, told)
    (note,) = [event.text for event in told if isinstance(event, Note)]
    assert note == "node2:1 failed chunk 1, so it gets no more chunks of this run. Other workers try this chunk."
    assert [str(event.error) for event in told if isinstance(event, ChunkFailed)] == ["this node is broken"]


def test_a_worker_that_dies_is_named_and_its_chunks_are_said_to_be_safe(tmp_path: Path) -> None:
    workers: Any = PretendedWorkers(FOUR)
    chunks = tuple(Chunk(index, 4 * index, 4 * index + 4) for index in range(3))
    workers.worker_deaths = deque(
        [
            WorkerDeath("vm:812", how_it_ended(-9), chunks[1:], 3),
            WorkerDeath("", how_it_ended("SIGSEGV"), chunks[:1], 1),
            WorkerDeath("tls://vm:1", how_it_ended(None), ("part",), 0),
        ]
    )
    told: list[Event] = []
    run(fake_settings(rows=12, rows_per_chunk=4), tmp_path, workers, told)
    assert [event.text for event in told if isinstance(event, Note)] == [
        "The worker vm:812 was killed by SIGKILL (often because memory ran out). Chunks 1 and 2 are encoded again, so "
        "nothing is lost; 3 workers continue.",
        "A worker was killed by SIGSEGV. Its chunk 0 is encoded again, so nothing is lost; 1 worker continues.",
        "The worker tls://vm:1 died. What it worked on is encoded again, so nothing is lost; none is left now.",
    ]


def test_two_nodes_of_four_may_be_broken(tmp_path: Path) -> None:
    found = run(fake_settings(rows=48, rows_per_chunk=4), tmp_path, PretendedWorkers(FOUR, bad(*FOUR[:2])))
    assert (found.done, found.failed) == (12, {})


def test_a_node_without_the_images_does_not_end_the_run(tmp_path: Path) -> None:
    workers = PretendedWorkers(FOUR, bad(FOUR[0], error=SourceMissing))
    assert run(fake_settings(rows=16, rows_per_chunk=4, retries=0), tmp_path, workers).done == 4


def test_when_no_good_worker_is_left_the_run_ends_and_names_them(tmp_path: Path) -> None:
    workers = PretendedWorkers(FOUR[:2], bad(*FOUR))
    with pytest.raises(ExecutorError, match=r"this node is broken.*Set aside before: node1:1 \(ValueError: this node"):
        run(fake_settings(rows=80, rows_per_chunk=4), tmp_path, workers)


def test_a_worker_that_lost_the_run_folder_is_set_aside(tmp_path: Path) -> None:
    workflow = fake_settings(rows=40, rows_per_chunk=4)
    found = run(workflow, tmp_path, PretendedWorkers(FOUR, bad("node2:1", error=TakenOver)))
    assert (found.failed, found.done) == ({}, 10)


def test_a_run_that_was_taken_over_blames_no_worker(tmp_path: Path) -> None:
    def fault(worker: str, item: Any) -> None:
        if isinstance(item, Chunk) and item.index == 4:
            begin(RunFolder(tmp_path))  # another process found this one dead
        if isinstance(item, Chunk) and item.index >= 4:
            raise TakenOver("Another run took over.")

    told: list[Event] = []
    with pytest.raises(TakenOver, match="Another run took over"):
        run(fake_settings(rows=40, rows_per_chunk=4), tmp_path, PretendedWorkers(FOUR, fault), told)
    assert [event.text for event in told if isinstance(event, Note) and "no more chunks" in event.text] == []


def test_chunks_that_fail_everywhere_are_not_blamed_on_workers(tmp_path: Path) -> None:
    def fault(worker: str, item: Any) -> None:
        if isinstance(item, Chunk) and 4 <= item.index < 8:
            raise ValueError("odd chunk")

    told: list[Event] = []
    found = run(fake_settings(rows=80, rows_per_chunk=4, retries=1), tmp_path, PretendedWorkers(FOUR, fault), told)
    assert (found.done, list(found.failed)) == (16, [4, 5, 6, 7])
    assert {event.chunk for event in told if isinstance(event, ChunkFailed) and event.final} == {4, 5, 6, 7}


class Refusing(FakeSource):
    """Refuses rows from 8 on, while a file is there."""

    def __init__(self, mark: str) -> None:
        super().__init__(40)
        self.mark = Path(mark)

    def read(self, row: Row) -> bytes:
        if row.index >= 8 and self.mark.exists():
            raise PermissionError(13, "Permission denied", f"s3://me:pw@bucket/{row.file_name}?token=abc")
        return super().read(row)


def test_a_refusal_rejects_no_row_and_the_same_command_continues(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.touch()
    workflow = with_parts(fake_settings(rows_per_chunk=4), source=component(f"{__name__}.Refusing", mark=str(mark)))
    with pytest.raises(AccessRefused) as error:
        finish(workflow, tmp_path / "run")
    assert "Permission denied" in str(error.value)
    assert "pw" not in str(error.value)
    assert "abc" not in str(error.value)
    receipts = list(Receipts(RunFolder(tmp_path / "run")).read())
    assert [(receipt.chunk, receipt.rejected) for receipt in receipts] == [(0, ()), (1, ())]
    mark.unlink()
    assert finish(workflow, tmp_path / "run").accepted == 40


def test_what_an_older_version_rejected_for_a_refusal_is_encoded_on_resume(tmp_path: Path) -> None:
    workflow = fake_settings(rows=12, rows_per_chunk=4, source={"missing": [5]})
    finish(workflow, tmp_path)
    path = tmp_path / "receipts" / "chunk-0000001.json"
    old = json.loads(path.read_text())
    old["rejected"][0] |= {"reason": "unreadable-image", "detail": "no permission to read the file"}
    path.write_text(json.dumps(old))
    found = finish(workflow, tmp_path)
    assert (found.done, found.skipped, found.rejected) == (1, 2, {"missing-file": 1})


def test_a_damaged_chunk_with_an_old_refusal_is_in_no_manifest_until_it_is_encoded(tmp_path: Path) -> None:
    workflow = fake_settings(rows=12, rows_per_chunk=4, source={"missing": [5]}, retries=0)
    finish(workflow, tmp_path)
    path = tmp_path / "receipts" / "chunk-0000001.json"
    old = json.loads(path.read_text())
    old["rejected"][0] |= {"reason": "unreadable-image", "detail": "no permission to read the file"}
    path.write_text(json.dumps(old))
    (tmp_path / "latents.zarr" / old["shards"][0]["key"]).write_bytes(b"damaged")
    found = run(workflow, tmp_path, PretendedWorkers(FOUR, bad(*FOUR)))
    assert list(found.failed) == [1]
    assert not (tmp_path / MANIFEST).exists()
    assert finish(workflow, tmp_path).accepted == 11
    assert (tmp_path / MANIFEST).exists()


def deadly(*rows: int) -> Any:
    def fault(worker: str, item: Any) -> None:
        if isinstance(item, Chunk) and any(row.index in rows and row.usable for row in item.rows):
            raise Died

    return fault


def test_a_row_that_kills_its_worker_is_found_and_the_others_are_encoded(tmp_path: Path) -> None:
    workflow = fake_settings(rows=32, rows_per_chunk=16)
    told: list[Event] = []
    found = run(workflow, tmp_path / "a", PretendedWorkers(FOUR, deadly(5, 14)), told)
    assert (found.failed, found.accepted, found.rejected) == ({}, 30, {"kills-worker": 2})
    receipt = next(Receipts(RunFolder(tmp_path / "a")).read())
    assert [(row.row, row.reason) for row in receipt.rejected] == [(5, Reason.KILLS_WORKER), (14, Reason.KILLS_WORKER)]
    assert any(isinstance(event, Note) and "Row 5 (00000005.bmp) is rejected" in event.text for event in told)
    finish(workflow, tmp_path / "b")
    rest = [row for row in range(32) if row not in (5, 14)]
    for name, array in arrays(tmp_path / "b").items():
        if len(array) == 32:
            assert (arrays(tmp_path / "a")[name][rest] == array[rest]).all()


def test_a_resume_does_not_read_the_row_that_kills(tmp_path: Path) -> None:
    workflow = with_parts(fake_settings(rows_per_chunk=4), source=component(f"{__name__}.Deadly"))
    run(workflow, tmp_path, PretendedWorkers(FOUR, deadly(1)))
    Receipts(RunFolder(tmp_path)).delete(1)
    Deadly.read_here.clear()
    assert finish(workflow, tmp_path).skipped == 1
    assert 0 in Deadly.read_here
    assert 1 not in Deadly.read_here


class Deadly(FakeSource):
    """Notes which rows are read."""

    read_here: ClassVar[set[int]] = set()

    def read(self, row: Row) -> bytes:
        self.read_here.add(row.index)
        return super().read(row)


class Hungry(FakeImageEncoder):
    """Its process dies when a batch has more than two images: the system kills it for its memory."""

    def encode(self, items: Any, batch: int) -> Any:
        if batch > 2:
            raise Died
        return super().encode(items, batch)


def test_a_death_for_want_of_memory_makes_the_batch_smaller_and_rejects_no_row(tmp_path: Path) -> None:
    settings = fake_settings(rows=24, rows_per_chunk=8, batch=8, gate_rows=0)
    workflow = with_parts(settings, image=component(f"{__name__}.Hungry"))
    told: list[Event] = []
    workers = PretendedWorkers(FOUR)
    found = run(workflow, tmp_path, workers, told)
    assert (found.failed, found.accepted, found.rejected) == ({}, 24, {})
    assert [event.text for event in told if isinstance(event, Note) and "run.batch" in event.text] == [
        "run.batch: workers died at 8; the run continues with 2."
    ]
    assert [receipt.batch for receipt in Receipts(RunFolder(tmp_path)).read()] == [2, 2, 2]


def test_a_chunk_that_kills_without_a_row_to_blame_fails(tmp_path: Path) -> None:
    def fault(worker: str, item: Any) -> None:
        if isinstance(item, Chunk) and item.index == 1 and sum(row.usable for row in item.rows) > 1:
            raise Died

    found = run(fake_settings(rows=12, rows_per_chunk=4), tmp_path, PretendedWorkers(FOUR, fault))
    assert (list(found.failed), found.done, found.rejected) == ([1], 2, {})


# What stands still


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((standstill, "_LOOK_SECONDS"), (watch, "_LOOK_SECONDS")):
        monkeypatch.setattr(module, name, 0.02)
    monkeypatch.setattr("daskt2i.retries.TELL_WAIT_SECONDS", 0.05)
    monkeypatch.setattr("daskt2i.encode.read_ahead._LOOK_SECONDS", 0.02)


def heard(told: list[Event], kind: type = Waiting) -> Iterator[Any]:
    """The events of a kind, as soon as there are some."""
    deadline = time.monotonic() + 30
    while not any(isinstance(event, kind) for event in told) and time.monotonic() < deadline:
        time.sleep(0.01)
    return (event for event in list(told) if isinstance(event, kind))


class Stuck(FakeSource):
    """Its row 5 returns when a test says so."""

    free = threading.Event()

    def read(self, row: Row) -> bytes:
        if row.index == 5:
            self.free.wait(60)
        return super().read(row)


@pytest.mark.usefixtures("_quick")
def test_a_read_that_does_not_return_is_told_and_status_shows_it(tmp_path: Path) -> None:
    workflow = with_parts(fake_settings(rows_per_chunk=4), source=component(f"{__name__}.Stuck"))
    told: list[Event] = []
    Stuck.free.clear()
    thread = threading.Thread(target=run, args=(workflow, tmp_path, PretendedWorkers(FOUR), told))
    thread.start()
    event = next(heard(told))
    assert (event.chunk, event.what, event.limit) == (1, "the read of 00000005.bmp does not return", 120.0)
    deadline = time.monotonic() + 30
    while not (tmp_path / STANDSTILL).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    found = status(RunFolder(tmp_path))
    assert "chunk 1 on " in found.to_json()["waiting"][0]
    assert not any(isinstance(event, Moving) for event in told)
    Stuck.free.set()
    thread.join()
    assert not (tmp_path / STANDSTILL).exists()
    assert not (tmp_path / watch.WAITING).exists()
    assert "waiting" not in status(RunFolder(tmp_path)).to_json()


@pytest.mark.usefixtures("_quick")
def test_a_run_in_which_no_chunk_ends_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskt2i.retries.TELL_SILENT_SECONDS", 0.1)
    told: list[Event] = []
    with standstill.Standstill(RunFolder(tmp_path), None, told.append) as watched:
        watched.drawn(3)
        assert next(heard(told)).what == "no chunk ends; in work are chunks 3"


def test_the_last_chunks_are_named_with_their_workers_if_they_take_long(tmp_path: Path) -> None:
    holders = SimpleNamespace(holders=lambda: {7: "cpu-slow"})
    watched = standstill.Standstill(RunFolder(tmp_path), holders, lambda event: None)
    watched.drawn(7)
    watched.drawn(8)
    late = time.monotonic() + standstill._LAST_SECONDS
    assert watched._last_chunks(late) == "", "there may be more chunks"
    watched.drained()
    assert watched._last_chunks(late - 5) == "", "they have not taken long"
    assert watched._last_chunks(late) == "only these chunks are left: chunk 7 on cpu-slow, chunk 8"
    assert watched._last_chunks(late) == "", "it was told"
    watched.ended(8)
    assert watched._last_chunks(late + 1) == "only this chunk is left: chunk 7 on cpu-slow"
    watched.ended(7)
    assert watched._last_chunks(late + 60) == ""


def test_the_watch_is_told_when_no_chunk_is_left_to_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(standstill.Standstill, "drained", lambda self: seen.append(len(self._flying)))
    run(fake_settings(rows=12, rows_per_chunk=4), tmp_path, PretendedWorkers(FOUR))
    assert seen


@pytest.mark.usefixtures("_quick")
def test_the_end_of_a_wait_is_told_although_no_chunk_has_ended(tmp_path: Path) -> None:
    told: list[Event] = []
    report = {"chunk": 3, "worker": "node1:1", "what": "a.jpg", "seconds": 9.0}
    folder = RunFolder(tmp_path)
    with standstill.Standstill(folder, None, told.append) as watched:
        watched.drawn(3)
        folder.write(f"{watch.WAITING}/node1-1.json", json.dumps(report).encode())
        assert next(heard(told)).what == "a.jpg"
        folder.delete(f"{watch.WAITING}/node1-1.json")
        assert next(heard(told, Moving)) == Moving()
        assert told[-1] == Moving()


def test_a_report_that_does_not_change_is_of_a_worker_that_is_gone(tmp_path: Path) -> None:
    watched = standstill.Standstill(RunFolder(tmp_path), None, lambda event: None)
    watched.drawn(3)
    report = {"chunk": 3, "worker": "node1:1", "what": "a.jpg", "seconds": 9.0}
    RunFolder(tmp_path).write(f"{watch.WAITING}/node1-1.json", json.dumps(report).encode())
    now = time.monotonic() + 10
    assert [one.what for one in watched._waits(now)] == ["a.jpg"]
    assert [one.what for one in watched._waits(now + standstill._STALE_SECONDS - 1)] == ["a.jpg"]
    assert list(watched._waits(now + standstill._STALE_SECONDS)) == []


def test_a_chunk_that_is_tried_alone_is_watched_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    for name in ("drawn", "ended"):
        before = getattr(standstill.Standstill, name)

        def noted(self: Any, chunk: int, name: str = name, before: Any = before) -> None:
            seen.append((name, chunk))
            before(self, chunk)

        monkeypatch.setattr(standstill.Standstill, name, noted)
    run(fake_settings(rows=8, rows_per_chunk=8), tmp_path, PretendedWorkers(FOUR, deadly(5)))
    assert seen == [("drawn", 0), ("ended", 0)] * 2


def test_the_outcomes_of_an_executor_may_be_any_iterator() -> None:
    for outcomes in (iter([1]), (one for one in [1])):
        with closing(closable(outcomes)) as found:
            assert next(found) == 1


@pytest.mark.usefixtures("_quick")
def test_an_error_of_the_listener_comes_out_in_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskt2i.retries.TELL_SILENT_SECONDS", 0.0)
    called = threading.Event()

    def listen(event: Event) -> None:
        called.set()
        raise KeyboardInterrupt

    with standstill.Standstill(RunFolder(tmp_path), None, listen) as watched:
        watched.drawn(3)
        assert called.wait(30)
        with pytest.raises(KeyboardInterrupt):
            watched.hear(Note("next"))
