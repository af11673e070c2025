"""A folder of pictures: its order, where captions come from, and what is wrong in folders of users."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from daskt2i.errors import Reason, RowRejected, SourceError, SourceMissing
from daskt2i.sources.fake import bitmap, colour
from daskt2i.sources.files.opening import Pictures
from daskt2i.sources.folder import FolderSource
from daskt2i.sources.identity import id_of
from daskt2i.types import Row

PICTURE = bitmap(40, 36, (10, 200, 30))


def fill(folder: Path, files: dict[str, bytes | str | None]) -> Path:
    """Write files; None is a picture."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PICTURE if data is None else data.encode() if isinstance(data, str) else data)
    return folder


def rows_of(source: FolderSource) -> list[Row]:
    return list(source.rows(0, source.info().rows))


def captions_of(source: FolderSource) -> dict[str, tuple[str, ...]]:
    return {row.file_name: row.captions for row in rows_of(source)}


def said(folder: Path, **arguments: Any) -> str:
    with pytest.raises(SourceError) as caught:
        FolderSource(str(folder), **arguments).info()
    return str(caught.value)


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_rows_are_sorted_by_path_whatever_a_listing_says(tmp_path: Path) -> None:
    names = ["b.jpg", "Z.JPG", "ä.png", "a/2.jpg", "a/10.jpg", "a.b/1.webp"]
    fill(tmp_path, dict.fromkeys(names) | {"b.txt": "b"})
    assert [row.file_name for row in rows_of(FolderSource(str(tmp_path)))] == sorted(names)
    assert Pictures(str(tmp_path), {}).names() == sorted([*names, "b.txt"])


def test_an_id_is_the_hash_of_the_path_and_stays_when_pictures_are_added(tmp_path: Path) -> None:
    fill(tmp_path, {"b.jpg": None, "b.txt": "b"})
    before = rows_of(FolderSource(str(tmp_path)))
    fill(tmp_path, {"a.jpg": None, "a.txt": "a"})
    after = rows_of(FolderSource(str(tmp_path)))
    assert [row.image_id for row in after] == [id_of("a.jpg"), id_of("b.jpg")]
    assert (before[0].index, after[1].index) == (0, 1)
    assert before[0].image_id == after[1].image_id == id_of("b.jpg") == 4398000100427835945


def test_content_changes_with_captions_and_names_and_not_with_the_place(tmp_path: Path) -> None:
    fill(tmp_path / "one", {"a.jpg": None, "a.txt": "a dog"})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    found = [FolderSource(str(tmp_path / name)).info().content for name in ("one", "two")]
    assert found[0] == found[1]
    (tmp_path / "two" / "a.txt").write_text("a cat")
    (tmp_path / "one" / "a.jpg").rename(tmp_path / "one" / "b.jpg")
    (tmp_path / "one" / "a.txt").rename(tmp_path / "one" / "b.txt")
    changed = [FolderSource(str(tmp_path / name)).info().content for name in ("one", "two")]
    assert len({str(one) for one in (found[0], *changed)}) == 3


def test_a_copy_reads_pictures_without_the_captions(tmp_path: Path) -> None:
    fill(tmp_path, {"a/1.jpg": None, "a/1.txt": "one", "metadata.jsonl": '{"file_name": "a/1.jpg", "text": "x"}'})
    source = FolderSource(str(tmp_path))
    row = rows_of(source)[0]
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "a/1.txt").unlink()
    assert pickle.loads(pickle.dumps(source)).read(row) == PICTURE


def test_hidden_files_are_no_rows(tmp_path: Path) -> None:
    hidden = [".git/a.jpg", "a/.DS_Store", "a/._1.jpg", "__MACOSX/a/._1.jpg", ".cache/b.jpg"]
    fill(tmp_path, {"a/1.jpg": None, "a/1.txt": "one", **dict.fromkeys(hidden)})
    assert [row.file_name for row in rows_of(FolderSource(str(tmp_path)))] == ["a/1.jpg"]


def test_a_link_to_a_folder_is_a_rejected_row_and_is_not_entered(tmp_path: Path) -> None:
    fill(tmp_path / "outside", {"1.jpg": None, "1.txt": "one"})
    fill(tmp_path / "inside", {"a.jpg": None, "a.txt": "a"})
    (tmp_path / "inside" / "more").symlink_to(tmp_path / "outside")
    (tmp_path / "inside" / "round").symlink_to(tmp_path / "inside")
    rows = rows_of(FolderSource(str(tmp_path / "inside")))
    assert [(row.file_name, row.reason) for row in rows] == [
        ("a.jpg", None),
        ("more", Reason.UNSAFE_PATH),
        ("round", Reason.UNSAFE_PATH),
    ]


