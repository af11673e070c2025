"""Data sets of HF's `datasets`: saved, in the cache, by name; Arrow files that cannot be read in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from builders.tables import STRUCT, numbered, odd_rows, picture, table, write_arrow

from daskt2i.errors import ConfigError, Reason, SourceError, SourceMissing
from daskt2i.sources.hf import HfSource
from daskt2i.types import FileBytes, Row


def rows(source: HfSource) -> list[Row]:
    return list(source.rows(0, source.info().rows))


def refused(place: Path, kind: type[SourceError] = SourceError, **arguments: Any) -> str:
    with pytest.raises(kind) as caught:
        HfSource(str(place), **arguments).info()
    return str(caught.value)


@pytest.mark.parametrize("form", [None, pa.large_binary(), STRUCT], ids=["bytes", "large bytes", "struct"])
def test_every_row_is_a_row_and_what_is_wrong_has_its_reason(form: Any, tmp_path: Path) -> None:
    write_arrow(tmp_path / "data-00000-of-00002.arrow", odd_rows(form))
    write_arrow(tmp_path / "data-00001-of-00002.arrow", numbered(range(9), form))
    write_arrow(tmp_path / "cache-1234.arrow", numbered(range(2)))
    source = HfSource(str(tmp_path))
    found = rows(source)
    assert [(row.file_name.partition("/")[2], row.captions, row.reason) for row in found[:7]] == [
        ("0", ("good",), None),
        ("1", ("no image",), Reason.MISSING_FILE),
        ("2", (), Reason.NO_CAPTION),
        ("3", ("one",), None),
        ("4", ("twice",), Reason.DUPLICATE_ID),
        ("5", ("good",), None),
        ("0", ("number 0", "again"), None),
    ]
    assert [source.read(row) for row in found[6:]] == [picture(n) for n in range(9)]
    data = source.read(found[6])
    assert isinstance(data, FileBytes)
    assert [data.stamp] == source.stamps(found[6:7])
    assert source.info().label == f"{tmp_path.name} (2 files, 15 images, 23 captions)"


def test_an_arrow_file_with_a_footer_and_one_at_an_address_are_read(tmp_path: Path) -> None:
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file:
        content = numbered(range(5), STRUCT)
        with pa.ipc.new_file(file, content.schema) as writer:
            writer.write_table(content, max_chunksize=2)
    memory = fsspec.filesystem("memory")
    memory.pipe("/of-hf/x.arrow", (tmp_path / "x.arrow").read_bytes())
    for place in (str(tmp_path), "memory://of-hf"):
        source = HfSource(place)
        assert [source.read(row) for row in rows(source)] == [picture(n) for n in range(5)]
    memory.rm("/of-hf", recursive=True)


def test_a_split_is_chosen_by_its_folder_or_by_its_name_in_the_cache(tmp_path: Path) -> None:
    for n, split in enumerate(("test", "train")):
        write_arrow(tmp_path / "saved" / split / "data-00000-of-00001.arrow", numbered(range(n + 1)))
        write_arrow(tmp_path / "cache" / f"my-set-{split}.arrow", numbered(range(n + 1)))
        write_arrow(tmp_path / "shards" / f"my-set-{split}-00000-of-00001.arrow", numbered(range(n + 1)))
    for folder in ("saved", "cache", "shards"):
        place = tmp_path / folder
        assert HfSource(str(place), split="train").info().rows == 2
        assert HfSource(str(place)).info().rows == 3
        assert "it has test, train" in refused(place, split="validation")


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_what_cannot_be_read_in_place_is_refused(codec: str, tmp_path: Path) -> None:
    write_arrow(tmp_path / "x" / "x.arrow", numbered(range(2)), compression=codec)
    assert "is a compressed Arrow file" in refused(tmp_path / "x")
    whole = write_arrow(tmp_path / "y" / "y.arrow", numbered(range(40))).read_bytes()
    (tmp_path / "y" / "y.arrow").write_bytes(whole[: len(whole) // 2])
    assert "was it cut?" in refused(tmp_path / "y")
    write_arrow(tmp_path / "z" / "z.arrow", table([{"bytes": None, "path": "/home/a.jpg"}], ["a"], STRUCT))
    assert "names of image files, and no images" in refused(tmp_path / "z")
    (tmp_path / "empty").mkdir()
    assert "There is no Arrow file" in refused(tmp_path / "empty", SourceMissing)


def test_a_choice_of_rows_beside_the_data_is_refused(tmp_path: Path) -> None:
    write_arrow(tmp_path / "data-00000-of-00001.arrow", numbered(range(2)))
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [], "_indices_data_files": None}))
    assert HfSource(str(tmp_path)).info().rows == 2
    (tmp_path / "state.json").write_text(json.dumps({"_indices_data_files": [{"filename": "indices.arrow"}]}))
    assert "flatten_indices()" in refused(tmp_path)


def test_a_place_and_a_name_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one of the two"):
        HfSource()
    with pytest.raises(ConfigError, match="one of the two"):
        HfSource(str(tmp_path), name="org/set")


def test_what_datasets_itself_saves_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": picture(n), "path": None} for n in range(6)],
            "caption": [[f"n {n}", "x"] for n in range(6)],
        },
        features=datasets.Features({"image": datasets.Image(), "caption": datasets.Sequence(datasets.Value("string"))}),
    )
    datasets.DatasetDict({"train": made, "test": made.select([4, 2])}).save_to_disk(str(tmp_path / "set"))
    source = HfSource(str(tmp_path / "set"), split="train")
    assert [source.read(row) for row in rows(source)] == [picture(n) for n in range(6)]
    assert rows(source)[3].captions == ("n 3", "x")
    source = HfSource(str(tmp_path / "set"), split="test")
    assert [source.read(row) for row in rows(source)] == [picture(4), picture(2)]
