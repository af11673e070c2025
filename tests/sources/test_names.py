"""Which source reads a place: by name, and by a look at the place."""

from __future__ import annotations

import gzip
import importlib
import json
from pathlib import Path

import fsspec
import pytest

from daskt2i.config.component import SHIPPED
from daskt2i.errors import ConfigError
from daskt2i.session.data.choice import choose_source
from daskt2i.sources.names import NAMES, READS, class_of, guessed, name_of

COCO = json.dumps({"info": {}, "images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []})
KARPATHY = json.dumps({"images": [{"filename": "1.jpg", "sentences": [{"raw": "a"}], "split": "val"}]})


def fill(folder: Path, *names: str, text: str = "x") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_every_name_has_a_class_that_a_run_folder_may_name_and_a_line_for_messages() -> None:
    assert set(NAMES.values()) <= SHIPPED
    assert READS.keys() == NAMES.keys()
    for name, path in NAMES.items():
        module, _, kind = path.rpartition(".")
        assert hasattr(importlib.import_module(module), kind)
        assert name_of(path) == name


def test_a_class_path_is_taken_as_it_is_and_an_unknown_name_is_refused() -> None:
    assert class_of("mylab.sources.TextFiles") == "mylab.sources.TextFiles" == name_of("mylab.sources.TextFiles")
    with pytest.raises(ConfigError, match=r"There is no source named 'foldr'.* Did you mean folder\?"):
        class_of("foldr")


@pytest.mark.parametrize(
    ("files", "name", "why"),
    [
        (("a/1.jpg", "a/1.txt"), "folder", "its pictures have .txt files beside them"),
        (("1.PNG", "1.caption"), "folder", "its pictures have .caption files beside them"),
        (("1.jpg", "1.json", "2.jpg"), "folder", "its pictures have .json files beside them"),
        (("train/1.jpg", "train/metadata.jsonl"), "folder", "it has a metadata.jsonl"),
        (("metadata.csv",), "folder", "it has a metadata.csv"),
        (("1.jpg", "2.jpg"), "folder", "it is a folder of pictures"),
    ],
)
def test_a_folder_is_recognised_by_its_files(files: tuple[str, ...], name: str, why: str, tmp_path: Path) -> None:
    assert guessed(str(fill(tmp_path, *files))) == (name, why)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        *(("list.jsonl", "jsonl"), ("list.ndjson", "jsonl"), ("list.JSONL.gz", "jsonl")),
        *(("list.csv", "csv"), ("list.tsv.xz", "csv"), ("pictures.zip", "folder")),
        *(("00000.tar", "webdataset"), ("00000.tar.gz", "webdataset"), ("a.parquet", "parquet"), ("a.arrow", "hf")),
    ],
)
def test_a_file_is_recognised_by_its_ending(file: str, name: str, tmp_path: Path) -> None:
    assert guessed(str(fill(tmp_path, file) / file)).name == name


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (("00000.tar", "00000.parquet", "00000_stats.json"), "webdataset"),
        (("00000.parquet", "00000_stats.json"), "parquet"),
        (("00000.parquet", "00000/000000000.jpg", "00000/000000000.txt", "00000/000000000.json"), "folder"),
        (("dataset_dict.json", "train/data-00000-of-00001.arrow", "train/state.json"), "hf"),
    ],
    ids=["tars of img2dataset", "its Parquet files", "its files", "a saved data set"],
)
def test_a_folder_of_large_files_is_recognised_and_img2dataset_stands_for_that(
    files: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    fill(tmp_path, *files)
    assert guessed(str(tmp_path)).name == name
    path, (note,) = choose_source(str(tmp_path), None, "img2dataset", {})
    assert path == NAMES[name]
    assert f"is read as {name}, because" in note


@pytest.mark.parametrize("pattern", ["*.tar", "{00000..00009}.tar", "0000?.tar"])
def test_a_pattern_is_recognised_by_its_ending(pattern: str, tmp_path: Path) -> None:
    fill(tmp_path, "00000.tar")
    assert guessed(f"{tmp_path}/{pattern}").name == guessed(f"s3://bucket/{pattern}").name == "webdataset"


@pytest.mark.parametrize(("text", "name"), [(COCO, "coco"), (KARPATHY, "karpathy"), ("no json", "coco")])
@pytest.mark.parametrize("packed", [False, True])
def test_a_caption_file_is_recognised_by_its_beginning(text: str, name: str, packed: bool, tmp_path: Path) -> None:
    fill(tmp_path, "images/1.jpg")
    path = tmp_path / ("captions.json.gz" if packed else "captions.json")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert guessed(str(tmp_path / "images"), str(path)).name == name


def test_a_caption_file_that_is_a_table_is_recognised_by_its_ending(tmp_path: Path) -> None:
    fill(tmp_path, "images/1.jpg", "list.jsonl", "list.csv")
    assert [guessed(str(tmp_path / "images"), str(tmp_path / f"list.{kind}")).name for kind in ("jsonl", "csv")] == [
        "jsonl",
        "csv",
    ]


def test_a_caption_file_that_is_not_there_counts_as_that_of_coco(tmp_path: Path) -> None:
    """CocoSource says what is missing, as before there were names."""
    assert guessed(str(tmp_path), str(tmp_path / "nothing.json")).name == "coco"


def test_a_json_file_alone_is_that_of_karpathy_or_lacks_its_images(tmp_path: Path) -> None:
    assert guessed(str(fill(tmp_path, "dataset.json", text=KARPATHY) / "dataset.json")).name == "karpathy"
    with pytest.raises(ConfigError, match=r"a JSON file without its images\. .* \(captions\)"):
        guessed(str(fill(tmp_path, "captions.json", text=COCO) / "captions.json"))


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ((), "it is empty"),
        (("a.pdf", "b.pdf"), "it has 2 files, and none is a picture"),
        (("images/1.jpg", "captions.json"), r"no captions beside its pictures, but captions\.json\..* \(captions\)"),
    ],
)
def test_a_folder_that_could_be_several_things_lists_what_it_could_be(
    files: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        guessed(str(fill(tmp_path, *files)))
    assert all(f"{name}: {what}" in str(caught.value) for name, what in READS.items())


def test_an_unknown_ending_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its ending says nothing"):
        guessed(str(fill(tmp_path, "data.bin") / "data.bin"))
    with pytest.raises(ConfigError, match="There is nothing at"):
        guessed(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="There is nothing at"):
        guessed("memory://nowhere-at-all")


def test_an_address_is_looked_at(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/guessed/1.jpg": b"x", "/guessed/1.txt": b"x"})
    try:
        assert guessed("memory://guessed") == ("folder", "its pictures have .txt files beside them")
    finally:
        memory.rm("/guessed", recursive=True)
    assert guessed("https://example.org/list.jsonl").name == "jsonl"
