"""Decoded rows in a cache folder: the same samples, written once, whole or not there."""

from __future__ import annotations

import shutil
from multiprocessing import get_context
from pathlib import Path

import pytest
from builders.advice import told
from builders.disks import disk_of

from daskt2i import torch_dataset
from daskt2i.loader.shards import Reader
from loader.test_dataset import encoded
from loader.test_torch_dataset import content


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that tests must not change."""
    return encoded(tmp_path_factory.mktemp("mapped") / "run")


@pytest.mark.parametrize("columns", [None, ["latents", "text_states", "image_id", "caption", "file_name"]])
def test_samples_are_the_same_and_the_store_is_read_once(
    store: Path, tmp_path: Path, columns: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch_dataset(store, 6, columns=columns)
    wanted = [content(list(plain)) for _ in range(2)]
    mapped = torch_dataset(store, 6, columns=columns, cache_folder=tmp_path)
    assert [content(list(mapped)) for _ in range(2)] == wanted
    monkeypatch.setattr(Reader, "read", lambda *_: pytest.fail("the store is read again"))
    later = torch_dataset(store, 6, columns=columns, cache_folder=tmp_path)
    batches = list(later)
    assert content(batches) == wanted[0]
    if columns:
        assert {type(text) for batch in batches for text in batch["file_name"]} == {str}
    for one in (plain, mapped, later):
        one.close()


def test_other_rows_and_another_store_have_files_of_their_own(store: Path, tmp_path: Path) -> None:
    for where in (None, "words > 6", None):
        list(torch_dataset(store, 6, where=where, cache_folder=tmp_path))
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def _epoch(store: Path, folder: Path) -> list[int]:
    dataset = torch_dataset(store, 6, cache_folder=folder, rank=0, world_size=1)
    return [row for batch in dataset for row in batch["row"].tolist()]


def test_two_processes_at_once_write_them_once(store: Path, tmp_path: Path) -> None:
    with get_context("fork").Pool(2) as pool:
        one, other = pool.starmap(_epoch, [(store, tmp_path)] * 2)
    assert one == other
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == ["", ".lock"]


def test_a_full_disk_leaves_nothing_and_another_folder_works(store: Path, tmp_path: Path) -> None:
    with disk_of(tmp_path / "disk", "64k") as disk:
        with told("loader/memory/mapped_rows.py:_explaining StoreFull"):
            list(torch_dataset(store, 6, cache_folder=disk))
        assert [path.suffix for path in disk.iterdir()] == [".lock"]
    assert list(torch_dataset(store, 6, cache_folder=tmp_path / "other"))


def test_a_folder_that_cannot_be_used_is_named_and_another_works(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with told("loader/memory/mapped_rows.py:_explaining StoreError"):
        list(torch_dataset(store, 6, cache_folder=tmp_path / "file"))
    assert list(torch_dataset(store, 6, cache_folder=tmp_path / "other"))


def test_damaged_files_are_written_again_when_their_folder_is_removed(store: Path, tmp_path: Path) -> None:
    wanted = content(list(torch_dataset(store, 6, cache_folder=tmp_path)))
    (place,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (place / "tokens").write_bytes(b"short")
    with told("loader/memory/mapped_rows.py:_explaining StoreError"):
        list(torch_dataset(store, 6, cache_folder=tmp_path))
    shutil.rmtree(place)
    assert content(list(torch_dataset(store, 6, cache_folder=tmp_path))) == wanted
