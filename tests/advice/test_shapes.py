"""Stores of several shapes: what the messages tell a user to do."""

from __future__ import annotations

import json
from pathlib import Path

from builders.advice import told
from builders.shapes import BUCKETS, shaped, write_photographs
from builders.workflows import finish

import daskt2i
from daskt2i.encode.prepare import prepare
from daskt2i.export.driver import export
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.views import View, views_of
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import ArraySpec

VIEWS = (View("16x8", 16, 8, False, 0, 1, 2),)


def test_damaged_views_are_restored_or_another_folder_is_taken(tmp_path: Path) -> None:
    def make(name: str) -> ZarrStore:
        store = ZarrStore(RunFolder(tmp_path / name))
        store.create(2, 4, [ArraySpec("image_id", (), (), "int64", 0)], {"daskt2i": {"views": [VIEWS[0].to_json()]}})
        return store

    store, file = make("one"), tmp_path / "one" / "latents.zarr" / "zarr.json"
    whole = file.read_text()
    damaged = json.loads(whole)
    damaged["attributes"]["daskt2i"]["views"] = "lost"
    file.write_text(json.dumps(damaged))
    with told("store/views.py:views_of StoreError"):
        views_of((store.attributes() or {})["daskt2i"])
    file.write_text(whole)
    for other in (store, make("two")):
        assert views_of((other.attributes() or {})["daskt2i"]) == VIEWS


def test_an_encoder_whose_arrays_do_not_grow_is_taken_without_buckets_and_latents_with_them(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path)
    score = {"class": "encode.test_columns.Brightness"}
    with told("encode/shapes/arrays.py:require_growing ConfigError") as error:
        prepare(shaped(folder, {"buckets": BUCKETS}, encoder=score), tmp_path / "run")
    assert "a store without dataset.image.buckets in another run folder" in str(error.value)
    assert finish(shaped(folder, {"resolution": 32}, encoder=score), tmp_path / "squares").accepted == 10
    assert prepare(shaped(folder, {"buckets": BUCKETS}), tmp_path / "run").source_info.rows == 10


def test_sizes_that_are_multiples_of_the_reduction_are_taken(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path)
    with told("encode/shapes/arrays.py:require_growing ConfigError") as error:
        prepare(shaped(folder, {"resolutions": [36, 64]}), tmp_path / "run")
    assert "a multiple of 8" in str(error.value)
    assert prepare(shaped(folder, {"resolutions": [32, 64]}), tmp_path / "run").source_info.rows == 10


def test_a_smaller_step_makes_buckets_for_small_images(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path, [(40, 20), (20, 30)])
    with told("facts/bucketed.py:BucketedRows.__init__ ConfigError"):
        prepare(shaped(folder, {"buckets": {**BUCKETS, "step": 32}}), tmp_path / "run")
    assert finish(shaped(folder, {"buckets": BUCKETS}), tmp_path / "run").accepted == 2


def test_images_that_are_where_the_settings_say_have_sizes(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path, [(64, 64), (48, 80)])
    for path in (folder / "images").iterdir():
        path.rename(path.with_suffix(".gone"))  # an empty folder would count as an unmounted one
    with told("facts/image_sizes.py:image_sizes SourceError") as error:
        prepare(shaped(folder, {"buckets": BUCKETS}), tmp_path / "run")
    assert "The size of none of 2 images could be read, and 000.png is not there" in str(error.value)
    for path in (folder / "images").iterdir():
        path.rename(path.with_suffix(".png"))
    assert finish(shaped(folder, {"buckets": BUCKETS}), tmp_path / "run").accepted == 2


def test_a_store_of_one_size_is_exported_and_others_are_read_by_torch_dataset(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path)
    finish(shaped(folder, {"resolutions": [32, 64]}), tmp_path / "run")
    with told("export/driver.py:export ConfigError") as error:
        export(RunFolder(tmp_path / "run"), "npy", tmp_path / "files")
    assert "several sizes (32x32, …)" in str(error.value)
    assert next(iter(daskt2i.torch_dataset(tmp_path / "run", batch_size=2)))["latents"].shape[0] == 2
    finish(shaped(folder, {"resolution": 32}), tmp_path / "one")
    assert export(RunFolder(tmp_path / "one"), "npy", tmp_path / "files").rows == 10
