"""The encode stage from end to end, with encoders that need no weights: the promises for every run."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from builders.runs import arrays, assert_same
from builders.workflows import fake_settings, load_workflow

import daskt2i
from daskt2i.config.workflow_file import Workflow, load_defaults
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.encode.saved_workflow import settings_of
from daskt2i.encode.summary import EncodeResult
from daskt2i.encode.verify import verify
from daskt2i.errors import (
    ExecutorError,
    FingerprintMismatch,
    GateError,
    Interrupted,
    PlanError,
    SourceError,
    StoreBusy,
    StoreFull,
    StoreMissing,
)
from daskt2i.events import (
    ChunkDone,
    ChunkFailed,
    ChunkSent,
    ChunksFound,
    Event,
    Note,
    StageEnded,
    StageStarted,
    WorkersReady,
)
from daskt2i.executors.serial import SerialExecutor
from daskt2i.plan import GIB, WorkerLayout
from daskt2i.protocols import ExecutorInfo
from daskt2i.session.schedulers import Scheduler, open_executor
from daskt2i.session.worker_layout import encode_layout
from daskt2i.store.publishing.lock import hold
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.status import status
from daskt2i.types import Staged


def workflow(tmp_path: Path, dataset: dict[str, Any] | None = None, run: dict[str, Any] | None = None) -> Workflow:
    """A workflow with fake components: 40 rows in 10 chunks."""
    settings: dict[str, Any] = {
        "name": "fake",
        "dataset": {
            "source": {"class": "daskt2i.sources.fake.FakeSource", "rows": 40, "captions": 2},
            "image": {"resolution": 32},
            "encoders": {
                "image": {"class": "daskt2i.encoders.fake.FakeImageEncoder"},
                "text": {"class": "daskt2i.encoders.fake.FakeTextEncoder"},
            },
            "precision": "fp32",
            "rows_per_chunk": 4,
            **(dataset or {}),
        },
        "run": {"device": "cpu", "retries": 0, **(run or {})},
    }
    tmp_path.mkdir(exist_ok=True, parents=True)
    path = tmp_path / "fake.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    return load_workflow(str(path))


def run(
    settings: Workflow, out: Path | str, scheduler: str = "serial", listener: Callable[[Event], None] = lambda e: None
) -> EncodeResult:
    prepared = prepare(settings, out)
    chosen = Scheduler.parse(scheduler)
    return encode(prepared, open_executor(chosen, encode_layout(chosen, prepared)), listener)


@pytest.fixture(autouse=True)
def _no_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries wait for no time, because a test's disk does not need time to recover."""
    monkeypatch.setattr("daskt2i.retries.RETRY_SECONDS", 0.01)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run. Tests copy it."""
    folder = tmp_path_factory.mktemp("finished")
    run(workflow(folder), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def calm(finished: Path) -> dict[str, Any]:
    """The arrays of the undisturbed run."""
    return arrays(finished)


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A finished run of `workflow`, which a test may change."""
    return shutil.copytree(finished, tmp_path / "out")


@pytest.mark.parametrize(
    "scheduler", ["multiprocessing:2", pytest.param("joblib:2", marks=pytest.mark.slow), "local:2"]
)
def test_every_executor_gives_the_same_store(scheduler: str, calm: dict[str, Any], tmp_path: Path) -> None:
    summary = run(workflow(tmp_path), tmp_path / "out", scheduler)
    assert (summary.accepted, summary.done, summary.workers) == (40, 10, 2)
    assert_same(arrays(tmp_path / "out"), calm)
    loads = [r.loads for r in Receipts(RunFolder(tmp_path / "out")).read()]
    assert set(map(str, loads)) == {"{'image': 1, 'text': 1}"}


