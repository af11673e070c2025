"""Karpathy's JSON files: their rows, their splits, and files that are something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daskt2i.errors import Reason, SourceError
from daskt2i.sources.fake import bitmap
from daskt2i.sources.karpathy import KarpathySource

ENTRIES: list[dict[str, Any]] = [
    {"filepath": "val2014", "filename": "a.bmp", "imgid": 0, "split": "test", "cocoid": 391895},
    {"filepath": "train2014", "filename": "b.bmp", "imgid": 1, "split": "train", "cocoid": 57870},
    {"filename": "c.bmp", "imgid": 2, "split": "train"},
]


def source_of(folder: Path, entries: Any = None, **arguments: Any) -> KarpathySource:
    listed = [
        {**entry, "sentids": [n], "sentences": [{"tokens": ["a"], "raw": f"A {n}.", "imgid": n}, {"raw": f"Also {n}."}]}
        for n, entry in enumerate(ENTRIES)
    ]
    for name in ("val2014/a.bmp", "train2014/b.bmp", "c.bmp"):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(bitmap(40, 36, (1, 2, 3)))
    document = {"images": listed if entries is None else entries, "dataset": "coco"}
    (folder / "dataset_coco.json").write_text(json.dumps(document))
    return KarpathySource(str(folder / "images"), str(folder / "dataset_coco.json"), **arguments)


def test_rows_have_the_raw_sentences_and_the_ids_of_coco(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    rows = source.rows(0, 9)
    assert [(row.image_id, row.file_name, row.captions) for row in rows] == [
        (391895, "val2014/a.bmp", ("A 0.", "Also 0.")),
        (57870, "train2014/b.bmp", ("A 1.", "Also 1.")),
        (2, "c.bmp", ("A 2.", "Also 2.")),
    ]
    assert all(source.read(row) for row in rows)


def test_a_split_keeps_its_images_alone_and_changes_the_content(tmp_path: Path) -> None:
    whole, train = source_of(tmp_path).info(), source_of(tmp_path, split="train").info()
    assert (train.rows, train.label) == (2, "train of dataset_coco.json (2 images, 4 captions)")
    assert train.content != whole.content


def test_an_unknown_split_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no image of the split 'dev' .*: its splits are 'test', 'train'"):
        source_of(tmp_path, split="dev").info()


def test_entries_that_cannot_be_used_are_rejected_rows(tmp_path: Path) -> None:
    sentences = [{"raw": "a"}]
    rows = source_of(
        tmp_path,
        [
            {"filename": "c.bmp", "sentences": sentences},
            {"filename": "../c.bmp", "sentences": sentences},
            {"filename": "d.bmp", "sentences": []},
            {"filename": "e.bmp"},
            {"sentences": sentences},
        ],
    ).rows(0, 9)
    assert [row.reason for row in rows] == [
        None,
        Reason.UNSAFE_PATH,
        Reason.NO_CAPTION,
        Reason.NO_CAPTION,
        Reason.MISSING_FILE,
    ]


@pytest.mark.parametrize("document", ["{}", "[]", '{"images": []}', '{"images": [7]}', '{"images": [{"id": 1}]}', "{"])
def test_another_json_file_is_refused_in_a_sentence(document: str, tmp_path: Path) -> None:
    source = source_of(tmp_path)
    (tmp_path / "dataset_coco.json").write_text(document)
    with pytest.raises(SourceError, match="is no file of Karpathy's splits"):
        source.info()


def test_an_entry_that_is_no_object_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Entry 1 of `images` .* is 7, and no object"):
        source_of(tmp_path, [{"filename": "c.bmp", "sentences": [{"raw": "a"}]}, 7]).info()
