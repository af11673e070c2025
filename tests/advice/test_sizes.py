"""What stores with several sizes of latents, and stores with parts, tell a user to do works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders.advice import told
from builders.shaped import bucketed, of_resolutions
from builders.workflows import fake_settings, finish
from train.test_sizes import SDXL, settings, workflow

from daskt2i import Run, torch_dataset
from daskt2i.loader.joined.joined_reader import open_reader
from daskt2i.loader.shards import Wanted
from daskt2i.store.layout import about_store
from daskt2i.store.parts.rows_file import RowsFile, write_rows
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.checkpoint import CHECKPOINTS, Checkpoints
from daskt2i.train.driver import identity_of, trained_steps
from daskt2i.train.samples import as_begun, check_sizes

SIZES = {(64, 32): 6, (48, 48): 5}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bucketed(tmp_path_factory.mktemp("advice") / "run", SIZES)


def test_each_view_that_is_named_can_be_read_and_null_takes_the_default(store: Path, tmp_path: Path) -> None:
    with told("loader/joined/joined_reader.py:chosen_views ConfigError") as error:
        torch_dataset(store, 2, view="16x16")
    named = str(error.value).partition("its views are ")[2].partition(". Choose")[0].split(", ")
    assert len(named) == 2
    assert [torch_dataset(store, 2, view=view).rows for view in named] == [6, 5]
    assert torch_dataset(store, 2, view=None).rows == 11
    resolutions = of_resolutions(tmp_path / "two", [(32, 32), (64, 64)], 4)
    assert torch_dataset(resolutions, 2, view="64x64").rows == 4


def test_decoded_rows_of_one_size_are_kept_and_without_cache_folder_all_are_read(store: Path, tmp_path: Path) -> None:
    with told("loader/own_trainer/selection.py:Selection.mapped ConfigError"):
        next(iter(torch_dataset(store, 2, cache_folder=tmp_path)))
    kept = torch_dataset(store, 2, cache_folder=tmp_path, view="64x32")
    assert sum(len(batch["row"]) for batch in kept) == 6
    assert len(next(iter(torch_dataset(store, 2)))["row"]) == 2


def test_mirrored_latents_need_batches_from_the_store(store: Path, tmp_path: Path) -> None:
    with told("loader/own_trainer/torch_dataset.py:torch_dataset ConfigError"):
        torch_dataset(store, mirror=True)
    with told("loader/own_trainer/torch_dataset.py:torch_dataset ConfigError"):
        torch_dataset(store, 2, mirror=True, cache_folder=tmp_path)
    assert torch_dataset(store, 2, mirror=True)
    assert torch_dataset(store, mirror=False)


def test_a_smaller_batch_fits_a_bucket(store: Path) -> None:
    with told("loader/own_trainer/torch_dataset.py:LatentBatches.__init__ ConfigError") as error:
        torch_dataset(store, 7)
    assert "at most 6 of one size" in str(error.value)
    assert len(torch_dataset(store, 6)) == 1
    assert len(torch_dataset(store, 7, view="64x32", drop_last=False)) == 1


def test_a_part_of_other_encoders_is_removed_and_appended_with_those_of_the_store(tmp_path: Path) -> None:
    folder, part = RunFolder(tmp_path), tmp_path / "parts" / "0001"
    finish(fake_settings(rows=8, rows_per_chunk=4), tmp_path)
    finish(fake_settings(rows=4, rows_per_chunk=4, text={"features": 8}), part)
    write_rows(folder, RowsFile(("0001",)))
    with told("loader/joined/joined_reader.py:open_reader StoreError"):
        open_reader(folder, 0, sample=False)
    finish(fake_settings(rows=4, rows_per_chunk=4), tmp_path / "parts" / "0002")
    write_rows(folder, RowsFile(("0002",)))
    assert len(open_reader(folder, 0, sample=False).accepted()) == 12


def test_a_model_with_fewer_levels_or_other_sizes_fit(tmp_path: Path) -> None:
    folder = RunFolder(bucketed(tmp_path / "run", {(64, 32): 4, (64, 40): 4}))
    with told("model/denoisers/unet.py:unet_config ConfigError"):
        check_sizes(settings(), folder)
    flat = {"block_out_channels": [16], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    check_sizes(settings(model={"config": flat}), folder)
    check_sizes(settings(view="64x32"), folder)


def test_without_its_checkpoints_a_training_begins_with_the_rows_of_now(tmp_path: Path) -> None:
    folder, train = RunFolder(tmp_path), workflow()
    finish(fake_settings(rows=8, rows_per_chunk=4), tmp_path)
    stored = about_store(ZarrStore(folder))
    assert stored is not None
    begun = as_begun(identity_of(train.train, stored), folder)
    Checkpoints(folder).save(1, 6, {"model.a": torch.zeros(1)}, {"identity": begun})
    write_rows(folder, RowsFile((), {"": ((2, 3),)}))
    with told("train/samples.py:refuse_other_rows FingerprintMismatch") as error:
        trained_steps(train, folder)
    assert folder.address(CHECKPOINTS) in str(error.value)
    folder.local_path(CHECKPOINTS).rename(tmp_path / "kept")
    assert trained_steps(train, folder) == 0


def test_a_model_as_sdxls_needs_pooled_text_or_another_config(store: Path, tmp_path: Path) -> None:
    with told("model/denoisers/unet.py:unet_config ConfigError"):
        check_sizes(settings(model={"config": SDXL}), RunFolder(store))
    check_sizes(settings(), RunFolder(store))
    pooled = bucketed(tmp_path / "run", SIZES, pooled=True)
    check_sizes(settings(model={"config": SDXL}), RunFolder(pooled))


def test_an_array_that_a_part_lacks_is_left_out(tmp_path: Path) -> None:
    finish(fake_settings(rows=4, rows_per_chunk=4, text={"pooled": True}), tmp_path)
    with told("loader/shards.py:Reader.__init__ ConfigError"):
        open_reader(RunFolder(tmp_path), 0, False, Wanted(extra=("bright",)))
    assert open_reader(RunFolder(tmp_path), 0, False, Wanted())
    with Run(fake_settings(rows=4, rows_per_chunk=4), tmp_path, scheduler="serial", progress=False) as run:
        run.add("bright", "encode.test_columns.Brightness")
    assert open_reader(RunFolder(tmp_path), 0, False, Wanted(extra=("bright",)))