class Replaced(SerialExecutor):
    """Two workers. After the first chunks others take their places."""

    def start(self) -> ExecutorInfo:
        return ExecutorInfo(2, 1, None)

    def run(self, work: Any, items: Any, alone: bool = False) -> Any:
        for number, (item, outcome) in enumerate(super().run(work, items, alone)):
            if isinstance(outcome, Staged):
                outcome = replace(outcome, receipt=replace(outcome.receipt, worker=f"host:{self.pid(number)}"))
            yield item, outcome

    def pid(self, number: int) -> int:
        return min(number, 3)


class Lasting(Replaced):
    """The two of the start encode all chunks."""

    def pid(self, number: int) -> int:
        return number % 2


def test_the_speed_names_the_workers_of_the_start_and_how_many_encoded_if_some_were_replaced(tmp_path: Path) -> None:
    speeds = []
    for executor in (Replaced(), Lasting()):
        out = tmp_path / type(executor).__name__
        speeds.append(dict(encode(prepare(workflow(tmp_path), out), executor).view().rows)["speed"])
    assert "; 2 workers x 1 thread at the start, 4 processes encoded chunks, fp32)" in speeds[0]
    assert "; 2 workers x 1 thread, fp32)" in speeds[1]


def test_rows_end_in_exactly_one_counted_bucket(tmp_path: Path) -> None:
    source = {
        "class": "daskt2i.sources.fake.FakeSource",
        "rows": 40,
        "missing": [0, 7],
        "unreadable": [8],
        "uncaptioned": [39],
    }
    summary = run(workflow(tmp_path, {"source": source}), tmp_path / "out")
    assert summary.accepted == 36
    assert summary.rejected == Counter({"missing-file": 2, "unreadable-image": 1, "no-caption": 1})
    table = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert [line["row"] for line in table] == list(range(40))
    assert Counter(line["reason"] for line in table if line["status"] == "rejected") == summary.rejected
    valid = arrays(tmp_path / "out")["valid"]
    assert [line["status"] == "accepted" for line in table] == valid.tolist()


def test_the_store_opens_in_xarray_with_names_and_attributes(out: Path) -> None:
    dataset = daskt2i.open_store(out)
    assert dataset.latent_mean.dims == ("row", "channel", "y", "x")
    assert dataset.text_states.dims == ("row", "slot", "token", "feature")
    assert dataset.sizes["row"] == 40
    assert dataset.caption.values[3, 0]
    assert dataset.attrs["daskt2i"]["random_weights"] is False
    assert dataset.empty_text_states.dims == ("token", "feature")
    assert np.isfinite(dataset.empty_text_states.values).all()
    assert dataset.empty_text_mask.values.any()


def test_the_same_command_again_encodes_nothing(tmp_path: Path) -> None:
    settings = workflow(tmp_path)
    run(settings, tmp_path / "out")
    again = run(settings, tmp_path / "out")
    assert (again.done, again.skipped, again.accepted, again.rows_now) == (0, 10, 40, 0)


def test_a_deleted_receipt_costs_only_that_chunk(calm: dict[str, Any], tmp_path: Path, out: Path) -> None:
    settings = workflow(tmp_path)
    Receipts(RunFolder(out)).delete(6)
    again = run(settings, out)
    assert (again.done, again.skipped) == (1, 9)
    assert_same(arrays(out), calm)


def test_verify_names_the_chunk_of_a_flipped_byte_and_encode_repairs_only_that_chunk(
    calm: dict[str, Any], tmp_path: Path, out: Path
) -> None:
    settings = workflow(tmp_path)
    receipt = list(Receipts(RunFolder(out)).read())[4]
    shard = out / "latents.zarr" / max(receipt.shards, key=lambda s: s.size).key
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    verdict = verify(RunFolder(out), settings_of(RunFolder(out)))
    assert verdict.to_json() == {"ok": False, "rows": 40, "chunks": 10, "bad": [4], "unfinished": []}
    assert "has changed" in verdict.problems[4]
    told: list[Event] = []
    again = run(settings, out, listener=told.append)
    assert (again.done, again.skipped) == (1, 9)
    assert any(isinstance(e, Note) and "Chunk 4 is encoded again" in e.text for e in told)
    assert_same(arrays(out), calm)
    assert verify(RunFolder(out), settings_of(RunFolder(out))).ok


