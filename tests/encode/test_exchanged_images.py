"""Images that are others than before, under the same names: what a resumed run and `verify` say about them."""

from __future__ import annotations

import json
import os
import shutil
import threading
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from builders.coco import settings, write_coco
from builders.runs import tiny_workflow
from builders.workflows import component, fake_settings, finish, with_parts

from daskt2i.config.component import Component
from daskt2i.config.settings import Workflow
from daskt2i.encode.chunks.stamps import Stamps, names, new_rows, other_rows
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.encode.resume import told_again
from daskt2i.encode.verify import verify
from daskt2i.errors import FingerprintMismatch, ReadStalled, Reason
from daskt2i.events import Note
from daskt2i.executors.serial import SerialExecutor
from daskt2i.facts.selection import open_source
from daskt2i.sources.coco import CocoSource
from daskt2i.sources.fake import FakeSource, bitmap
from daskt2i.store.layout import empty_prompt
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import LAYOUT, ZarrStore

OTHER = bitmap(48, 40, (1, 2, 3))
CAPTIONS = [[f"picture {n}"] for n in range(12)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of twelve images, and a run folder of three chunks. Copies of it are as good as new ones."""
    folder = write_coco(tmp_path_factory.mktemp("whole"), CAPTIONS, missing=[2])
    finish(settings(folder, None), folder / "run")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


def with_run(folder: Path, **run: Any) -> Workflow:
    workflow = settings(folder, None)
    return workflow.model_copy(update={"run": workflow.run.model_copy(update=run)})


def exchange(folder: Path, *rows: int, keep_times: bool = False) -> None:
    for row in rows:
        path = folder / "images" / f"{row:03d}.bmp"
        about = path.stat()
        path.write_bytes(OTHER)
        if keep_times:
            os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_exchanged_images_of_any_chunk_are_refused_by_name(folder: Path) -> None:
    exchange(folder, 5, 9)
    before = ZarrStore(RunFolder(folder / "run")).read("latent_mean", 0, 12)
    with pytest.raises(
        FingerprintMismatch, match=r"2 chunks, the first of them 1, .* made from: 005\.bmp, 009\.bmp\. "
    ):
        finish(with_run(folder), folder / "run")
    np.testing.assert_array_equal(ZarrStore(RunFolder(folder / "run")).read("latent_mean", 0, 12), before)
    found = verify(RunFolder(folder / "run"), with_run(folder), trusted=True)
    assert (found.ok, found.exchanged, sorted(found.problems)) == (False, (1, 2), [1, 2])
    assert "005.bmp" in found.problems[1]


def test_files_whose_times_were_set_back_are_found_too(folder: Path) -> None:
    finish(with_run(folder), folder / "run")  # the copies have times of their own, which the receipts now hold
    exchange(folder, 6, keep_times=True)
    with pytest.raises(FingerprintMismatch, match=r"006\.bmp"):
        finish(with_run(folder), folder / "run")


def test_exchanged_images_are_encoded_again_on_demand(folder: Path) -> None:
    exchange(folder, 5, 9)
    result = finish(with_run(folder, on_changed_images="encode"), folder / "run")
    assert (result.done, result.skipped, result.accepted) == (2, 1, 11)
    assert verify(RunFolder(folder / "run"), with_run(folder), trusted=True).ok
    fresh = finish(with_run(folder), folder / "fresh")
    assert fresh.accepted == 11
    for name in ("latent_mean", "valid", "file_name"):
        one, other = (ZarrStore(RunFolder(folder / run)).read(name, 0, 12) for run in ("run", "fresh"))
        np.testing.assert_array_equal(one, other)


def test_many_chunks_that_are_encoded_again_are_told_in_one_line_for_each_reason() -> None:
    def again(*found: tuple[int, str]) -> list[str]:
        return told_again(found)

    assert again((4, "its images are others now (a.jpg)")) == [
        "Chunk 4 is encoded again: its images are others now (a.jpg)."
    ]
    many = [(n, f"its images are others now ({n} (1).jpg)") for n in range(26)]
    shards = [(n, f"latents/c/{n} is missing") for n in range(30, 32)]
    first, *others = again(*many, *shards)
    assert first.startswith("26 chunks are encoded again. The first of them: chunk 0: its images are others now (0 (1)")
    assert others == [f"Chunk {n} is encoded again: {problem}." for n, problem in shards]


def test_a_touched_folder_is_read_once_and_then_known(folder: Path) -> None:
    before = list(Receipts(RunFolder(folder / "run")).read())
    assert finish(with_run(folder), folder / "run").skipped == 3
    after = list(Receipts(RunFolder(folder / "run")).read())
    assert [r.stamps != old.stamps for r, old in zip(after, before, strict=True)] == [True] * 3
    assert [(r.inputs, r.shards) for r in after] == [(r.inputs, r.shards) for r in before]
    assert verify(RunFolder(folder / "run"), with_run(folder), trusted=True).ok
    finish(with_run(folder), folder / "run")
    assert list(Receipts(RunFolder(folder / "run")).read()) == after


def test_images_that_are_gone_or_new_are_no_exchanged_images(folder: Path) -> None:
    shutil.copy(folder / "images" / "001.bmp", folder / "images" / "002.bmp")
    (folder / "images" / "009.bmp").unlink()
    with pytest.raises(FingerprintMismatch, match=r"002\.bmp.*run\.retry_rejected=\[missing-file\]"):
        finish(with_run(folder), folder / "run")  # chunk 0 is read in any case
    result = finish(with_run(folder, retry_rejected=[Reason.MISSING_FILE]), folder / "run")
    assert (result.done, result.skipped, result.accepted) == (1, 2, 12)


def test_a_store_without_stamps_is_compared_by_content_on_demand(folder: Path) -> None:
    run = RunFolder(folder / "run")
    for receipt in list(Receipts(run).read()):
        path = folder / "run" / "receipts" / f"chunk-{receipt.chunk:07d}.json"
        kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("stamps", "contents")}
        path.write_text(json.dumps(kept))
    assert [r.stamps for r in Receipts(run).read()] == ["", "", ""], "receipts of an older version"
    exchange(folder, 9)
    assert finish(with_run(folder), folder / "run").skipped == 3
    assert finish(with_run(folder, on_changed_images="encode"), folder / "run").done == 1


# Where stamps come from


def stamps_at(images: str, folder: Path) -> str:
    source = CocoSource(images, str(folder / "captions.json"))
    return Stamps(source).of(source.rows(0, 12))


def exchanged(before: str, now: str, folder: Path) -> list[int]:
    rows = CocoSource(str(folder / "images"), str(folder / "captions.json")).rows(0, 12)
    return [row.index for row in other_rows(before, now, rows)]


def pack(folder: Path) -> str:
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for path in sorted((folder / "images").iterdir()):
            archive.write(path, f"deep/{path.name}")
    return str(folder / "images.zip")


def test_an_archive_tells_by_its_checksums(folder: Path) -> None:
    before = stamps_at(pack(folder), folder)
    for path in (folder / "images").iterdir():
        os.utime(path)
    assert stamps_at(pack(folder), folder) == before, "times do not matter"
    exchange(folder, 4)
    assert exchanged(before, stamps_at(pack(folder), folder), folder) == [4]


def test_an_object_store_tells_by_one_listing(folder: Path) -> None:
    files = fsspec.filesystem("memory")
    files.put(f"{folder}/images/", "/stamps/", recursive=True)
    before = stamps_at("memory://stamps", folder)
    assert stamps_at("memory://stamps", folder) == before
    files.pipe_file("/stamps/004.bmp", OTHER)
    files.rm_file("/stamps/005.bmp")
    assert exchanged(before, stamps_at("memory://stamps", folder), folder) == [4]
    files.rm("/stamps", recursive=True)


def test_a_selection_of_rows_has_the_stamps_of_its_images(folder: Path) -> None:
    whole = stamps_at(str(folder / "images"), folder)
    source = open_source(settings(folder, "captions == 1 and not people").dataset)
    rows = source.rows(0, 12)
    assert Stamps(source).of(rows) == "".join(whole[8 * row.origin : 8 * row.origin + 8] for row in rows)  # type: ignore[operator]


def test_a_source_that_cannot_tell_has_no_stamps(folder: Path) -> None:
    source = FakeSource()
    assert Stamps(source).of(source.rows(0, 8)) == ""
    web = CocoSource("http://127.0.0.1:1/images", str(folder / "captions.json"))
    assert Stamps(web).of(web.rows(0, 8)) == ""


class Broken(FakeSource):
    def stamps(self, rows: Any) -> Any:
        raise RuntimeError("of this test")


class Slow(FakeSource):
    """Lists its files for a long time when it is asked first, as a bucket with a million objects."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = threading.Event()

    def stamps(self, rows: Any) -> Any:
        self.listed.wait(60)
        return [row.file_name for row in rows]


def test_stamps_that_take_too_long_are_left_out_until_they_are_there() -> None:
    source = Slow()
    stamps, rows = Stamps(source, seconds=0.05), source.rows(0, 2)
    assert stamps.of(rows) == ""
    assert stamps.of(rows) == "", "it is not asked again while it lists"
    source.listed.set()
    stamps._late.wait(60)  # type: ignore[union-attr]
    assert len(Stamps(source).of(rows)) == len(stamps.of(rows)) == 16


class Passing(FakeSource):
    """Fails the first time."""

    asked = 0

    def stamps(self, rows: Any) -> Any:
        self.asked += 1
        return None if self.asked == 1 else [row.file_name for row in rows]


def test_one_failure_does_not_end_the_stamps_of_a_run() -> None:
    source = Passing()
    stamps, rows = Stamps(source), source.rows(0, 2)
    assert [len(stamps.of(rows)) for _ in range(3)] == [0, 16, 16]


def test_a_resume_and_verify_say_that_files_cannot_be_compared(folder: Path) -> None:
    workflow = with_parts(
        settings(folder, None),
        source=component(f"{__name__}.Dumb", images=str(folder / "images"), captions=str(folder / "captions.json")),
    )
    finish(workflow, folder / "other")
    notes: list[Any] = []
    Dumb.knows = False
    try:
        encode(prepare(workflow, folder / "other"), SerialExecutor(), notes.append)
        found = verify(RunFolder(folder / "other"), workflow, trusted=True)
    finally:
        Dumb.knows = True
    told = "Sizes and times of the images of 3 finished chunks cannot be read now"
    assert [note.text.startswith(told) for note in notes if isinstance(note, Note)] == [True]
    assert "Sizes and times of the images of 3 chunks cannot be read now." in found.notes


class Dumb(CocoSource):
    """Knows sizes and times until a test says otherwise."""

    knows = True

    def stamps(self, rows: Any) -> Any:
        return super().stamps(rows) if self.knows else None


class Hanging(CocoSource):
    """Its images are on a mount whose server is gone, when a test says so."""

    gone, back = False, threading.Event()

    def read(self, row: Any) -> bytes:
        if self.gone:
            self.back.wait(60)
        return super().read(row)


def test_a_resume_whose_images_cannot_be_read_ends_in_time(folder: Path) -> None:
    source = component(f"{__name__}.Hanging", images=str(folder / "images"), captions=str(folder / "captions.json"))
    workflow = with_parts(with_run(folder, read_timeout=0.2), source=source)
    finish(workflow, folder / "other")
    Hanging.gone = True
    try:
        with pytest.raises(ReadStalled, match=r"000\.bmp did not return"):
            finish(workflow, folder / "other")
    finally:
        Hanging.gone = False
        Hanging.back.set()
    assert finish(workflow, folder / "other").skipped == 3


def test_a_source_whose_stamps_fail_is_encoded_all_the_same(tmp_path: Path) -> None:
    workflow = with_parts(
        settings(write_coco(tmp_path), None), source=Component.model_validate({"class": f"{__name__}.Broken"})
    )
    assert finish(workflow, tmp_path / "run").accepted == 8


def test_a_message_names_some_files_and_counts_the_others(folder: Path) -> None:
    rows = CocoSource(str(folder / "images"), str(folder / "captions.json")).rows(0, 12)
    assert names(rows[:2]) == "000.bmp, 001.bmp"
    assert names(rows) == "000.bmp, 001.bmp, 002.bmp, 003.bmp, 004.bmp and 7 more"


def test_stamps_of_another_length_tell_nothing() -> None:
    rows = FakeSource().rows(0, 2)
    assert other_rows("", "1" * 16, rows) == new_rows("0" * 8, "1" * 16, rows) == []
    assert new_rows("0" * 16, "0" * 8 + "1" * 8, rows) == [rows[1]]


def test_an_empty_prompt_of_an_older_store_that_is_not_finite_is_found_and_mended(tmp_path: Path) -> None:
    finish(fake_settings(), tmp_path)
    store = ZarrStore(RunFolder(tmp_path))
    text = prepare(fake_settings(), tmp_path).text_info
    made = {name.removeprefix("empty_"): values for name, values in store.constants().items()}
    made["text_states"] = np.full_like(made["text_states"], np.nan)
    layout = store.layout()
    layout["constants"] = store._write_constants(empty_prompt(text, made))
    rewrite(tmp_path, layout)
    found = verify(RunFolder(tmp_path))
    assert (found.ok, found.shared) == (False, "empty_text_states (the empty prompt) has NaN or infinity")
    assert finish(fake_settings(), tmp_path).skipped == 3
    assert verify(RunFolder(tmp_path)).ok


def rewrite(out: Path, layout: Any) -> None:
    path = out / "latents.zarr" / "zarr.json"
    node = json.loads(path.read_text())
    node["attributes"][LAYOUT] = layout
    path.write_text(json.dumps(node))


def test_verify_says_that_a_store_has_no_pictures(tmp_path: Path) -> None:
    workflow = with_parts(
        fake_settings(rows_per_chunk=3),
        source=component("daskt2i.sources.fake.FakeSource", rows=6, missing=[*range(6)]),
    )
    finish(workflow, tmp_path)
    found = verify(RunFolder(tmp_path))
    assert found.notes[0] == "Not one of 6 rows was accepted, so the store has no pictures."


def test_verify_finds_the_drawn_pictures_of_a_run_also_by_the_workflow_that_drew_them(demo_run: Path) -> None:
    found = verify(RunFolder(demo_run), tiny_workflow(), trusted=True)
    assert found.ok
    assert found.notes == ()
    assert found.psnr
