"""What sources of plain files tell a user to do works."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest
from builders.advice import told
from fsspec.implementations.memory import MemoryFileSystem

import daskt2i
from daskt2i.sources.fake import bitmap
from daskt2i.sources.folder import FolderSource
from daskt2i.sources.karpathy import KarpathySource
from daskt2i.sources.table import CsvSource, JsonlSource

PICTURE = bitmap(40, 36, (1, 2, 3))
LINE = '{"file_name": "a.bmp", "caption": "a dog"}\n'


def fill(folder: Path, **files: str) -> Path:
    """A folder with the picture `a.bmp`, and files whose names are written with `_` in place of the point."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.bmp").write_bytes(PICTURE)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return folder


def rows(source: Any) -> int:
    return int(source.info().rows)


# A folder.


def test_a_folder_of_pictures_is_read_where_one_without_any_was_refused(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with told("sources/folder.py:FolderSource._read_index SourceError"):
        rows(FolderSource(str(tmp_path / "none")))
    assert rows(FolderSource(str(fill(tmp_path / "some", a_txt="a dog")))) == 1


@pytest.mark.parametrize("how", ["text", "metadata"])
def test_captions_beside_a_picture_or_in_metadata_are_found(how: str, tmp_path: Path) -> None:
    source = FolderSource(str(fill(tmp_path)))
    with told("sources/folder.py:FolderSource._read_index SourceError"):
        rows(source)
    fill(tmp_path, **({"a_txt": "a dog"} if how == "text" else {"metadata_jsonl": LINE}))
    assert source.info().captions == 1


def test_one_of_two_metadata_files_is_read(tmp_path: Path) -> None:
    source = FolderSource(str(fill(tmp_path, metadata_jsonl=LINE, metadata_csv="file_name,caption\na.bmp,a dog")))
    with told("sources/folder.py:FolderSource._add_listed SourceError"):
        rows(source)
    (tmp_path / "metadata.csv").unlink()
    assert source.info().captions == 1


class FailingDisk(MemoryFileSystem):
    """A file system whose texts, or whose pictures, cannot be read while `broken` says so."""

    protocol = "failing"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    broken = ""
    cachable = False

    def cat_file(self, path: str, start: Any = None, end: Any = None, **more: Any) -> bytes:
        if self.broken and path.endswith(self.broken):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return bytes(super().cat_file(path, start, end, **more))

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return "/" + str(path).removeprefix("failing://").strip("/")


@pytest.fixture
def failing() -> type[FailingDisk]:
    fsspec.register_implementation("failing", FailingDisk, clobber=True)
    FailingDisk().pipe({"/photos/a.bmp": PICTURE, "/photos/a.txt": b"a dog"})
    return FailingDisk


def test_captions_are_read_when_the_place_can_be_read(
    failing: type[FailingDisk], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FolderSource("failing://photos")
    monkeypatch.setattr(failing, "broken", ".txt")
    with told("sources/folder.py:_read SourceError"):
        rows(source)
    monkeypatch.setattr(failing, "broken", "")
    assert rows(source) == 1


def test_a_look_shows_pictures_when_the_place_can_be_read(
    failing: type[FailingDisk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failing, "broken", ".bmp")
    with told("insights/first_rows.py:_seen SourceError"):
        daskt2i.look("failing://photos", source="folder")
    monkeypatch.setattr(failing, "broken", "")
    assert daskt2i.look("failing://photos").first[0].width == 40


def test_a_list_names_pictures_of_a_server_that_has_no_listing(tmp_path: Path) -> None:
    with told("sources/files/opening.py:Pictures.names SourceError"):
        rows(FolderSource("http://127.0.0.1:9/photos"))
    assert rows(JsonlSource("http://127.0.0.1:9/photos", str(fill(tmp_path, list_jsonl=LINE) / "list.jsonl"))) == 1


# A table.


def table(folder: Path, kind: type[CsvSource] | type[JsonlSource], text: str | bytes) -> CsvSource | JsonlSource:
    path = fill(folder) / "table"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return kind(str(path))


@pytest.mark.parametrize(
    ("place", "kind", "wrong", "right"),
    [
        ("sources/listed/records.py:read_records SourceError", JsonlSource, b"\x28\xb5\x2f\xfd\0", LINE),
        ("sources/listed/records.py:read_records SourceError", JsonlSource, LINE.encode()[:-4] + b"\xe9", LINE),
        ("sources/listed/records.py:read_records SourceError", CsvSource, "image,text\n", "image,text\na.bmp,a dog"),
        (
            "sources/listed/records.py:_dialect SourceError",
            CsvSource,
            "\na.bmp,a dog",
            "file_name,caption\na.bmp,a dog",
        ),
        ("sources/listed/records.py:_dialect SourceError", CsvSource, "a.bmp,a dog", "file_name,caption\na.bmp,a dog"),
        ("sources/listed/records.py:_dialect SourceError", CsvSource, "image,text,text\n", "image,text\na.bmp,a dog"),
        ("sources/listed/columns.py:columns_of SourceError", JsonlSource, LINE.replace("file_name", "picture"), LINE),
    ],
)
def test_a_table_that_is_written_as_it_is_said_is_read(
    place: str, kind: type[CsvSource] | type[JsonlSource], wrong: str | bytes, right: str, tmp_path: Path
) -> None:
    with told(place):
        rows(table(tmp_path, kind, wrong))
    assert rows(table(tmp_path, kind, right)) == 1


def test_a_column_that_is_there_is_taken(tmp_path: Path) -> None:
    place = str(fill(tmp_path, list_jsonl=LINE.replace("caption", "title")) / "list.jsonl")
    with told("sources/listed/columns.py:columns_of SourceError"):
        rows(JsonlSource(place))
    with told("sources/listed/columns.py:columns_of SourceError"):
        rows(JsonlSource(place, caption_column="titel"))
    assert rows(JsonlSource(place, caption_column="title")) == 1


def test_what_img2dataset_makes_of_web_addresses_is_read(tmp_path: Path) -> None:
    """Its files: a number as the name, and the caption in a text and in a JSON file."""
    with told("sources/listed/web_addresses.py:lists_web_addresses SourceError") as error:
        rows(table(tmp_path / "list", CsvSource, "url,caption\nhttp://127.0.0.1:9/a.jpg,a dog"))
    assert "img2dataset --url_list" in str(error.value)
    made = fill(tmp_path / "made", a_txt="a dog", a_json='{"caption": "a dog", "url": "http://127.0.0.1:9/a.jpg"}')
    assert FolderSource(str(made)).rows(0, 9)[0].captions == ("a dog",)


def test_a_list_at_its_path_is_read(tmp_path: Path) -> None:
    with told("sources/listed/source.py:bytes_of SourceMissing"):
        rows(JsonlSource(str(tmp_path), str(tmp_path / "lst.jsonl")))
    assert rows(JsonlSource(str(tmp_path), str(fill(tmp_path, list_jsonl=LINE) / "list.jsonl"))) == 1


# Karpathy's splits.


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        ("sources/karpathy.py:_entries SourceError", "{"),
        ("sources/karpathy.py:_entries SourceError", '{"images": []}'),
        ("sources/karpathy.py:_entries SourceError", '{"images": [{"filename": "a.bmp", "sentences": []}, 7]}'),
    ],
)
def test_a_file_of_the_form_that_is_expected_is_read(place: str, wrong: str, tmp_path: Path) -> None:
    source = KarpathySource(str(fill(tmp_path, dataset_json=wrong)), str(tmp_path / "dataset.json"))
    with told(place):
        rows(source)
    entry = {"filename": "a.bmp", "split": "val", "sentences": [{"raw": "a dog"}]}
    fill(tmp_path, dataset_json=json.dumps({"images": [entry]}))
    assert rows(source) == 1


@pytest.mark.parametrize("split", ["val", None])
def test_a_split_that_is_there_or_none_is_read(split: str | None, tmp_path: Path) -> None:
    entry = {"filename": "a.bmp", "split": "val", "sentences": [{"raw": "a dog"}]}
    place = (str(fill(tmp_path, dataset_json=json.dumps({"images": [entry]}))), str(tmp_path / "dataset.json"))
    with told("sources/karpathy.py:KarpathySource._read_index SourceError"):
        rows(KarpathySource(*place, split="dev"))
    assert rows(KarpathySource(*place, split=split)) == 1


# Names and guesses.


def test_a_source_by_its_name_or_class_path_is_taken(tmp_path: Path) -> None:
    place = str(fill(tmp_path, a_txt="a dog"))
    with told("sources/names.py:class_of ConfigError"):
        daskt2i.look(place, source="folders")
    found = [daskt2i.look(place, source=name) for name in ("folder", "daskt2i.sources.folder.FolderSource")]
    assert [one.source for one in found] == ["folder", "folder"]


def test_a_place_that_is_not_clear_is_read_by_the_source_that_is_named(tmp_path: Path) -> None:
    place = fill(tmp_path, list_data=LINE) / "list.data"
    with told("sources/names.py:_unknown ConfigError"):
        daskt2i.look(str(place))
    assert daskt2i.look(str(place), source="jsonl").info.rows == 1


def test_an_address_that_can_be_looked_at_is_read(failing: type[FailingDisk]) -> None:
    with told("sources/names.py:_names SourceError"):
        daskt2i.look("nosuchprotocol://photos")
    assert daskt2i.look("failing://photos").info.rows == 1


def test_a_place_of_images_is_taken(tmp_path: Path) -> None:
    with told("sources/names.py:_names ConfigError"):
        daskt2i.look(str(tmp_path / "nowhere"))
    with told("sources/names.py:_names ConfigError"):
        daskt2i.look("memory://nowhere/at/all")
    assert daskt2i.look(str(fill(tmp_path, a_txt="a dog"))).info.rows == 1


def test_images_with_a_source_are_taken(tmp_path: Path) -> None:
    with told("session/data/choice.py:choose_source ConfigError"):
        daskt2i.Run("demo", tmp_path / "run", source="folder", progress=False)
    run = daskt2i.Run(
        "demo", tmp_path / "run", source="folder", images=str(fill(tmp_path, a_txt="a dog")), progress=False
    )
    assert run.look().info.rows == 1


def test_a_caption_file_goes_with_a_source_that_reads_it_and_without_one_with_folder(tmp_path: Path) -> None:
    place = str(fill(tmp_path, a_txt="a dog", list_jsonl=LINE))
    with told("session/data/choice.py:_require_fit ConfigError"):
        daskt2i.look(place, f"{place}/list.jsonl", source="folder")
    assert daskt2i.look(place, source="folder").info.rows == 1
    assert daskt2i.look(place, f"{place}/list.jsonl", source="jsonl").info.rows == 1


def test_a_caption_file_beside_the_images_is_read_as_coco(tmp_path: Path) -> None:
    document = {"images": [{"id": 1, "file_name": "a.bmp"}], "annotations": [{"image_id": 1, "caption": "a dog"}]}
    place = str(fill(tmp_path, captions_json=json.dumps(document)))
    with told("session/data/choice.py:_require_fit ConfigError"):
        daskt2i.look(place, source="coco")
    assert daskt2i.look(place, f"{place}/captions.json", source="coco").info.rows == 1