def test_verify_decodes_a_sample_back_and_counts_rows(out: Path) -> None:
    verdict = verify(RunFolder(out), settings_of(RunFolder(out)))
    assert verdict.ok
    assert len(verdict.psnr) == 8
    assert min(verdict.psnr) > 30


def test_verify_names_unfinished_chunks(out: Path) -> None:
    Receipts(RunFolder(out)).delete(2)
    found = verify(RunFolder(out))
    assert (found.ok, found.damaged, found.unfinished) == (False, False, (2,))
    assert found.to_json()["bad"] == found.to_json()["unfinished"] == [2]


def test_verify_notices_a_changed_empty_prompt(out: Path) -> None:
    group = zarr.open_group(out / "latents.zarr", mode="r+")
    group["empty_text_states"][0, 0] = 3.0
    assert not verify(RunFolder(out)).ok


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image": {"resolution": 64}}, "dataset.image.resolution: 32 there, 64 now"),
        ({"rows_per_chunk": 8}, "dataset.rows_per_chunk: 4 there, 8 now"),
        ({"precision": "bf16"}, "dataset.precision: fp32 there, bf16 now"),
        (
            {"source": {"class": "daskt2i.sources.fake.FakeSource", "rows": 41, "captions": 2}},
            "dataset.source.rows: 40 there, 41 now",
        ),
    ],
)
def test_a_changed_setting_is_refused_and_the_error_names_the_difference(
    change: dict[str, Any], named: str, tmp_path: Path, out: Path
) -> None:
    before = arrays(out)
    with pytest.raises(FingerprintMismatch) as caught:
        run(workflow(tmp_path, change), out)
    assert named in str(caught.value)
    assert ("rows that are new, run append" in str(caught.value)) is ("source" in change)
    assert_same(arrays(out), before)


def test_settings_that_do_not_change_arrays_may_change_on_resume(
    calm: dict[str, Any], tmp_path: Path, out: Path
) -> None:
    for chunk in range(0, 10, 2):
        Receipts(RunFolder(out)).delete(chunk)
    again = run(workflow(tmp_path, run={"batch": 1, "reader_threads": 5, "retries": 3}), out, "multiprocessing:2")
    assert (again.done, again.skipped) == (5, 5)
    assert_same(arrays(out), calm)


def test_auto_precision_is_resolved_once_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = workflow(tmp_path, {"precision": "auto"})
    resolved = run(settings, out).precision
    assert resolved in ("fp32", "bf16")
    assert prepare(settings, out).precision == resolved
    other = "bf16" if resolved == "fp32" else "fp32"
    with pytest.raises(FingerprintMismatch, match="precision"):
        run(workflow(tmp_path, {"precision": other}), out)


def coco(folder: Path, rows: int = 6) -> dict[str, Any]:
    """A COCO folder with the fake source's pictures."""
    from daskt2i.sources.fake import FakeSource

    source = FakeSource(rows)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    listed, captions = [], []
    for row in source.rows(0, rows):
        (folder / "images" / f"{row.index}.png").write_bytes(source.read(row))
        listed.append({"id": row.index, "file_name": f"{row.index}.png"})
        captions += [{"id": len(captions), "image_id": row.index, "caption": c} for c in row.captions]
    (folder / "captions.json").write_text(json.dumps({"images": listed, "annotations": captions}))
    place = {"images": str(folder / "images"), "captions": str(folder / "captions.json")}
    return {"source": {"class": "daskt2i.sources.coco.CocoSource", **place}}


def test_an_edited_caption_file_is_noticed(tmp_path: Path) -> None:
    dataset = coco(tmp_path / "coco")
    run(workflow(tmp_path, dataset), tmp_path / "out")
    path = tmp_path / "coco" / "captions.json"
    path.write_text(path.read_text().replace('"caption": "', '"caption": "Now ', 1))
    with pytest.raises(FingerprintMismatch, match="captions"):
        run(workflow(tmp_path, dataset), tmp_path / "out")


