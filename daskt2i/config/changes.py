"""Changes to a workflow that come from outside its file: settings by dotted key, images with captions, `where`.

Covers: applying them to the plain data of a workflow, under old and new names.
Does not cover: which settings exist (`settings`), the texts of `--set` (`cli.front`), files (`workflow_file`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from daskt2i.config.renamed import with_new_names
from daskt2i.errors import ConfigError

COCO_SOURCE = "daskt2i.sources.coco.CocoSource"

_TOP = ("name", "scenes")
"""Settings that are in no section."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes that override settings of a workflow.

    Attributes:
        settings: by dotted key, or nested: `{"train.steps": 100}` and `{"train": {"steps": 100}}` mean the same.
        images, captions: replace the source of the workflow with a `CocoSource`. Give both or neither.
        where: replaces `dataset.where`.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    images: str | None = None
    captions: str | None = None
    where: str | None = None

    @property
    def none(self) -> bool:
        """Whether there is no change."""
        return not self.settings and self.images is None and self.captions is None and self.where is None

    def apply(self, data: dict[str, Any], origin: str) -> tuple[str, ...]:
        """Change plain data of a workflow in place.

        Args:
            origin: where the data come from, for messages.

        Returns:
            a note for each old name.

        Raises:
            ConfigError: a key does not have the form `section.key`, a key points inside a single value, or a setting
                has different values under its old and its new name.
        """
        if (self.images is None) != (self.captions is None):
            raise ConfigError("images and captions belong together; give both. Nothing was started.")
        if self.images is not None:
            data.pop("scenes", None)
            coco = {"class": COCO_SOURCE, "images": str(self.images), "captions": str(self.captions)}
            dataset = data.get("dataset") or {}
            if not isinstance(dataset, Mapping):
                raise ConfigError(
                    f"`dataset:` of {origin} is {dataset!r}, but it must hold settings, such as "
                    "`dataset: {rows_per_chunk: 64}`. Nothing was started."
                )
            data["dataset"] = {**dataset, "source": coco}
        notes: tuple[str, ...] = ()
        written: dict[str, tuple[str, Any]] = {}
        for key, value in _flat(self.settings):
            notes += _set(data, key, value, written)
        if self.where is not None:
            notes += _set(data, "dataset.where", self.where, written)
        return notes


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys with values. Only the top level of nested settings is opened: deeper mappings may be values."""
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"settings is {settings!r}, but it must hold changes by dotted key, such as {{'train.steps': 100}}. "
            "Nothing was started."
        )
    for key, value in settings.items():
        if isinstance(key, str) and "." not in key and key not in _TOP and isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", one) for inner, one in value.items())
        else:
            yield str(key), value


def _set(data: dict[str, Any], key: str, value: Any, written: dict[str, tuple[str, Any]]) -> tuple[str, ...]:
    """Apply one setting to the data.

    Args:
        written: the key and the value of each setting that was applied before.

    Returns:
        a note for each old name in the setting.
    """
    parts = key.split(".")
    if (len(parts) < 2 and key not in _TOP) or not all(parts):
        raise ConfigError(
            f"The setting {key!r} does not have the form section.key, such as run.batch. Nothing was started."
        )
    parts, value, notes = _with_new_names(parts, copy.deepcopy(value))
    name = ".".join(parts)
    before, earlier = written.setdefault(name, (key, value))
    if before != key and earlier != value:
        raise ConfigError(
            f"{before} and {key} are two names of one setting, and their values differ. Nothing was started; "
            f"give only {name}."
        )
    written[name] = (key, value)
    node = data
    for part in parts[:-1]:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(
                f"{key} cannot be set, because {part} holds a single value and has no settings inside. Nothing was "
                "started; check the name of the setting."
            )
        node = child
    node[parts[-1]] = value
    return notes


def _with_new_names(parts: list[str], value: Any) -> tuple[list[str], Any, tuple[str, ...]]:
    """The path and the value of a setting, and notes. The path or the value may hold old names."""
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
