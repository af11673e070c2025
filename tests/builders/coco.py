"""COCO folders made on the spot, for tests of what captions and files tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from builders.workflows import fake_settings, write_workflow
from daskt2i.config.component import Component
from daskt2i.config.settings import Workflow
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


HOSTILE = [
    None, "unreadable-image", "unreadable-image", "unreadable-image", None, None, None, None, None, None,
    "image-too-small", "image-too-small", "image-too-large", None, "missing-file", "unsafe-path", "unsafe-path",
    "no-caption", "no-caption", None, None, "no-caption", "duplicate-id",
]  # fmt: skip
"""What each row of the hostile set is owed: None for an accepted one, or why it is rejected."""


def settings(coco: Path, where: str | None = "people", **facts: Any) -> Workflow:
    """A workflow of fake encoders over a COCO folder, with `dataset.where`."""
    workflow = fake_settings(source=coco_source(coco), rows_per_chunk=4)
    source = Component.model_validate(coco_source(coco))  # without the arguments of the fake source
    changed = workflow.dataset.model_copy(
        update={"where": where, "source": source, "facts": workflow.dataset.facts.model_copy(update=facts)}
    )
    return workflow.model_copy(update={"dataset": changed})


def workflow_file(coco: Path) -> Path:
    """The same as a file."""
    path = write_workflow(coco / "w.yaml", rows_per_chunk=4, source=coco_source(coco))
    data = yaml.safe_load(path.read_text())
    data["dataset"]["source"] = coco_source(coco)
    path.write_text(yaml.safe_dump(data))
    return path