def test_a_moved_data_set_is_the_same_data_set(tmp_path: Path) -> None:
    run(workflow(tmp_path, coco(tmp_path / "coco")), tmp_path / "out")
    shutil.move(tmp_path / "coco", tmp_path / "elsewhere")
    moved = coco(tmp_path / "elsewhere")
    assert run(workflow(tmp_path, moved), tmp_path / "out").skipped == 2


def test_a_second_encode_is_refused_and_the_error_names_the_holder_of_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with hold(RunFolder(out), "encode"), pytest.raises(StoreBusy, match=r"encode \(pid \d+ on "):
        run(workflow(tmp_path), out)
    assert run(workflow(tmp_path), out).done == 10


@pytest.mark.parametrize("scheduler", ["serial", pytest.param("local:2", marks=pytest.mark.slow)])
def test_a_wrong_pixel_range_stops_the_run_in_its_first_chunk(scheduler: str, tmp_path: Path) -> None:
    encoders = {
        "image": {"class": "daskt2i.encoders.fake.FakeImageEncoder", "pixel_range": "unit"},
        "text": {"class": "daskt2i.encoders.fake.FakeTextEncoder"},
    }
    with pytest.raises(GateError, match=r"\d+\.\d dB PSNR"):
        run(workflow(tmp_path, {"encoders": encoders}), tmp_path / "out", scheduler)
    assert list(Receipts(RunFolder(tmp_path / "out")).read()) == []


def test_running_out_of_memory_only_gives_a_warning(tmp_path: Path, calm: dict[str, Any]) -> None:
    encoders = {
        "image": {"class": "daskt2i.encoders.fake.FakeImageEncoder", "memory_limit_batch": 2},
        "text": {"class": "daskt2i.encoders.fake.FakeTextEncoder"},
    }
    told: list[Event] = []
    settings = workflow(tmp_path, {"encoders": encoders, "rows_per_chunk": 16}, {"batch": 16})
    assert run(settings, tmp_path / "out", listener=told.append).accepted == 40
    notes = [e.text for e in told if isinstance(e, Note)]
    assert any("memory ran out at 16" in n and "continues with 8" in n for n in notes)
    np.testing.assert_array_equal(arrays(tmp_path / "out")["latent_mean"], calm["latent_mean"])


class Flaky:
    """A `FakeSource` whose disk fails the first `times` times that one row is read."""

    def __new__(cls, marks: str, row: int, times: int, rows: int = 40) -> Any:
        from daskt2i.sources.fake import FakeSource

        class Inner(FakeSource):
            def read(self, wanted: Any) -> bytes:
                if wanted.index == row:
                    count = len(list(Path(marks).iterdir()))
                    if count < times:
                        (Path(marks) / str(count)).touch()
                        raise OSError("the disk is tired")
                return super().read(wanted)

        return Inner(rows)


def flaky(tmp_path: Path, row: int, times: int) -> dict[str, Any]:
    (tmp_path / "marks").mkdir()
    where = {"marks": str(tmp_path / "marks"), "row": row, "times": times}
    return {"source": {"class": "encode.test_driver.Flaky", **where}}


def test_a_failed_chunk_is_retried_after_the_others(tmp_path: Path) -> None:
    told: list[Event] = []
    settings = workflow(tmp_path, flaky(tmp_path, row=9, times=1), {"retries": 1})
    summary = run(settings, tmp_path / "out", listener=told.append)
    assert summary.failed == {}
    assert summary.accepted == 40
    order = [e.receipt.chunk for e in told if isinstance(e, ChunkDone)]
    assert order == [0, 1, 3, 4, 5, 6, 7, 8, 9, 2]
    assert [(e.chunk, e.final) for e in told if isinstance(e, ChunkFailed)] == [(2, False)]


