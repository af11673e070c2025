"""Columns that were added later: read in batches, and named in `where`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.workflows import component, fake_settings, with_parts
from encode.test_columns import Brightness

from daskt2i import Run, open_store, torch_dataset
from daskt2i.errors import ConfigError
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from loader.test_dataset import CHUNK, REJECTED, ROWS, encoded


class Picky(Brightness):
    """Gives no score to dark pictures, so the column rejects them."""

    def encode(self, items: Any, batch: int) -> dict[str, Any]:
        score = super().encode(items, batch)["score"]
        return {"score": np.where(score < 127, np.nan, score).astype(np.float32)}


def add(out: Path, name: str, encoder: str, **settings: Any) -> None:
    source = component("loader.test_dataset.Varied", rows=ROWS, captions=4, unreadable=sorted(REJECTED))
    workflow = with_parts(fake_settings(rows=ROWS, rows_per_chunk=CHUNK, resolution=32), source=source)
    with Run(workflow, out, scheduler="serial", progress=False, settings=settings) as run:
        assert not run.add(name, encoder).failed


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two columns. The shards of one have five rows, those of the store have four."""
    out = encoded(tmp_path_factory.mktemp("columns") / "run")
    add(out, "bright", f"{Brightness.__module__}.Brightness", **{"dataset.rows_per_chunk": 5})
    add(out, "picky", f"{__name__}.Picky")
    return out


def test_a_batch_has_the_values_of_a_column_for_its_rows(store: Path) -> None:
    there = open_store(store)
    data = torch_dataset(store, 6, columns=["latents", "bright", "picky_valid"])
    seen = 0
    for batch in data:
        rows = batch["row"].numpy()
        np.testing.assert_array_equal(batch["bright"].numpy(), there.bright.values[rows])
        np.testing.assert_array_equal(batch["picky_valid"].numpy(), there.picky_valid.values[rows])
        seen += len(rows)
    data.close()
    assert seen == ROWS - len(REJECTED)


def test_single_rows_and_decoded_files_have_columns_too(store: Path, tmp_path: Path) -> None:
    bright = open_store(store).bright.values
    rows = torch_dataset(store, columns=["bright"])
    assert [float(rows[place]["bright"]) for place in (0, 20)] == [bright[rows[place]["row"]] for place in (0, 20)]
    data = torch_dataset(store, 8, columns=["bright"], cache_folder=tmp_path)
    for batch in data:
        np.testing.assert_array_equal(batch["bright"].numpy(), bright[batch["row"].numpy()])
    data.close()


def rows_of(store: Path, where: str) -> list[int]:
    data = torch_dataset(store, 8, columns=["bright"], where=where)
    found = sorted(int(row) for batch in data for row in batch["row"])
    data.close()
    return found


def test_rows_are_chosen_by_a_column_and_by_facts_together(store: Path) -> None:
    there = open_store(store)
    bright, valid = there.bright.values, there.valid.values
    wanted = [row for row in range(ROWS) if valid[row] and bright[row] > 127 and row % 4]
    assert 0 < len(wanted) < ROWS - len(REJECTED)
    assert rows_of(store, "bright > 127 and captions > 1") == wanted


def test_a_row_without_a_value_in_a_column_is_not_kept_whatever_the_expression_says(store: Path) -> None:
    scored = np.flatnonzero(open_store(store).picky_valid.values).tolist()
    assert 0 < len(scored) < ROWS - len(REJECTED)
    assert rows_of(store, "not picky > 1000") == scored


def test_only_what_an_expression_names_is_read(store: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(store, tmp_path / "run"))
    for shard in (own / "latents.zarr" / "caption").glob("c.*"):
        shard.write_bytes(b"damaged")
    assert rows_of(own, "bright > 127") == rows_of(store, "bright > 127")


def test_a_wrong_name_is_told_with_the_columns_that_are_there(store: Path) -> None:
    with pytest.raises(ConfigError, match=r"^where is wrong .*did you mean bright\?.*the columns are bright") as error:
        torch_dataset(store, 8, where="brigth > 3")
    assert str(error.value).endswith("Nothing was read.")


def test_a_column_of_another_store_is_neither_read_nor_named(store: Path, tmp_path: Path) -> None:
    own = encoded(tmp_path / "run", image=component("loader.test_dataset.Plain"))
    shutil.copytree(store / "columns", own / "columns")
    assert ZarrStore(RunFolder(own)).layout()["rows"] == ROWS
    with pytest.raises(ConfigError, match="no column 'bright'"):
        torch_dataset(own, 8, columns=["bright"])
    with pytest.raises(ConfigError, match="no fact named bright"):
        torch_dataset(own, 8, where="bright > 3")
