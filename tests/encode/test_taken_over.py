"""Encodes that meet workers and processes of former runs, or are one: nothing of them is seen, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.runs import arrays, assert_same
from builders.workflows import component, fake_settings, finish, with_parts

from daskt2i.encode.driver import encode
from daskt2i.encode.job import EncodeJob
from daskt2i.encode.prepare import prepare
from daskt2i.encode.verify import verify
from daskt2i.encode.worker import encode_chunk
from daskt2i.errors import SchedulerError, TakenOver
from daskt2i.events import ChunkDone, Event
from daskt2i.executors.serial import SerialExecutor
from daskt2i.protocols import ExecutorInfo
from daskt2i.store.publishing.publication import Publication, begin
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.status import status
from daskt2i.types import Chunk

SOURCE = "daskt2i.sources.fake.FakeSource"


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


class Remembers(SerialExecutor):
    """Keeps the job and a chunk of a run."""

    def run(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        for item, outcome in super().run(work, items):
            if isinstance(item, Chunk):
                self.job: EncodeJob = work.args[0]  # type: ignore[attr-defined]
                self.chunk = item
            yield item, outcome


def test_a_worker_of_a_former_run_stores_nothing_in_a_new_one(tmp_path: Path) -> None:
    former, out = Remembers(), tmp_path / "run"
    wide = with_parts(fake_settings(rows_per_chunk=4), source=component(SOURCE, rows=16, width=90))
    encode(prepare(wide, tmp_path / "other"), former)
    narrow = with_parts(fake_settings(rows_per_chunk=4), source=component(SOURCE, rows=16))
    finish(narrow, tmp_path / "calm")
    late: list[type] = []

    def hear(event: Event) -> None:
        if isinstance(event, ChunkDone) and event.receipt.chunk == 2:
            job = replace(former.job, folder=RunFolder(out))  # the folder was made anew, with other pictures
            with pytest.raises(TakenOver) as caught:
                encode_chunk(job, former.chunk)
            late.append(type(caught.value))

    encode(prepare(narrow, out), SerialExecutor(), hear)
    assert late == [TakenOver]
    assert verify(RunFolder(out)).ok
    assert_same(arrays(out), arrays(tmp_path / "calm"))
    assert not (out / "attempts").exists()


def test_an_encode_that_is_taken_over_ends_in_one_sentence_and_the_store_can_be_completed(tmp_path: Path) -> None:
    settings, seen = fake_settings(rows_per_chunk=4), dict[str, bytes]()

    def hear(event: Event) -> None:
        if isinstance(event, ChunkDone) and event.receipt.chunk == 1:
            begin(RunFolder(tmp_path))  # another process found this one dead
            seen.update(files(tmp_path))

    with pytest.raises(TakenOver, match="Another run took over"):
        encode(prepare(settings, tmp_path), SerialExecutor(), hear)
    seen = {name: data for name, data in seen.items() if not name.startswith(("attempts", "encode.lock"))}
    assert {name: data for name, data in files(tmp_path).items() if not name.startswith("attempts")} == seen
    result = encode(prepare(settings, tmp_path), SerialExecutor())
    assert (result.skipped, result.done, result.accepted) == (2, 3, 20)
    assert status(RunFolder(tmp_path)).complete


def test_what_a_former_run_publishes_until_it_is_removed_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So receipts are read after former runs are removed."""
    former, settings = Remembers(), fake_settings(rows_per_chunk=4)
    encode(prepare(settings, tmp_path / "run"), former)
    (tmp_path / "run" / "receipts" / "chunk-0000004.json").unlink()
    sleeper = begin(RunFolder(tmp_path / "run"))
    staged = encode_chunk(replace(former.job, run=sleeper.run), former.chunk)
    take_over = Publication.take_over

    def meanwhile(publication: Publication) -> None:
        sleeper.publish(staged)
        take_over(publication)

    monkeypatch.setattr(Publication, "take_over", meanwhile)
    result = encode(prepare(settings, tmp_path / "run"), SerialExecutor())
    assert (result.skipped, result.done) == (5, 0)
    assert verify(RunFolder(tmp_path / "run")).ok


def rejecting(retry: bool) -> Any:
    """Forty rows, one of each chunk missing; with `retry`, these chunks are to be encoded again."""
    source = component(SOURCE, rows=40, missing=[1, 9, 17, 25, 33])
    return with_parts(
        fake_settings(**({"retry_rejected": ["missing-file"], "retries": 0} if retry else {})), source=source
    )


def test_a_command_that_cannot_start_workers_removes_no_receipt(tmp_path: Path) -> None:
    class Away(SerialExecutor):
        def start(self) -> ExecutorInfo:
            raise SchedulerError("There is no scheduler.")

    finish(rejecting(retry=False), tmp_path)
    before = files(tmp_path)
    with pytest.raises(SchedulerError):
        encode(prepare(rejecting(retry=True), tmp_path), Away())
    assert files(tmp_path) == before


def test_a_chunk_that_fails_when_it_is_tried_again_keeps_what_it_had(tmp_path: Path) -> None:
    class Fails(SerialExecutor):
        def run(self, work: Any, items: Any) -> Iterator[tuple[Any, Any]]:
            for item, outcome in super().run(work, items):
                yield item, OSError("the disk is tired") if getattr(item, "index", 0) == 3 else outcome

    finish(rejecting(retry=False), tmp_path)
    before = (tmp_path / "receipts" / "chunk-0000003.json").read_bytes()
    result = encode(prepare(rejecting(retry=True), tmp_path), Fails())
    assert list(result.failed) == [3]
    assert result.done == 4
    assert (tmp_path / "receipts" / "chunk-0000003.json").read_bytes() == before
    assert status(RunFolder(tmp_path)).complete, "the manifest is that of the receipts"
    assert verify(RunFolder(tmp_path)).ok


def test_the_lock_and_the_folder_of_attempts_are_gone_and_receipts_name_no_place(tmp_path: Path) -> None:
    finish(fake_settings(), tmp_path)
    names = {name.partition("/")[0] for name in files(tmp_path)}
    assert names == {"daskt2i-run.json", "latents.zarr", "receipts", "manifest.parquet", "workflow.yaml"}
    for path in (tmp_path / "receipts").iterdir():
        assert "attempt" not in json.loads(path.read_text())