def test_a_picture_that_is_a_link_out_of_the_folder_is_not_opened(tmp_path: Path) -> None:
    fill(tmp_path / "outside", {"1.jpg": None})
    fill(tmp_path / "inside", {"a.txt": "a", "b.jpg": None, "b.txt": "b"})
    (tmp_path / "inside" / "a.jpg").symlink_to(tmp_path / "outside" / "1.jpg")
    source = FolderSource(str(tmp_path / "inside"))
    with pytest.raises(RowRejected, match="unsafe-path"):
        source.read(rows_of(source)[0])


@pytest.mark.parametrize("name", ["with space.jpg", "Übung – ä.jpg", "two\nlines.jpg", "原っぱ/🦒.jpg", "a%20b#?.jpg"])
def test_a_picture_of_any_name_has_its_captions_and_is_read(name: str, tmp_path: Path) -> None:
    fill(tmp_path, {name: None, str(Path(name).with_suffix(".txt")): "a caption"})
    source = FolderSource(str(tmp_path))
    (row,) = rows_of(source)
    assert (row.file_name, row.captions, source.read(row)) == (name, ("a caption",), PICTURE)


def test_a_name_that_is_not_text_is_a_rejected_row(tmp_path: Path) -> None:
    fill(tmp_path, {"a.jpg": None, "a.txt": "a"})
    os.close(os.open(os.fsencode(tmp_path) + b"/b\xff.jpg", os.O_CREAT))
    rows = rows_of(FolderSource(str(tmp_path)))
    assert [row.reason for row in rows] == [None, Reason.MISSING_FILE]


# ---- captions beside a picture -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "captions"),
    [
        ("a.txt", "one\r\n\n  \n two \nthree", ("one", " two ", "three")),
        ("a.caption", "one", ("one",)),
        ("a.TXT", "one", ("one",)),
        ("a.json", '{"caption": "one", "width": 3}', ("one",)),
        ("a.json", '{"captions": ["one", "two", " "]}', ("one", "two")),
        ("a.json", '{"text": "one"}', ("one",)),
        ("a.json", '{"sentences": [{"raw": "one", "tokens": ["one"]}]}', ("one",)),
    ],
)
def test_captions_stand_in_a_file_beside_the_picture(
    name: str, text: str, captions: tuple[str, ...], tmp_path: Path
) -> None:
    fill(tmp_path, {"a.jpg": None, name: text})
    assert captions_of(FolderSource(str(tmp_path))) == {"a.jpg": captions}


def test_the_first_file_with_a_caption_counts(tmp_path: Path) -> None:
    """img2dataset writes the caption into a text file and into a JSON file."""
    fill(tmp_path, {"a.jpg": None, "a.json": '{"caption": "in json"}', "a.txt": "in text"})
    fill(tmp_path, {"b.jpg": None, "b.json": '{"caption": "in json"}', "b.txt": "\n"})
    found = FolderSource(str(tmp_path))
    assert captions_of(found) == {"a.jpg": ("in text",), "b.jpg": ("in json",)}


def test_a_caption_of_another_key_is_found_by_its_name(tmp_path: Path) -> None:
    fill(tmp_path, {"a.jpg": None, "a.json": '{"caption": "short", "long_caption": "long"}'})
    assert captions_of(FolderSource(str(tmp_path), caption_column="long_caption")) == {"a.jpg": ("long",)}


@pytest.mark.parametrize(
    ("name", "data", "detail"),
    [
        ("b.txt", b"caf\xe9 au lait", "b.txt: it is not UTF-8 text"),
        ("b.json", b'{"caption": "b"', "b.json: it ends early"),
        ("b.json", b'["b"]', "b.json is no JSON object"),
        ("b.json", b'{"title": "b"}', "b.json has no key caption"),
        ("b.json", b'{"caption": 7}', "its caption is a number, not text"),
        ("b.txt", b" \n\n", ""),
    ],
)
def test_a_file_of_captions_that_cannot_be_used_rejects_its_row_alone(
    name: str, data: bytes, detail: str, tmp_path: Path
) -> None:
    fill(tmp_path, {"a.jpg": None, "a.txt": "a", "b.jpg": None, name: data})
    good, bad = rows_of(FolderSource(str(tmp_path)))
    assert good.reason is None
    assert bad.reason is Reason.NO_CAPTION
    assert bad.detail.startswith(detail)


def test_captions_without_a_picture_and_pictures_without_captions_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, {"a.jpg": None, "a.txt": "a", "b.txt": "b", "c/d.json": '{"caption": "d"}', "e.jpg": None})
    source = FolderSource(str(tmp_path))
    assert (source.info().rows, source.info().orphan_captions, source.info().captions) == (2, 2, 1)
    assert rows_of(source)[1].reason is Reason.NO_CAPTION


def test_ten_thousand_captions_of_one_picture_are_all_kept(tmp_path: Path) -> None:
    lines = [f"caption {n}" for n in range(10_000)]
    fill(tmp_path, {"a.jpg": None, "a.txt": "\n".join(lines)})
    info = FolderSource(str(tmp_path)).info()
    assert (info.captions, info.slots) == (10_000, 10_000)


