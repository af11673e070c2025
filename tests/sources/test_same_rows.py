"""One set of photographs in every form: equal rows give equal latents, and bad rows the same reasons."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.workflows import fake_settings, finish, with_parts
from numpy.typing import NDArray

from daskt2i.config.component import Component
from daskt2i.errors import Reason
from daskt2i.sources.names import NAMES
from daskt2i.store.dataset import open_store

Records = list[dict[str, Any]]
"""`file_name`, `captions` and `id` of each image of a COCO file, in its order."""


def records_of(coco: Path) -> Records:
    document = json.loads((coco / "captions.json").read_text(encoding="utf-8"))
    said: dict[int, list[str]] = {}
    for entry in document["annotations"]:
        said.setdefault(entry["image_id"], []).append(entry["caption"] or "")
    return [
        {"file_name": image["file_name"], "captions": said.get(image["id"], []), "id": image["id"]}
        for image in document["images"]
    ]


def pictures_in(coco: Path, folder: Path) -> Path:
    shutil.copytree(coco / "images", folder)
    return folder


def as_coco(coco: Path, records: Records, folder: Path) -> dict[str, str]:
    annotations = [{"image_id": record["id"], "caption": text} for record in records for text in record["captions"]]
    document = {"images": records, "annotations": annotations}
    (folder / "captions.json").write_text(json.dumps(document))
    return {"class": NAMES["coco"], "images": str(coco / "images"), "captions": str(folder / "captions.json")}


def as_texts(coco: Path, records: Records, folder: Path) -> dict[str, str]:
    place = pictures_in(coco, folder / "texts")
    for record in records:
        (place / record["file_name"]).with_suffix(".txt").write_text("\n".join(record["captions"]), encoding="utf-8")
    return {"class": NAMES["folder"], "images": str(place)}


def as_metadata(coco: Path, records: Records, folder: Path) -> dict[str, str]:
    place = pictures_in(coco, folder / "metadata")
    (place / "metadata.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return {"class": NAMES["folder"], "images": str(place)}


def as_jsonl(coco: Path, records: Records, folder: Path) -> dict[str, str]:
    (folder / "list.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return {"class": NAMES["jsonl"], "images": str(coco / "images"), "captions": str(folder / "list.jsonl")}


def as_csv(coco: Path, records: Records, folder: Path) -> dict[str, str]:
    stream = io.StringIO(newline="")
    table = csv.writer(stream)
    table.writerow(["file_name", "caption", "image_id"])
    table.writerows([r["file_name"], text, r["id"]] for r in records for text in r["captions"] or [""])
    (folder / "list.csv").write_text(stream.getvalue(), encoding="utf-8", newline="")
    return {"class": NAMES["csv"], "images": str(coco / "images"), "captions": str(folder / "list.csv")}


def as_karpathy(coco: Path, records: Records, folder: Path) -> dict[str, str]:
    entries = [
        {
            "filename": r["file_name"],
            "cocoid": r["id"],
            "split": "val",
            "sentences": [{"raw": t} for t in r["captions"]],
        }
        for r in records
    ]
    (folder / "dataset.json").write_text(json.dumps({"images": entries}))
    return {"class": NAMES["karpathy"], "images": str(coco / "images"), "captions": str(folder / "dataset.json")}


ARRAYS = ("latent_mean", "latent_std", "caption")

FORMS: dict[str, Callable[[Path, Records, Path], dict[str, str]]] = {
    "texts": as_texts,
    "metadata": as_metadata,
    "jsonl": as_jsonl,
    "csv": as_csv,
    "karpathy": as_karpathy,
}


def encoded(source: dict[str, str], out: Path) -> Any:
    workflow = with_parts(fake_settings(rows_per_chunk=16, resolution=64), source=Component.model_validate(source))
    finish(workflow, out)
    return open_store(out)


def by_name(store: Any, array: str) -> dict[str, NDArray[Any]]:
    return dict(zip(store["file_name"].values.tolist(), store[array].values, strict=True))


@pytest.fixture(scope="module")
def encoded_once() -> dict[str, dict[str, NDArray[Any]]]:
    return {}


@pytest.fixture
def expected(
    coco_mini: Path, tmp_path: Path, encoded_once: dict[str, dict[str, NDArray[Any]]]
) -> dict[str, dict[str, NDArray[Any]]]:
    """Arrays by file name, as `CocoSource` gives them."""
    if not encoded_once:
        store = encoded(as_coco(coco_mini, records_of(coco_mini), tmp_path), tmp_path / "coco")
        encoded_once.update({array: by_name(store, array) for array in ARRAYS})
    return encoded_once


@pytest.mark.parametrize("form", FORMS)
def test_equal_rows_have_equal_latents_bit_for_bit(
    form: str, coco_mini: Path, expected: dict[str, dict[str, NDArray[Any]]], tmp_path: Path
) -> None:
    records = records_of(coco_mini)
    found = encoded(FORMS[form](coco_mini, records, tmp_path), tmp_path / "out")
    for array in ARRAYS:
        ours, theirs = by_name(found, array), expected[array]
        assert ours.keys() == theirs.keys()
        assert len(ours) == 80
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours), array


@pytest.mark.parametrize("form", FORMS)
def test_the_hostile_set_is_rejected_for_the_same_reasons(form: str, hostile: Path, tmp_path: Path) -> None:
    """Each image has a file of its own here: these sources make one row of all entries of one file."""
    place = tmp_path / "hostile"
    pictures_in(hostile, place / "images")
    records = records_of(hostile)
    seen: set[str] = set()
    for number, record in enumerate(records):
        name = record["file_name"]
        if name in seen:
            record["file_name"] = f"z{number}-{name}"
            shutil.copyfile(place / "images" / name, place / "images" / record["file_name"])
        seen.add(name)
    if form == "texts":  # a folder lists no file that is not there, and no id
        records = [r for r in records if (place / "images" / r["file_name"]).is_file() and ".." not in r["file_name"]]
        for number, record in enumerate(records):
            record["id"] = number
    expected = reasons(as_coco(place, records, tmp_path))
    assert reasons(FORMS[form](place, records, tmp_path)) == expected
    assert len({*expected.values()}) == (5 if form == "texts" else 8)


def reasons(source: dict[str, str]) -> dict[str, str | None]:
    """File name -> why it is rejected."""
    from daskt2i.errors import RowRejected
    from daskt2i.images import read as images
    from daskt2i.protocols import Source

    made: Source = Component.model_validate(source).build(Source, "dataset.source")
    found: dict[str, str | None] = {}
    for row in made.rows(0, made.info().rows):
        try:
            if row.reason is not None:
                raise RowRejected(row.reason)
            images.read(made.read(row), 64, images.Limits())
            found[row.file_name] = None
        except RowRejected as error:
            found[row.file_name] = str(Reason(error.reason))
    return found
