"""Tables of images and captions: JSON Lines and CSV, as people and programs write them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from daskt2i.errors import Reason, SourceError, SourceMissing
from daskt2i.sources.fake import bitmap
from daskt2i.sources.identity import id_of
from daskt2i.sources.table import CsvSource, JsonlSource
from daskt2i.types import Row

PICTURE = bitmap(40, 36, (10, 200, 30))

Table = type[CsvSource] | type[JsonlSource]


def source_of(folder: Path, kind: Table, text: str | bytes, **arguments: Any) -> CsvSource | JsonlSource:
    """A table in `folder`, over `images/1.bmp`, `images/2.bmp` and `images/3.bmp`."""
    (folder / "images").mkdir(exist_ok=True)
    for n in (1, 2, 3):
        (folder / "images" / f"{n}.bmp").write_bytes(PICTURE)
    table = folder / ("table.csv" if kind is CsvSource else "table.jsonl")
    table.write_bytes(text.encode() if isinstance(text, str) else text)
    return kind(str(folder / "images"), str(table), **arguments)


def lines(*records: Any) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


def rows_of(source: CsvSource | JsonlSource) -> list[Row]:
    return list(source.rows(0, source.info().rows))


def captions_of(source: CsvSource | JsonlSource) -> list[tuple[str, tuple[str, ...]]]:
    return [(row.file_name, row.captions) for row in rows_of(source)]


def said(source: CsvSource | JsonlSource) -> str:
    with pytest.raises(SourceError) as caught:
        source.info()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_rows_are_in_the_order_of_the_table_and_lines_of_one_image_are_one_row(tmp_path: Path) -> None:
    text = "file_name,caption\n3.bmp,three\n1.bmp,one\n\n3.bmp,three again\n./1.bmp,one again\n"
    assert captions_of(source_of(tmp_path, CsvSource, text)) == [
        ("3.bmp", ("three", "three again")),
        ("1.bmp", ("one", "one again")),
    ]


def test_a_table_alone_names_images_below_its_folder(tmp_path: Path) -> None:
    source_of(tmp_path, JsonlSource, lines({"file_name": "images/2.bmp", "text": "two"}))
    source = JsonlSource(str(tmp_path / "table.jsonl"))
    (row,) = rows_of(source)
    assert (row.file_name, source.read(row)) == ("images/2.bmp", PICTURE)


def test_absolute_paths_below_the_place_are_taken_and_others_are_unsafe(tmp_path: Path) -> None:
    text = f"path,caption\n{tmp_path}/images/2.bmp,two\n/etc/passwd,secret\n"
    source = source_of(tmp_path, CsvSource, text)
    good, bad = rows_of(source)
    assert (good.file_name, good.reason, source.read(good)) == ("2.bmp", None, PICTURE)
    assert bad.reason is Reason.UNSAFE_PATH


@pytest.mark.parametrize(
    ("record", "captions"),
    [
        ({"caption": "a"}, ("a",)),
        ({"captions": ["a", "", "b"]}, ("a", "b")),
        ({"text": "a"}, ("a",)),
        ({"TEXT": "a"}, ("a",)),
        ({"sentences": [{"raw": "a", "tokens": ["a"]}]}, ("a",)),
        ({"Caption": " a "}, (" a ",)),
    ],
)
def test_captions_are_found_under_their_usual_names(
    record: dict[str, Any], captions: tuple[str, ...], tmp_path: Path
) -> None:
    assert captions_of(source_of(tmp_path, JsonlSource, lines({"image": "1.bmp", **record}))) == [("1.bmp", captions)]


def test_columns_are_taken_as_they_are_named(tmp_path: Path) -> None:
    record = {"file_name": "1.bmp", "thumb": "2.bmp", "caption": "short", "long": "long", "number": 7}
    named = {"image_column": "thumb", "caption_column": "long", "id_column": "number"}
    (row,) = rows_of(source_of(tmp_path, JsonlSource, lines(record), **named))
    assert (row.file_name, row.captions, row.image_id) == ("2.bmp", ("long",), 7)


def test_ids_of_the_table_count_if_all_are_integers(tmp_path: Path) -> None:
    whole = [{"image": f"{n}.bmp", "caption": "x", "id": str(10 + n)} for n in (1, 2)]
    assert [row.image_id for row in rows_of(source_of(tmp_path, JsonlSource, lines(*whole)))] == [11, 12]
    mixed = [*whole, {"image": "3.bmp", "caption": "x", "id": "third"}]
    assert [row.image_id for row in rows_of(source_of(tmp_path, JsonlSource, lines(*mixed)))] == [
        id_of("1.bmp"),
        id_of("2.bmp"),
        id_of("3.bmp"),
    ]


def test_an_id_that_two_images_have_rejects_the_second(tmp_path: Path) -> None:
    text = "image,caption,image_id\n1.bmp,one,5\n2.bmp,two,5\n1.bmp,one again,5\n"
    first, second = rows_of(source_of(tmp_path, CsvSource, text))
    assert (first.reason, first.captions) == (None, ("one", "one again"))
    assert (second.reason, second.detail) == (Reason.DUPLICATE_ID, "row 0 already has id 5")


@pytest.mark.parametrize("record", [{"image": None}, {"image": 7}, {"image": ""}, {"other": "1.bmp"}])
def test_an_entry_without_a_name_is_a_rejected_row(record: dict[str, Any], tmp_path: Path) -> None:
    rows = rows_of(
        source_of(tmp_path, JsonlSource, lines({"image": "1.bmp", "caption": "a"}, {**record, "caption": "b"}))
    )
    assert [row.reason for row in rows] == [None, Reason.MISSING_FILE]


def test_blank_captions_are_counted_and_their_rows_rejected(tmp_path: Path) -> None:
    records = [
        {"image": "1.bmp", "caption": "a"},
        {"image": "2.bmp", "caption": None},
        {"image": "3.bmp", "caption": 3},
    ]
    source = source_of(tmp_path, JsonlSource, lines(*records))
    assert source.info().blank_captions == 2
    assert [(row.reason, row.detail) for row in rows_of(source)] == [
        (None, ""),
        (Reason.NO_CAPTION, ""),
        (Reason.NO_CAPTION, "its caption is a number, not text"),
    ]


def test_content_is_that_of_the_rows_and_not_of_the_packing(tmp_path: Path) -> None:
    text = lines({"image": "1.bmp", "caption": "a", "width": 3})
    found = [source_of(tmp_path, JsonlSource, text).info().content]
    found.append(source_of(tmp_path, JsonlSource, gzip.compress(text.replace("3", "4").encode())).info().content)
    assert found[0] == found[1]
    for other in (
        {"image": "1.bmp", "caption": "b"},
        {"image": "2.bmp", "caption": "a"},
        {"image": "1.bmp", "caption": "a", "id": 1},
    ):
        assert source_of(tmp_path, JsonlSource, lines(other)).info().content != found[0]


# ---- files as they are written -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_packed_tables_are_read(pack: Any, tmp_path: Path) -> None:
    text = lines({"image": "1.bmp", "caption": "a"}).encode()
    assert captions_of(source_of(tmp_path, JsonlSource, pack(text))) == [("1.bmp", ("a",))]


@pytest.mark.parametrize(
    "text",
    [
        'image,caption\n1.bmp,"a, b"\n',
        "\ufeffimage;caption\r\n1.bmp;a, b\r\n",
        "image\tcaption\n1.bmp\ta, b\n",
        "image_name| comment_number| caption\n1.bmp| 0| a, b\n",
        'Image , Caption\n1.bmp,"a, b"',
        ',image,caption\n0,1.bmp,"a, b"\n',
    ],
    ids=["comma", "semicolon of a spreadsheet", "tab", "bar of Flickr30k", "spaces", "index of pandas"],
)
def test_delimiters_are_recognised(text: str, tmp_path: Path) -> None:
    assert captions_of(source_of(tmp_path, CsvSource, text)) == [("1.bmp", ("a, b",))]


def test_quotes_of_csv_hold_delimiters_lines_and_quotes(tmp_path: Path) -> None:
    text = 'image,caption\n1.bmp,"a\nb, ""c"""\n2.bmp,plain "quoted" words\n'
    assert captions_of(source_of(tmp_path, CsvSource, text)) == [
        ("1.bmp", ('a\nb, "c"',)),
        ("2.bmp", ('plain "quoted" words',)),
    ]


