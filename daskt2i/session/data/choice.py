"""From `images`, `captions` and `source` to the class that reads them: by its name, or by a guess that is said.

Covers: names and class paths, the guess, loading a workflow with such data.
Does not cover: which places each source reads (`sources.names`), changing a workflow (`config.changes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daskt2i.config import workflow_file
from daskt2i.config.changes import COCO_SOURCE, Changes, by_dotted_key
from daskt2i.config.settings import Workflow
from daskt2i.errors import ConfigError
from daskt2i.redact import without_secret
from daskt2i.sources.names import IMG2DATASET, ONE_PLACE, class_of, guessed, name_of


def choose_source(
    images: str | None, captions: str | None, source: str | None, settings: Mapping[str, Any]
) -> tuple[str | None, tuple[str, ...]]:
    """The class path of the source that reads images and captions; None if there are none.

    Args:
        source: a name or a class path. None: it is guessed from the place.
        settings: changes by dotted key; `dataset.source.storage_options` among them opens an address.

    Returns:
        the class path, and a note that says what was guessed. With a caption file in COCO's format nothing is left to
        guess, so there is no note.

    Raises:
        ConfigError: there is no such source, nothing fits the place, or `source` is given without images.
        SourceError: the place cannot be looked at.
    """
    if images is None:
        if source is not None:
            raise ConfigError(
                f"The source {source} was given without images. Nothing was started; give the place that it reads, too "
                "(images)."
            )
        return None, ()
    if source is not None and source != IMG2DATASET:
        path = class_of(source)
        _require_fit(name_of(path), captions)
        return path, ()
    found = guessed(str(images), None if captions is None else str(captions), _storage_options(settings))
    path = class_of(found.name)
    if path == COCO_SOURCE:
        return path, ()
    return path, (
        f"{without_secret(str(images))} is read as {found.name}, because {found.why}. If that is wrong, name another "
        "source (source).",
    )


def _require_fit(name: str, captions: str | None) -> None:
    """Refuse a caption file for a source that takes none, and COCO's format without one."""
    if captions is not None and name in ONE_PLACE:
        raise ConfigError(
            f"The source {name} finds captions beside its images, and takes no caption file. Nothing was started; "
            "leave the file out (captions), or name the source that reads it (source)."
        )
    if captions is None and name == "coco":
        raise ConfigError("COCO's format needs a caption file. Nothing was started; give it too (captions).")


def load_workflow(
    name: str | Path = "demo",
    settings: Mapping[str, Any] | None = None,
    *,
    images: str | None = None,
    captions: str | None = None,
    where: str | None = None,
    source: str | None = None,
) -> Workflow:
    """All settings of a workflow, with defaults, `dask.config` and changes applied.

    Args:
        name: a shipped workflow, or the path of a YAML file.
        settings: changes by dotted key: `{"train.steps": 100}`.
        images, captions: a place of images, and the file of their captions if they are not in the same place.
        where: an expression; keeps the rows for which it is true.
        source: how to read them: `coco`, `folder`, `webdataset`, `parquet`, `hf`, `jsonl`, `csv`, `karpathy`,
            `img2dataset`, or a class path. None: it is guessed from the place, and a note says so.

    Raises:
        ConfigError: a setting is wrong. The message names it and says what is accepted.
        SourceError: the place cannot be looked at.
    """
    path, notes = choose_source(images, captions, source, settings or {})
    given = {"images": images, "captions": captions, "where": where, "source": path}
    found = workflow_file.load_workflow(name, settings, **given)
    return found.with_notes((*found.notes, *notes))


def _storage_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`dataset.source.storage_options` among the changes."""
    key = "dataset.source.storage_options"
    if not isinstance(settings, Mapping):
        return {}
    named = {name: value for name, value in by_dotted_key(settings) if name == key or name.startswith(f"{key}.")}
    data: dict[str, Any] = {}
    Changes(named).apply(data, "")
    found = data.get("dataset", {}).get("source", {}).get("storage_options")
    return dict(found) if isinstance(found, Mapping) else {}