def test_a_chunk_that_fails_on_every_try_is_named_and_the_rest_is_finished(tmp_path: Path) -> None:
    summary = run(workflow(tmp_path, flaky(tmp_path, row=9, times=99), {"retries": 1}), tmp_path / "out")
    assert list(summary.failed) == [2]
    assert summary.tries == 2
    assert summary.accepted == 36
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    assert "the disk is tired" in (tmp_path / "out" / "errors" / "chunk-0000002.log").read_text()
    found = status(RunFolder(tmp_path / "out"))
    assert found.to_json()["chunks"] == {"done": 9, "open": 1}
    assert found.to_json()["complete"] is False


class StoppedAtTheStart(SerialExecutor):
    """Ctrl-C while the workers start."""

    def start(self) -> ExecutorInfo:
        raise KeyboardInterrupt


def test_a_run_that_is_stopped_before_its_store_exists_keeps_its_settings(tmp_path: Path) -> None:
    prepared = prepare(workflow(tmp_path), tmp_path / "out")
    with pytest.raises(Interrupted, match="0 of 10 chunks are finished"):
        encode(prepared, StoppedAtTheStart())
    again = daskt2i.Run(out=tmp_path / "out", scheduler="serial", progress=False)
    assert again.workflow.dataset == prepared.workflow.dataset


class Broken:
    """A source that can list its rows, but cannot read them."""

    def __new__(cls) -> Any:
        from daskt2i.sources.fake import FakeSource

        class Inner(FakeSource):
            def read(self, row: Any) -> bytes:
                raise OSError("no route to host")

        return Inner(40)


def test_a_run_in_which_every_chunk_fails_stops_early(tmp_path: Path) -> None:
    told: list[Event] = []
    with pytest.raises(ExecutorError, match="no route to host"):
        run(
            workflow(tmp_path, {"source": {"class": "encode.test_driver.Broken"}}),
            tmp_path / "out",
            listener=told.append,
        )
    assert len([e for e in told if isinstance(e, ChunkFailed)]) == 4


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no images"):
        prepare(workflow(tmp_path, coco(tmp_path / "coco", rows=0)), tmp_path / "out")


def test_a_worker_that_needs_more_memory_than_its_pause_threshold_is_refused(tmp_path: Path) -> None:
    load_defaults()
    prepared = prepare(workflow(tmp_path), tmp_path / "out")
    tiny = WorkerLayout(1, 1, prepared.requirements.worker_memory, "too small")
    with pytest.raises(PlanError, match="Dask pauses"):
        encode(prepared, open_executor(Scheduler.parse("local:1"), tiny))
    assert not (tmp_path / "out" / "latents.zarr").exists()


def test_a_store_that_cannot_fit_on_the_disk_is_refused_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunFolder, "free_bytes", lambda self: 1000)
    prepared = prepare(workflow(tmp_path), tmp_path / "out")
    with pytest.raises(PlanError, match="Nothing was started"):
        encode(prepared, open_executor(Scheduler.parse("serial"), WorkerLayout(1, 1, GIB, "")))


def test_opening_a_missing_store_raises_store_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing):
        daskt2i.open_store(tmp_path / "nothing")


def test_a_listener_gets_the_stage_then_the_workers_and_the_end_last(tmp_path: Path) -> None:
    told: list[Event] = []
    run(workflow(tmp_path), tmp_path / "out", listener=told.append)
    assert told[0] == StageStarted("encode", 40)
    assert isinstance(told[1], ChunksFound)
    assert isinstance(told[2], WorkersReady)
    assert sum(isinstance(e, ChunkSent) for e in told) == 10
    assert told[-1] == StageEnded("encode")
    assert sum(isinstance(e, ChunkDone) for e in told) == 10


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoreFull("No space is left.")])
def test_the_end_of_a_stage_tells_what_ended_it(tmp_path: Path, error: BaseException) -> None:
    told: list[Event] = []

    def listen(event: Event) -> None:
        told.append(event)
        if isinstance(event, WorkersReady):
            raise error

    with pytest.raises((Interrupted, StoreFull)) as raised:
        run(workflow(tmp_path), tmp_path / "out", listener=listen)
    assert told[-1] == StageEnded("encode", raised.value)


