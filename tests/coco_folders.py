"""COCO folders made on the spot, for tests of what captions and files tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daskt2i.sources.fake import bitmap, colour

PEOPLE = [
    ["A man rides a bike", "a man riding"],
    ["A dog on a sofa"],
    ["Two women hold hands", "women holding hands"],
    ["A red bus"],
    ["A woman with a child", "a mother and her child sitting"],
    ["A cat"],
    ["A man sits"],
    [],
    ["people at a beach"],
    ["A boy rides a horse"],
]
"""Captions of ten images; six of them with people."""

WITH_PEOPLE = [0, 2, 4, 6, 8, 9]


def write_coco(folder: Path, captions: Sequence[Sequence[str]] = PEOPLE, **changes: Any) -> Path:
    """A caption file over BMP images of 48 x 40 pixels, one colour each.

    Args:
        changes: `missing`: rows whose file is not written; `same`: row -> row whose file it shares.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for row, texts in enumerate(captions):
        name = f"{row:03d}.bmp"
        images.append({"id": row + 100, "file_name": name, "license": row % 2 + 1})
        annotations += [{"image_id": row + 100, "id": 10 * row + n, "caption": t} for n, t in enumerate(texts)]
        if row not in changes.get("missing", ()):
            code = changes.get("same", {}).get(row, row)
            (folder / "images" / name).write_bytes(bitmap(48, 40, colour(code)))
    document = {
        "images": images,
        "annotations": annotations,
        "licenses": [{"id": 1, "name": "BY", "url": "x"}, {"id": 2, "name": "</script><b>NC", "url": "x"}],
    }
    (folder / "captions.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def coco_source(folder: Path) -> dict[str, str]:
    """As a workflow names it."""
    return {
        "class": "daskt2i.sources.coco.CocoSource",
        "images": str(folder / "images"),
        "captions": str(folder / "captions.json"),
    }
