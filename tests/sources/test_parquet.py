"""Parquet files: images as bytes, as HF's struct and as names of files; columns that do not fit; row groups."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from builders.tables import STRUCT, numbered, odd_rows, picture, table, write_parquet

from daskt2i.errors import Reason, RowRejected, SourceError, SourceMissing
from daskt2i.sources.files import row_groups
from daskt2i.sources.parquet import ParquetSource
from daskt2i.types import Row


def rows(source: ParquetSource) -> list[Row]:
    return list(source.rows(0, source.info().rows))


def refused(place: Path, kind: type[SourceError] = SourceError, **arguments: Any) -> str:
    with pytest.raises(kind) as caught:
        ParquetSource(str(place), **arguments).info()
    return str(caught.value)


@pytest.mark.parametrize("form", [None, pa.large_binary(), STRUCT], ids=["bytes", "large bytes", "struct"])
def test_every_row_is_a_row_and_what_is_wrong_has_its_reason(form: Any, tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "a" / "0.parquet", odd_rows(form))
    write_parquet(tmp_path / "set" / "b.parquet", numbered(range(9), form))
    source = ParquetSource(str(tmp_path / "set"))
    info, found = source.info(), rows(source)
    assert (info.rows, info.captions, info.blank_captions, info.slots) == (15, 23, 1, 2)
    assert [(row.file_name, row.captions, row.reason) for row in found[:7]] == [
        ("a/0.parquet/0", ("good",), None),
        ("a/0.parquet/1", ("no image",), None),
        ("a/0.parquet/2", (), Reason.NO_CAPTION),
        ("a/0.parquet/3", ("one",), None),
        ("a/0.parquet/4", ("twice",), Reason.DUPLICATE_ID),
        ("a/0.parquet/5", ("good",), None),
        ("b.parquet/0", ("number 0", "again"), None),
    ]
    assert [row.image_id for row in found[:4]] == [1, 2, 3, 4]
    assert [row.licence for row in found[:3]] == ["CC0", "", "BY"]
    assert [source.read(row) for row in found[6:]] == [picture(n) for n in range(9)]
    with pytest.raises(RowRejected, match="missing-file: the table has no image in this row"):
        source.read(found[1])


def test_named_images_lie_beside_the_table_or_in_the_place_that_is_given(tmp_path: Path) -> None:
    names = ["a.bmp", "sub/b.bmp", "gone.bmp", "../up.bmp", "a.bmp", ""]
    (tmp_path / "set" / "sub").mkdir(parents=True)
    (tmp_path / "set" / "a.bmp").write_bytes(picture(1))
    (tmp_path / "set" / "sub" / "b.bmp").write_bytes(picture(2))
    content = table(names, [[f"about {name}"] for name in names], pa.string(), "file_name")
    beside = ParquetSource(str(write_parquet(tmp_path / "set" / "x.parquet", content)))
    elsewhere = ParquetSource(str(tmp_path / "set"), captions=str(write_parquet(tmp_path / "t" / "x.parquet", content)))
    for source in (beside, elsewhere):
        found = rows(source)
        assert [row.reason for row in found] == [
            None,
            None,
            None,
            Reason.UNSAFE_PATH,
            Reason.DUPLICATE_ID,
            Reason.MISSING_FILE,
        ]
        assert [source.read(row) for row in found[:2]] == [picture(1), picture(2)]
        with pytest.raises(RowRejected, match="missing-file"):
            source.read(found[2])
        stamps = source.stamps(found[:3])
        assert stamps is not None
        assert stamps[0] != stamps[1]
        assert stamps[2] == ""
    assert beside.info().content == elsewhere.info().content


def test_the_same_name_in_two_tables_is_good_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_parquet(tmp_path / f"{name}.parquet", table(["x.bmp"], [["one"]], pa.string(), "file_name"))
    assert [row.reason for row in rows(ParquetSource(str(tmp_path)))] == [None, Reason.DUPLICATE_ID]


def test_several_columns_of_captions_and_other_names_are_read_as_named(tmp_path: Path) -> None:
    content = pa.table(
        {"pixels": [picture(1)], "en": ["a dog"], "de": [["ein Hund", None]], "key": [7], "text": ["no"]}
    )
    path = write_parquet(tmp_path / "x.parquet", content)
    source = ParquetSource(str(path), image_column="pixels", caption_column=["en", "de"], id_column="key")
    (row,) = rows(source)
    assert (row.captions, row.image_id) == (("a dog", "ein Hund"), 7)
    assert source.info().blank_captions == 1
    assert source.read(row) == picture(1)


@pytest.mark.parametrize(
    ("columns", "arguments", "said"),
    [
        ({"image": [1, 2], "caption": ["a", "b"]}, {}, "'image' of .* is int64, but images are bytes"),
        ({"image": [b"1"], "caption": [3]}, {}, "'caption' of .* is int64, but captions are text"),
        ({"image": [b"1"], "caption": ["a"], "k": [0.5]}, {"id_column": "k"}, "'k' of .* is double, but ids are whole"),
        (
            {"image": [b"1"], "words": ["a"]},
            {},
            r"no column of captions .* the columns image \(binary\), words \(string",
        ),
        (
            {"pixels": [b"1"], "text": ["a"]},
            {},
            r"no column of images .* the columns pixels \(binary\), text \(string\)",
        ),
        ({"image": [b"1"], "text": ["a"]}, {"image_column": "img"}, "no column 'img'. It has the columns image"),
        ({"url": ["https://x/1.jpg"], "caption": ["a"]}, {}, "web addresses of images .* img2dataset"),
        ({"URL": ["https://x/1.jpg"], "TEXT": ["a"]}, {}, "web addresses of images .* img2dataset"),
        (
            {"image": ["https://x/1.jpg"], "caption": ["a"]},
            {},
            "its column image.* img2dataset .*--input_format parquet",
        ),
        (
            {"image": [b"1"], "words": pa.array(["a"]).dictionary_encode()},
            {},
            r"the columns image \(binary\), words \(dictionary<values=string, indices=int32…\)\.",
        ),
    ],
)
def test_columns_that_do_not_fit_are_named_in_one_sentence(
    columns: dict[str, Any], arguments: dict[str, Any], said: str, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "x.parquet", pa.table(columns))
    assert re.search(said, refused(tmp_path / "x.parquet", **arguments))


def test_text_that_pandas_wrote_as_categories_is_read(tmp_path: Path) -> None:
    names, captions = pa.array(["1.png"]).dictionary_encode(), pa.array(["a dog"]).dictionary_encode()
    write_parquet(tmp_path / "x.parquet", pa.table({"image": [picture(1)], "caption": captions, "license": captions}))
    found = ParquetSource(str(tmp_path / "x.parquet"))
    (row,) = rows(found)
    assert found.info().label == "x.parquet (1 file, 1 image, 1 caption)"
    assert (row.captions, row.licence) == (("a dog",), "a dog")
    write_parquet(tmp_path / "names" / "x.parquet", pa.table({"file_name": names, "caption": captions}))
    (tmp_path / "names" / "1.png").write_bytes(picture(2))
    source = ParquetSource(str(tmp_path / "names" / "x.parquet"))
    assert source.read(rows(source)[0]) == picture(2)


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    whole = write_parquet(tmp_path / "x.parquet", numbered(range(4))).read_bytes()
    (tmp_path / "x.parquet").write_bytes(whole[: len(whole) // 2])
    assert "is not a Parquet file" in refused(tmp_path / "x.parquet")
    assert "There is nothing at" in refused(tmp_path / "nothing.parquet", SourceMissing)


@pytest.mark.parametrize("group", [3, 1000], ids=["small groups", "one group"])
def test_rows_are_read_in_any_order_whatever_stays_in_memory(
    group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_groups, "_BATCH_BYTES", 20_000)
    monkeypatch.setattr(row_groups, "MOST_BYTES", 30_000)
    monkeypatch.setattr(row_groups, "_OPEN", 1)
    for name in ("a", "b"):
        write_parquet(tmp_path / f"{name}.parquet", numbered(range(40)), group)
    source = ParquetSource(str(tmp_path))
    found = rows(source)
    order = random.Random(1).sample(found, len(found))
    assert [source.read(row) for row in order] == [picture(row.index % 40) for row in order]
    assert sum(one.nbytes for one in source._groups._batches.values()) <= 30_000


def test_a_file_that_is_exchanged_or_gone_is_no_rejection(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", numbered(range(8)))
    source = ParquetSource(str(path))
    found = rows(source)
    assert source.read(found[7]) == picture(7)
    before = source.stamps(found)
    write_parquet(path, numbered(range(100, 103)))
    assert source.read(found[0]) == picture(100)
    assert source.stamps(found) != before
    with pytest.raises(OSError, match="another archive"):
        source.read(found[7])
    with pytest.raises(SourceError, match="was changed after its index was made"):
        source.rows(0, 1)
    path.unlink()
    with pytest.raises(OSError, match="not there now"):
        source.read(found[0])


def test_content_changes_with_captions_and_with_the_size_of_images(tmp_path: Path) -> None:
    def content(images: list[bytes], captions: list[str]) -> object:
        write_parquet(tmp_path / "x.parquet", table(images, captions))
        return ParquetSource(str(tmp_path)).info().content["rows_sha256"]

    found = [content([b"1"], ["a"]), content([b"1"], ["b"]), content([b"12"], ["a"]), content([b"1", b"2"], ["a", "b"])]
    assert len({str(one) for one in found}) == 4
    assert content([b"2"], ["a"]) == found[0]


def test_an_address_is_read(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/of-parquet/x.parquet", write_parquet(tmp_path / "x.parquet", numbered(range(5))).read_bytes())
    names = table(["0.bmp"], [["named"]], pa.string(), "path")
    memory.pipe("/of-parquet/y.parquet", write_parquet(tmp_path / "y.parquet", names).read_bytes())
    memory.pipe("/of-parquet/0.bmp", picture(50))
    source = ParquetSource("memory://of-parquet/*.parquet")
    assert [source.read(row) for row in rows(source)] == [*(picture(n) for n in range(5)), picture(50)]
    memory.rm("/of-parquet", recursive=True)
