"""What `export` tells a user to do works."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders.advice import told
from builders.disks import disk_of
from loader.test_dataset import encoded

from daskt2i.export.driver import export
from daskt2i.export.kohya import KohyaWriter
from daskt2i.export.rows import Exported
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A store that tests must not change."""
    return RunFolder(encoded(tmp_path_factory.mktemp("export") / "run"))


def test_a_format_of_the_message_is_written_to_another_folder(store: RunFolder, tmp_path: Path) -> None:
    with told("export/driver.py:export ConfigError") as found:
        export(store, "tfrecord", tmp_path / "made")
    assert "webdataset, npy, parquet" in str(found.value)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("mine")
    with told("export/driver.py:_free ConfigError"):
        export(store, "npy", tmp_path / "made")
    with told("export/driver.py:_free ConfigError"):
        export(store, "npy", tmp_path / "made" / "mine.txt")
    assert (tmp_path / "made" / "mine.txt").read_text() == "mine"
    with told("export/driver.py:_free ConfigError"):
        export(store, "npy", "s3://bucket/made")
    (tmp_path / "empty").mkdir()
    assert export(store, "npy", tmp_path / "empty").rows
    assert export(store, "npy", tmp_path / "other").rows


def test_a_where_that_keeps_rows_is_exported(store: RunFolder, tmp_path: Path) -> None:
    with told("export/driver.py:export ConfigError"):
        export(store, "npy", tmp_path / "made", where="words > 1000")
    assert export(store, "npy", tmp_path / "made", where="words > 6").rows


def test_a_full_disk_leaves_nothing_and_another_folder_works(store: RunFolder, tmp_path: Path) -> None:
    with disk_of(tmp_path / "disk", "64k") as disk:
        with told("export/driver.py:_whole StoreFull"):
            export(store, "npy", disk / "made")
        assert list(disk.iterdir()) == []
    assert export(store, "npy", tmp_path / "made").rows


def test_a_folder_that_cannot_be_written_is_named_and_another_works(store: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with told("export/driver.py:_whole StoreError"):
        export(store, "npy", tmp_path / "file" / "made")
    assert export(store, "npy", tmp_path / "made").rows


def test_latents_of_another_kind_go_to_another_format(store: RunFolder, tmp_path: Path) -> None:
    exported = Exported(ZarrStore(store), np.arange(4), {"image_encoder": {}}, (16, 4, 4), 16, ("source_size",))
    with told("export/kohya.py:KohyaWriter.__init__ ConfigError"):
        KohyaWriter(tmp_path, exported)
    assert export(store, "webdataset", tmp_path / "made").rows


def test_images_that_differ_in_their_ending_alone_are_told_of(store: RunFolder, tmp_path: Path) -> None:
    exported = Exported.of(ZarrStore(store), np.array([0, 1]))
    (part,) = exported.parts()
    names = ["a/photo.jpg", "a/photo.png"]
    same = replace(part, file_names=names)
    with told("export/kohya.py:KohyaWriter.write StoreError"):
        KohyaWriter(tmp_path, exported).write(same)
    assert export(store, "kohya-npz", tmp_path / "made", where="image_id > 0").rows


def test_mds_without_its_library_names_the_extra(
    store: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "streaming", None)
    with told("export/mds.py:MdsWriter.__init__ ConfigError") as found:
        export(store, "mds", tmp_path / "made")
    assert "daskt2i[export]" in str(found.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_store_is_exported_if_asked(store: RunFolder, tmp_path: Path) -> None:
    own = Path(shutil.copytree(store.local_path(), tmp_path / "run"))
    (own / "receipts" / "chunk-0000002.json").unlink()
    with told("loader/own_trainer/selection.py:readable_rows StoreError"):
        export(RunFolder(own), "npy", tmp_path / "made")
    assert export(RunFolder(own), "npy", tmp_path / "made", unfinished=True).rows == 35
