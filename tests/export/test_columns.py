"""Columns in an export: their values are those of the rows, in each format."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders.workflows import TEXT, fake_settings
from encode.test_columns import BRIGHT

import daskt2i
from daskt2i.errors import ConfigError
from daskt2i.export.driver import export
from daskt2i.store.run_folder import RunFolder

SOURCE = {"unreadable": [3], "uncaptioned": [9]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two columns that tests must not change."""
    out = tmp_path_factory.mktemp("columns") / "run"
    with daskt2i.Run(fake_settings(source=SOURCE), out, scheduler="serial", progress=False) as run:
        run.encode()
        run.add("bright", BRIGHT)
        run.add("words", TEXT, arguments={"features": 4})
    return out


def test_columns_are_in_every_format_under_the_names_of_open_store(store: Path, tmp_path: Path) -> None:
    there = daskt2i.open_store(store).load()
    rows = np.flatnonzero(there.valid.values)
    wanted = {name for name in there.data_vars if str(name).startswith(("bright", "words"))}
    slots = [int((there.caption.values[row] != "").sum()) for row in rows]

    export(RunFolder(store), "npy", tmp_path / "npy")
    made = {path.stem: np.load(path) for path in (tmp_path / "npy").glob("*.npy")}
    assert wanted - made.keys() == {name for name in wanted if "empty" in str(name)}
    np.testing.assert_array_equal(made["bright"], there.bright.values[rows])
    states = np.concatenate([there.words_text_states.values[row][:n] for row, n in zip(rows, slots, strict=True)])
    np.testing.assert_array_equal(made["words_text_states"], states)

    export(RunFolder(store), "hf", tmp_path / "hf")
    table = pq.read_table(tmp_path / "hf" / "data").to_pydict()
    assert table["bright"] == there.bright.values[rows].tolist()
    np.testing.assert_array_equal(table["words_text_states"][0], there.words_text_states.values[rows[0]][: slots[0]])

    export(RunFolder(store), "webdataset", tmp_path / "tars")
    with tarfile.open(tmp_path / "tars" / "00000.tar") as tar:
        names = {name.partition(".")[2] for name in tar.getnames()}
        about = json.loads(tar.extractfile(tar.getnames()[-1]).read())  # type: ignore[union-attr]
    assert {"bright.npy", "words_text_states.npy", "words_text_mask.npy"} <= names
    assert about["bright_valid"] is True


def test_a_column_that_is_not_complete_is_left_out(store: Path, tmp_path: Path) -> None:
    manifest = store / "columns" / "words" / "manifest.parquet"
    kept = manifest.read_bytes()
    manifest.unlink()
    try:
        export(RunFolder(store), "npy", tmp_path / "npy")
    finally:
        manifest.write_bytes(kept)
    assert (tmp_path / "npy" / "bright.npy").is_file()
    assert not list((tmp_path / "npy").glob("words*"))


def test_a_column_alone_is_refused_and_its_store_taken(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a column of a store"):
        export(RunFolder(store / "columns" / "bright"), "npy", tmp_path / "npy")
    assert export(RunFolder(store), "npy", tmp_path / "npy").rows == 18
