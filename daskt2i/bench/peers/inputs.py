"""Photographs, captions and models as files that every tool can read: the same for all of them.

Covers: a folder of pictures with a COCO caption file, and the same as a list; the workflow's models as folders of
diffusers and transformers.
Does not cover: the workflow's own source and encoders (`sources`, `encoders`), what a tool does with files (`peer`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from daskt2i.bench.encode.naive import plain_module
from daskt2i.config.component import Component
from daskt2i.config.settings import Workflow
from daskt2i.encode.saved_workflow import with_source
from daskt2i.encoders.text import TextEncoder
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.encoders.weights import quiet
from daskt2i.errors import ConfigError, RowRejected
from daskt2i.images import read as images
from daskt2i.machine.machine import this_machine
from daskt2i.protocols import ImageEncoder, Source
from daskt2i.protocols import TextEncoder as AnyTextEncoder
from daskt2i.sources.coco import CocoSource
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Runtime


def require_plain(workflow: Workflow) -> None:
    """Refuse what another tool cannot do.

    Raises:
        ConfigError: an encoder is not one of ours, or the workflow selects rows.
    """
    encoders = workflow.dataset.encoders
    for component, kind in ((encoders.image, VaeEncoder), (encoders.text, TextEncoder)):
        if component.class_path != f"{kind.__module__}.{kind.__name__}":
            raise ConfigError(
                f"Other tools load models of diffusers and transformers, but the workflow has {component.class_path}. "
                f"Nothing was measured. Use a {kind.__name__} (dataset.encoders)."
            )
    if workflow.dataset.where is not None:
        raise ConfigError(
            "Other tools encode the first rows of a source, but the workflow has dataset.where. Nothing was measured. "
            "Leave it out."
        )


def write_rows(workflow: Workflow, folder: Path, rows: int) -> Workflow:
    """Write the first `rows` rows with a picture that can be decoded: `images/`, `captions.json` and `rows.json`.

    Rows are repeated if the source has fewer.

    Returns:
        The workflow with these rows as its source.

    Raises:
        ConfigError: no row of the source has a picture that can be decoded.
        SourceMissing, SourceError: the source cannot be read.
    """
    if workflow.scenes is not None:
        workflow = workflow.model_copy(update={"scenes": workflow.scenes.model_copy(update={"rows": rows})})
    workflow = with_source(workflow, RunFolder(folder / "scenes"), draw=True)
    taken = _taken(workflow, rows)
    place = folder / "images"
    place.mkdir(parents=True)
    listed, entries, captions = [], [], list[dict[str, Any]]()
    for number in range(rows):
        data, name, said = taken[number % len(taken)]
        path = place / f"{number:06d}{Path(name).suffix or '.jpg'}"
        path.write_bytes(data)
        listed.append({"row": number, "path": str(path), "captions": list(said)})
        entries.append({"id": number, "file_name": path.name})
        captions += [{"id": len(captions) + i, "image_id": number, "caption": text} for i, text in enumerate(said)]
    coco = folder / "captions.json"
    coco.write_text(json.dumps({"images": entries, "annotations": captions}), encoding="utf-8")
    (folder / "rows.json").write_text(json.dumps(listed), encoding="utf-8")
    kind = f"{CocoSource.__module__}.{CocoSource.__name__}"
    source = Component.model_validate({"class": kind, "images": str(place), "captions": str(coco)})
    dataset = workflow.dataset.model_copy(update={"source": source})
    return workflow.model_copy(update={"dataset": dataset, "scenes": None})


def _taken(workflow: Workflow, rows: int) -> list[tuple[bytes, str, tuple[str, ...]]]:
    """Bytes, file name and captions of usable rows."""
    image = workflow.dataset.image
    limits = images.Limits(min_side=image.min_side, max_pixels=image.max_pixels)
    source: Source = workflow.dataset.source.build(Source, "dataset.source")
    there, found = source.info().rows, list[tuple[bytes, str, tuple[str, ...]]]()
    for start in range(0, there, 64):
        for row in source.rows(start, min(there, start + 64)):
            if not row.usable:
                continue
            try:
                data = source.read(row)
                images.read(data, image.resolution, limits)
            except RowRejected:
                continue
            found.append((bytes(data), row.file_name, row.captions))
            if len(found) == rows:
                return found
    if not found:
        raise ConfigError(
            "No row of the source has a picture that can be decoded, so nothing was measured. Choose another source "
            "(images, captions)."
        )
    return found


def write_models(workflow: Workflow, folder: Path) -> dict[str, Any]:
    """Write the workflow's models in fp32: `vae/` and `text/`.

    Returns:
        `vae`, `text`, `tokenizer`: folders; `max_tokens`: the longest caption in tokens.

    Raises:
        Daskt2iError: an encoder cannot be loaded.
    """
    runtime = Runtime("cpu", "fp32", this_machine().cores)
    encoders = workflow.dataset.encoders
    image: VaeEncoder = encoders.image.build(ImageEncoder, "dataset.encoders.image")
    text: TextEncoder = encoders.text.build(AnyTextEncoder, "dataset.encoders.text")
    for encoder, name in ((image, "vae"), (text, "text")):
        module = plain_module(encoder, runtime)
        with quiet():
            module.save_pretrained(str(folder / name))
    return {
        "vae": str(folder / "vae"),
        "text": str(folder / "text"),
        "tokenizer": str(text.tokenizer_folder()),
        "max_tokens": int(text.info().attributes["max_tokens"]),
    }