def test_without_any_image_the_chunks_fail_and_no_row_is_rejected(tmp_path: Path) -> None:
    dataset = coco(tmp_path / "coco", rows=8)
    images = tmp_path / "coco" / "images"
    images.rename(tmp_path / "away")
    images.mkdir()
    (images / "lost+found").mkdir()
    summary = run(workflow(tmp_path, dataset), tmp_path / "out")
    assert (summary.accepted, summary.rejected, list(summary.failed)) == (0, {}, [0, 1])
    (images / "lost+found").rmdir()
    images.rmdir()
    (tmp_path / "away").rename(images)
    assert run(workflow(tmp_path, dataset), tmp_path / "out").accepted == 8


@pytest.mark.parametrize(("rows", "says"), [(20, "3 of up to 8 rows"), (16, "2 of 8 rows"), (5, "1 of 5 rows")])
def test_a_plan_says_how_long_chunks_are_and_that_the_last_one_may_be_shorter(
    tmp_path: Path, rows: int, says: str
) -> None:
    assert dict(prepare(fake_settings(rows=rows, rows_per_chunk=8), tmp_path).view().rows)["chunks"] == says


def test_really_missing_images_can_be_rejected_and_retried_later(tmp_path: Path) -> None:
    dataset = coco(tmp_path / "coco", rows=8)
    (tmp_path / "coco" / "images").rename(tmp_path / "away")
    (tmp_path / "coco" / "images" / "others").mkdir(parents=True)
    summary = run(workflow(tmp_path, dataset, {"on_missing_chunk": "reject"}), tmp_path / "out")
    assert summary.rejected == Counter({"missing-file": 8})
    (tmp_path / "coco" / "images" / "others").rmdir()
    (tmp_path / "coco" / "images").rmdir()
    (tmp_path / "away").rename(tmp_path / "coco" / "images")
    again = run(workflow(tmp_path, dataset, {"retry_rejected": ["missing-file"]}), tmp_path / "out")
    assert (again.accepted, again.done) == (8, 2)


def test_other_pictures_with_the_same_names_are_noticed(tmp_path: Path) -> None:
    from daskt2i.sources.fake import bitmap

    dataset = coco(tmp_path / "coco", rows=8)
    run(workflow(tmp_path, dataset), tmp_path / "out")
    for path in (tmp_path / "coco" / "images").iterdir():
        path.write_bytes(bitmap(40, 40, (1, 2, 3)))
    with pytest.raises(FingerprintMismatch, match="images of 2 chunks"):
        run(workflow(tmp_path, dataset), tmp_path / "out")


def test_a_plan_made_before_another_run_finished_skips_the_chunks_of_that_run(tmp_path: Path) -> None:
    prepared = prepare(workflow(tmp_path), tmp_path / "out")
    for expected in ((10, 0), (0, 10)):
        chosen = Scheduler.parse("serial")
        summary = encode(prepared, open_executor(chosen, encode_layout(chosen, prepared)))
        assert (summary.done, summary.skipped) == expected


def test_a_damaged_empty_prompt_is_written_again(tmp_path: Path, calm: dict[str, Any], out: Path) -> None:
    zarr.open_group(out / "latents.zarr", mode="r+")["empty_text_states"][0, 0] = 3.0
    assert run(workflow(tmp_path), out).done == 0
    assert verify(RunFolder(out)).ok
    assert_same(arrays(out), calm)


def test_a_run_folder_from_somebody_else_does_not_run_code(tmp_path: Path, out: Path) -> None:
    path = out / "workflow.yaml"
    mark = tmp_path / "ran"
    path.write_text(
        path.read_text().replace(
            "class: daskt2i.sources.fake.FakeSource", f"class: subprocess.Popen\n    args: [touch, {mark}]"
        )
    )
    verdict = verify(RunFolder(out), settings_of(RunFolder(out)))
    assert verdict.ok
    assert any("verify runs no class" in note for note in verdict.notes)
    assert not mark.exists()
