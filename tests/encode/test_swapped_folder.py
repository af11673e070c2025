"""A folder of images that is exchanged while it is read, and exchanged back: no latents of the other pictures stay."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.coco import settings, write_coco
from builders.workflows import component, finish, with_parts

from daskt2i.config.settings import Workflow
from daskt2i.encode.verify import verify
from daskt2i.errors import FingerprintMismatch
from daskt2i.sources.coco import CocoSource
from daskt2i.sources.fake import bitmap
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import FileBytes, Row


@pytest.fixture(autouse=True)
def _no_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskt2i.retries.RETRY_SECONDS", 0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight pictures in `images`, and eight others with the same names in `other`."""
    write_coco(tmp_path, [["a picture"]] * 8)
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "images").iterdir():
        (tmp_path / "other" / path.name).write_bytes(bitmap(48, 40, (1, 2, 3)))
    return tmp_path


def swap(images: Path) -> None:
    """Put the other folder in the place of the images, or back."""
    other, away = images.parent / "other", images.parent / "away"
    images.rename(away)
    other.rename(images)
    away.rename(other)


class Swapping(CocoSource):
    """A source whose folder somebody exchanges before some rows are read, and exchanges back after them."""

    rows_of_others: frozenset[int] = frozenset()
    times = 1

    def read(self, row: Row) -> bytes:
        if row.index not in self.rows_of_others or Swapping.times < 1:
            return super().read(row)
        if row.index == max(self.rows_of_others):
            Swapping.times -= 1
        swap(Path(self.images))
        try:
            return super().read(row)
        finally:
            swap(Path(self.images))


def workflow(folder: Path, name: str = "Swapping", **run: Any) -> Workflow:
    paths = {"images": str(folder / "images"), "captions": str(folder / "captions.json")}
    made = with_parts(settings(folder, None), source=component(f"{__name__}.{name}", **paths))
    chunks = made.dataset.model_copy(update={"rows_per_chunk": 4})
    alone = made.run.model_copy(update={"reader_threads": 1, **run})  # one thread: the folder changes for one read
    return made.model_copy(update={"dataset": chunks, "run": alone})


def latents(out: Path) -> Any:
    return ZarrStore(RunFolder(out)).read("latent_mean", 0, 8)


def calm(folder: Path) -> Any:
    finish(workflow(folder), folder / "calm")
    return latents(folder / "calm")


def test_pictures_of_a_folder_that_was_there_for_a_moment_are_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = calm(folder)
    monkeypatch.setattr(Swapping, "rows_of_others", frozenset({5, 6}))
    monkeypatch.setattr(Swapping, "times", 1)
    result = finish(workflow(folder), folder / "out")
    assert (result.accepted, result.failed) == (8, {})
    np.testing.assert_array_equal(latents(folder / "out"), expected)
    assert verify(RunFolder(folder / "out"), workflow(folder), trusted=True).ok


def test_a_chunk_whose_images_change_at_each_try_fails_and_names_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = calm(folder)
    monkeypatch.setattr(Swapping, "rows_of_others", frozenset({5, 6}))
    monkeypatch.setattr(Swapping, "times", 99)
    result = finish(workflow(folder), folder / "out")
    assert sorted(result.failed) == [1]
    assert "became others while they were encoded: 005.bmp, 006.bmp. Nothing of it was stored" in result.failed[1]
    monkeypatch.setattr(Swapping, "times", 0)
    assert finish(workflow(folder), folder / "out").accepted == 8
    np.testing.assert_array_equal(latents(folder / "out"), expected)


class Staying(CocoSource):
    """A source whose folder is exchanged before the second chunk is read; a test exchanges it back."""

    swapped = True

    def read(self, row: Row) -> bytes:
        if row.index == 4 and not Staying.swapped:
            Staying.swapped = True
            swap(Path(self.images))
        return super().read(row)


def test_a_folder_that_is_exchanged_back_after_the_run_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = calm(folder)
    monkeypatch.setattr(Staying, "swapped", False)
    finish(workflow(folder, "Staying"), folder / "out")  # the driver saw the first folder, the worker read the second
    assert verify(RunFolder(folder / "out"), workflow(folder), trusted=True).exchanged == (0,)
    swap(folder / "images")
    found = verify(RunFolder(folder / "out"), workflow(folder, "Staying"), trusted=True)
    assert found.exchanged == (1,)
    with pytest.raises(FingerprintMismatch, match=r"004\.bmp"):
        finish(workflow(folder, "Staying"), folder / "out")
    finish(workflow(folder, "Staying", on_changed_images="encode"), folder / "out")
    np.testing.assert_array_equal(latents(folder / "out"), expected)


def test_the_receipt_holds_the_stamps_of_the_files_that_were_opened(folder: Path) -> None:
    finish(workflow(folder), folder / "out")
    source = CocoSource(str(folder / "images"), str(folder / "captions.json"))
    data = source.read(source.rows(0, 1)[0])
    assert isinstance(data, FileBytes)
    assert [data.stamp] == source.stamps(source.rows(0, 1))
    assert all(len(receipt.stamps) == 32 for receipt in Receipts(RunFolder(folder / "out")).read())


def test_the_stamp_is_that_of_the_open_file_even_if_another_one_has_its_name_by_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = CocoSource(str(folder / "images"), str(folder / "captions.json"))
    row = source.rows(0, 1)[0]
    before, opened = source.stamps([row]), Path.open

    def open_and_swap(path: Path, mode: str) -> Any:
        stream = opened(path, mode)
        swap(folder / "images")
        return stream

    monkeypatch.setattr(Path, "open", open_and_swap)
    data = source.read(row)
    monkeypatch.undo()
    assert [getattr(data, "stamp", None)] == before != source.stamps([row])


def test_bytes_from_an_archive_have_the_stamp_of_its_entry(folder: Path) -> None:
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for path in sorted((folder / "images").iterdir()):
            archive.write(path, path.name)
    shutil.rmtree(folder / "images")
    source = CocoSource(str(folder / "images.zip"), str(folder / "captions.json"))
    rows = source.rows(0, 8)
    assert [getattr(source.read(row), "stamp", None) for row in rows] == source.stamps(rows)
