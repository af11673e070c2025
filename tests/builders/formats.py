"""One data set in each format that a source of daskt2i reads from large files, and in COCO's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from builders.tables import STRUCT, table, write_arrow, write_parquet
from builders.tars import write_tar


class Photo(NamedTuple):
    """An image with its captions, as files and captions are in COCO."""

    name: str
    data: bytes
    captions: Sequence[str]


FORMATS = ("tar", "tars", "json in a tar", "parquet", "parquet struct", "parquet names", "hf")


def written(form: str, photos: Sequence[Photo], folder: Path) -> dict[str, Any]:
    """Write the data set below a folder.

    Returns:
        `dataset.source` of a workflow.
    """
    if form == "coco":
        return _coco(photos, folder)
    if "tar" in form:
        members = [_members(photo, form == "json in a tar") for photo in photos]
        parts = [members] if form == "tar" else [members[: len(members) // 3], members[len(members) // 3 :]]
        for number, part in enumerate(parts):
            write_tar(folder / f"{number:05d}.tar", [one for some in part for one in some])
        return {"class": "daskt2i.sources.webdataset.WebDatasetSource", "images": str(folder)}
    captions = [list(photo.captions) for photo in photos]
    images: list[Any] = [photo.data for photo in photos]
    kind: Any = pa.binary()
    if form in ("parquet struct", "hf"):
        images, kind = [{"bytes": photo.data, "path": photo.name} for photo in photos], STRUCT
    if form == "parquet names":
        _files(photos, folder)
        images, kind = [photo.name for photo in photos], pa.string()
    content = table(images, captions, kind)
    if form == "hf":
        write_arrow(folder / "data-00000-of-00001.arrow", content, 16)
        return {"class": "daskt2i.sources.hf.HfSource", "images": str(folder)}
    write_parquet(folder / "0.parquet", content, 16)
    return {"class": "daskt2i.sources.parquet.ParquetSource", "images": str(folder)}


def _coco(photos: Sequence[Photo], folder: Path) -> dict[str, Any]:
    _files(photos, folder / "images")
    entries = [{"id": number, "file_name": photo.name} for number, photo in enumerate(photos)]
    annotations = [{"image_id": n, "caption": text} for n, photo in enumerate(photos) for text in photo.captions]
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": entries, "annotations": annotations}), encoding="utf-8")
    return {
        "class": "daskt2i.sources.coco.CocoSource",
        "images": str(folder / "images"),
        "captions": str(path),
    }


def _files(photos: Sequence[Photo], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        (folder / photo.name).write_bytes(photo.data)


def _members(photo: Photo, in_json: bool) -> list[tuple[str, bytes]]:
    key = photo.name.partition(".")[0]
    beside = json.dumps({"captions": photo.captions}) if in_json else "\n".join(photo.captions)
    return [(photo.name, photo.data), (f"{key}.{'json' if in_json else 'txt'}", beside.encode())]
