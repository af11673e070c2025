"""Changes to a workflow outside of its file: settings by dotted key, images with captions, `where`.

Covers: applying the changes to the plain data of a workflow; old names of settings in them.
Does not cover: the list of settings (`settings`), parsing `--set` (`cli.front`), workflow files (`workflow_file`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from daskt2i import documents
from daskt2i.config.renamed import with_new_names
from daskt2i.errors import ConfigError

COCO_SOURCE = "daskt2i.sources.coco.CocoSource"

SCENES_SOURCE = "daskt2i.sources.scenes.ScenesSource"
"""The source of a workflow that draws its own data."""

SCENES = "scenes"
"""The folder of a workflow's scenes, inside the run folder."""

_TOP = ("name", "scenes")
"""Settings outside of all sections."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes to a workflow.

    Attributes:
        settings: by dotted key, or nested: `{"train.steps": 100}` and `{"train": {"steps": 100}}` mean the same.
        images, captions: images and captions of a source, which becomes the source of the workflow.
        source: the class path of this source. None: `CocoSource`, which needs both.
        where: becomes `dataset.where`.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    images: str | None = None
    captions: str | None = None
    where: str | None = None
    source: str | None = None

    @property
    def none(self) -> bool:
        """Whether there are no changes."""
        return not self.settings and self.images is None and self.captions is None and self.where is None

    def apply(self, data: dict[str, Any], origin: str) -> tuple[str, ...]:
        """Change plain data of a workflow in place.

        Args:
            data: the plain data.
            origin: where the data comes from, for messages.

        Returns:
            a note for each old name.

        Raises:
            ConfigError: a key does not have the form `section.key`, a key goes inside a single value, or the old and
                the new name of a setting have different values.
        """
        if (self.images is None) != (self.captions is None) and (self.images is None or self.source is None):
            raise ConfigError(
                "Images and captions belong together, but only one was given. Nothing was started; give both "
                "(images, captions)."
            )
        if self.images is not None:
            data.pop("scenes", None)
            source = {"class": self.source or COCO_SOURCE, "images": str(self.images)}
            if self.captions is not None:
                source["captions"] = str(self.captions)
            dataset = data.get("dataset") or {}
            if not isinstance(dataset, Mapping):
                raise ConfigError(
                    f"dataset: in {origin} is {documents.shown(dataset)}, but it must contain settings. "
                    "Nothing was started; correct dataset: there."
                )
            data["dataset"] = {**dataset, "source": source}
        had_scenes = isinstance(data.get("scenes"), Mapping)
        notes: tuple[str, ...] = ()
        written: dict[str, tuple[str, Any]] = {}
        for key, value in by_dotted_key(self.settings):
            notes += _set(data, key, value, written)
        if self.where is not None:
            notes += _set(data, "dataset.where", self.where, written)
        sections = {".".join(name.split(".")[:2]) for name in written}
        if had_scenes and "dataset.source" not in sections and any(name.startswith("scenes") for name in sections):
            _remove_drawn_source(data)
        return notes


def _remove_drawn_source(data: dict[str, Any]) -> None:
    """Remove the source that was made from earlier scenes. Otherwise it would hide a change to `scenes`."""
    dataset = data.get("dataset")
    if not isinstance(dataset, Mapping) or not isinstance(source := dataset.get("source"), Mapping):
        return
    in_run_folder = PurePath(str(source.get("captions"))).parts[-2:] == (SCENES, "captions.json")
    if source.get("class") == SCENES_SOURCE or (source.get("class") == COCO_SOURCE and in_run_folder):
        data["dataset"] = {name: value for name, value in dataset.items() if name != "source"}


def by_dotted_key(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield settings by dotted key. Only the first level of nesting is split, because deeper mappings may be values."""
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"The settings {settings!r} are not a mapping. Nothing was started; give settings by dotted key, such as "
            "{'train.steps': 100} (settings)."
        )
    for key, value in settings.items():
        if isinstance(key, str) and "." not in key and isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", one) for inner, one in value.items())
        else:
            yield str(key), value


def _set(data: dict[str, Any], key: str, value: Any, written: dict[str, tuple[str, Any]]) -> tuple[str, ...]:
    """Write one setting into the data.

    Args:
        written: for each setting before this one, its key as the user wrote it and its value.

    Returns:
        a note for each old name in this setting.
    """
    parts = key.split(".")
    if (len(parts) < 2 and key not in _TOP) or not all(parts):
        raise ConfigError(
            f"The setting {key!r} does not have the form section.key, such as run.batch. Nothing was started; correct "
            "its name (settings)."
        )
    parts, value, notes = _with_new_names(parts, copy.deepcopy(value))
    name = ".".join(parts)
    before, earlier = written.setdefault(name, (key, value))
    if earlier is not value and earlier != value:
        if before == key:
            raise ConfigError(f"{key} has two values. Nothing was started; give only one of them (settings).")
        raise ConfigError(
            f"{before} and {key} are two names of one setting, but their values differ. Nothing was started; give only "
            f"{name} (settings)."
        )
    written[name] = (key, value)
    node = data
    for part in parts[:-1]:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(
                f"{key} cannot be set, because {part} is a single value and has no settings inside. Nothing was "
                "started; correct the name of the setting (settings)."
            )
        node = child
    node[parts[-1]] = value
    return notes


def _with_new_names(parts: list[str], value: Any) -> tuple[list[str], Any, tuple[str, ...]]:
    """The path and the value of a setting, and notes. The path, or a section as the value, may contain old names."""
    nested = value
    for part in reversed(parts):
        nested = {part: nested}
    renamed, notes = with_new_names(nested, "the settings")
    found: Any = renamed
    path = []
    for _ in parts:
        ((part, found),) = found.items()
        path.append(part)
    return path, found, notes