# ---- metadata ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata_lists_pictures_relative_to_its_folder(kind: str, tmp_path: Path) -> None:
    lines = [{"file_name": "1.jpg", "text": "one"}, {"file_name": "deep/2.jpg", "text": "two"}]
    lines.append({"file_name": "1.jpg", "text": "one again"})
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    if kind == "csv":
        text = "file_name,text\n" + "".join(f"{line['file_name']},{line['text']}\n" for line in lines)
    fill(tmp_path, {f"train/metadata.{kind}": text, "train/1.jpg": None, "train/deep/2.jpg": None})
    assert captions_of(FolderSource(str(tmp_path))) == {
        "train/1.jpg": ("one", "one again"),
        "train/deep/2.jpg": ("two",),
    }


def test_every_entry_of_metadata_and_every_picture_beside_it_is_a_row(tmp_path: Path) -> None:
    listed = [
        {"file_name": "a.jpg", "caption": "a", "id": 7},
        {"file_name": "gone.jpg", "caption": "gone", "id": 8},
        {"file_name": "../up.jpg", "caption": "up", "id": 9},
        {"file_name": "b.jpg", "caption": "b", "id": 7},
        {"caption": "nameless", "id": 10},
    ]
    text = "\n".join(map(json.dumps, listed))
    fill(tmp_path, {"metadata.jsonl": text, "a.jpg": None, "b.jpg": None, "c.jpg": None, "c.txt": "c", "d.jpg": None})
    rows = {row.file_name: row for row in rows_of(FolderSource(str(tmp_path)))}
    assert {name: row.reason for name, row in rows.items()} == {
        "": Reason.MISSING_FILE,
        "../up.jpg": Reason.UNSAFE_PATH,
        "a.jpg": None,
        "b.jpg": Reason.DUPLICATE_ID,
        "c.jpg": None,
        "d.jpg": Reason.NO_CAPTION,
        "gone.jpg": Reason.MISSING_FILE,
    }
    assert list(rows) == sorted(rows)
    assert rows["c.jpg"].captions == ("c",)
    assert (rows["a.jpg"].image_id, rows["c.jpg"].image_id) == (7, id_of("c.jpg"))


def test_metadata_finds_a_file_whose_accents_are_two_characters(tmp_path: Path) -> None:
    stored = unicodedata.normalize("NFD", "é.jpg")
    fill(tmp_path, {stored: None, "metadata.jsonl": '{"file_name": "é.jpg", "text": "e"}'})
    source = FolderSource(str(tmp_path))
    (row,) = rows_of(source)
    assert (row.file_name, row.captions, row.image_id) == (stored, ("e",), id_of("é.jpg"))


def test_a_broken_line_of_metadata_is_named(tmp_path: Path) -> None:
    fill(tmp_path, {"a.jpg": None, "metadata.jsonl": '{"file_name": "a.jpg", "text": "a"}\n{"file_name": '})
    assert f"Line 2 of {tmp_path}/metadata.jsonl is broken: it ends early" in said(tmp_path)


# ---- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["empty", "no pictures", "no captions", "metadata twice"])
def test_a_folder_that_cannot_be_a_data_set_is_refused_in_a_sentence(what: str, tmp_path: Path) -> None:
    twice: dict[str, bytes | str | None] = {"a.jpg": None, "metadata.csv": "file_name,text", "metadata.jsonl": "{}"}
    fill(
        tmp_path,
        {
            "empty": {},
            "no pictures": {"a.pdf": "x", "a.txt": "x"},
            "no captions": {"a.jpg": None, "b.jpg": None},
            "metadata twice": twice,
        }[what],
    )
    assert {
        "empty": "There are no pictures in",
        "no pictures": "There are no pictures in",
        "no captions": "has a caption (2 rows)",
        "metadata twice": "keep one of the two",
    }[what] in said(tmp_path)


def test_a_folder_of_folders_has_the_pictures_of_all(tmp_path: Path) -> None:
    fill(tmp_path, {f"{n}/{n}/{n}/{n}.jpg": None for n in range(5)} | {f"{n}/{n}/{n}/{n}.txt": "x" for n in range(5)})
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    assert FolderSource(str(tmp_path)).info().rows == 5


def test_nothing_at_the_place_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="There are no images at"):
        FolderSource(str(tmp_path / "nowhere")).info()


@pytest.mark.slow
def test_a_hundred_thousand_pictures_are_listed_with_their_captions(tmp_path: Path) -> None:
    for folder in range(100):
        (tmp_path / f"{folder:03d}").mkdir()
        for n in range(1000):
            stem = tmp_path / f"{folder:03d}" / f"{n:04d}"
            stem.with_suffix(".bmp").touch()
            stem.with_suffix(".txt").write_text(f"picture {colour(n)}")
    info = FolderSource(str(tmp_path)).info()
    assert (info.rows, info.captions) == (100_000, 100_000)
