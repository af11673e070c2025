"""Photographs of many sizes, and workflows that encode them in buckets or in several sizes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from builders.coco import coco_source
from builders.image_files import blobs, saved
from builders.workflows import IMAGE, TEXT
from daskt2i.config.settings import Workflow
from daskt2i.config.workflow_file import dask_settings, load_defaults, parse_workflow

SIZES = ((96, 64), (64, 96), (64, 64), (100, 66), (40, 30), (70, 64), (66, 100), (97, 65), (64, 65), (24, 90))
"""Width and height of ten images: wide, high, nearly square, and two that are smaller than their buckets."""

BUCKETS = {"area": "64x64", "step": 16, "max_ratio": 2}
"""Buckets 48 x 80, 64 x 64 and 80 x 48."""


def write_photographs(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES) -> Path:
    """A caption file over PNG images of these sizes. Ids start at 100."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for row, (width, height) in enumerate(sizes):
        images.append({"id": row + 100, "file_name": f"{row:03d}.png"})
        annotations.append({"image_id": row + 100, "id": row, "caption": f"picture {row}"})
        (folder / "images" / f"{row:03d}.png").write_bytes(saved(blobs(width, height, seed=row)))
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder


def picture(folder: Path, image_id: int) -> Image.Image:
    """The image with an id, as Pillow reads it."""
    with Image.open(folder / "images" / f"{image_id - 100:03d}.png") as image:
        return image.convert("RGB")


def shaped(
    folder: Path,
    image: dict[str, Any],
    *,
    source: dict[str, Any] | None = None,
    encoder: dict[str, Any] | None = None,
    rows_per_chunk: int = 4,
    gate_rows: int = 2,
    **dataset: Any,
) -> Workflow:
    """A workflow over photographs.

    Args:
        image: settings of `dataset.image`.
        source: another source than the photographs of `folder`.
        encoder: another image encoder than the fake one.
        gate_rows: rows of a chunk that are decoded back; 0 for a model that was never trained.
    """
    load_defaults()
    return parse_workflow(
        {
            "name": "shapes",
            "dataset": {
                "source": source or coco_source(folder),
                "image": {"min_side": 16, **image},
                "encoders": {"image": encoder or {"class": IMAGE}, "text": {"class": TEXT}},
                "precision": "fp32",
                "rows_per_chunk": rows_per_chunk,
                **dataset,
            },
            "run": {**dask_settings("run")[0], "device": "cpu", "batch": 3, "gate_rows": gate_rows, "min_psnr": 1.0},
        },
        "of a test",
    )