def test_quotes_without_a_rule_are_characters_where_tabs_divide(tmp_path: Path) -> None:
    text = 'image\tcaption\n1.bmp\t"stop" sign\n2.bmp\t"no end\n3.bmp\tthree\n'
    assert captions_of(source_of(tmp_path, CsvSource, text)) == [
        ("1.bmp", ('"stop" sign',)),
        ("2.bmp", ('"no end',)),
        ("3.bmp", ("three",)),
    ]


def test_a_line_with_too_few_values_is_a_row_without_a_caption(tmp_path: Path) -> None:
    """Flickr30k has one."""
    rows = rows_of(source_of(tmp_path, CsvSource, "image|number|caption\n1.bmp|0|a\n2.bmp|4 b\n"))
    assert [(row.file_name, row.reason) for row in rows] == [("1.bmp", None), ("2.bmp", Reason.NO_CAPTION)]


def test_separators_of_unicode_stay_in_a_caption(tmp_path: Path) -> None:
    text = '{"image": "1.bmp", "caption": "a\u2028b\x85c"}\n'
    assert captions_of(source_of(tmp_path, JsonlSource, text)) == [("1.bmp", ("a\u2028b\x85c",))]


def test_ten_thousand_captions_of_one_image_are_all_kept(tmp_path: Path) -> None:
    text = "image,caption\n" + "".join(f"1.bmp,caption {n}\n" for n in range(10_000))
    info = source_of(tmp_path, CsvSource, text).info()
    assert (info.rows, info.captions, info.slots) == (1, 10_000, 10_000)


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "sentence"),
    [
        (JsonlSource, '{"image": "1.bmp", "caption": "a"}\n{"image": ', "Line 2 of {table} is broken: it ends early"),
        (JsonlSource, '\n\n["1.bmp", "a"]\n', "Line 3 of {table} is broken: it is ['1.bmp', 'a'], and no object"),
        (JsonlSource, '{"image": "1.bmp", "image": "2.bmp", "caption": "a"}', "Line 1 of {table} is broken: the key"),
        (JsonlSource, b'{"image": "1.bmp", "caption": "caf\xe9"}', "{table} cannot be read: it is not UTF-8"),
        (JsonlSource, "", "{table} has no entries"),
        (JsonlSource, gzip.compress(b'{"image": "1.bmp"}' * 100)[:-9], "{table} cannot be unpacked: its end"),
        (JsonlSource, '{"picture": "1.bmp", "caption": "a"}', "has no column of file names under a usual name"),
        (JsonlSource, '{"image": "1.bmp", "title": "a"}', "has no column of captions under a usual name"),
        (CsvSource, "1.bmp,a dog\n2.bmp,a cat\n", "{table} has no header with a usual name: its first line is '1.bmp"),
        (CsvSource, "\nimage,caption\n", "{table} has no header: its first line is empty"),
        (CsvSource, "image,caption,caption\n1.bmp,a,b\n", "{table} has two columns of one name"),
        (CsvSource, "image,caption\n1.bmp,a\n2.bmp,a dog, running\n", "Line 3 of {table} is broken: it has 3 values"),
        (CsvSource, 'image,caption\n1.bmp,a\n2.bmp,"no end\n3.bmp,c\n', "Line 3 of {table} is broken"),
        (CsvSource, f"image,caption\n1.bmp,{'a' * 200_000}\n", "Line 2 of {table} is broken: field larger than"),
    ],
    ids=[
        *("cut line", "no object", "doubled key", "not UTF-8", "empty", "cut packing", "no image", "no caption"),
        *("no header", "empty header", "doubled column", "unquoted comma", "open quote", "huge field"),
    ],
)  # fmt: skip
def test_a_damaged_table_is_refused_in_a_sentence_that_names_the_line(
    kind: Table, text: str | bytes, sentence: str, tmp_path: Path
) -> None:
    source = source_of(tmp_path, kind, text)
    assert sentence.format(table=source.captions) in said(source)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (CsvSource, "url,caption\nhttp://example.org/1.jpg,a\n"),
        (JsonlSource, '{"URL": "http://example.org/1.jpg", "TEXT": "a"}\n'),
        (CsvSource, "image,caption\nhttps://example.org/1.jpg,a\n"),
    ],
)
def test_a_table_of_web_addresses_names_the_program_that_downloads_them(kind: Table, text: str, tmp_path: Path) -> None:
    sentence = said(source_of(tmp_path, kind, text))
    assert "lists web addresses of images" in sentence
    assert f"`img2dataset --url_list {tmp_path}/table." in sentence


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    text = "image,caption\n1.bmp,a\n"
    sentence = said(source_of(tmp_path, CsvSource, text, caption_column="titel"))
    assert "has no column 'titel' (dataset.source.caption_column): its columns are 'image', 'caption'" in sentence


def test_no_table_at_the_place_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="There is no JSONL file at"):
        JsonlSource(str(tmp_path / "nowhere.jsonl")).info()
