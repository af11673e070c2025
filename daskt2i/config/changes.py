"""Changes to a workflow that do not stand in its file: settings by dotted key, images with captions, `where`.

Covers: laying them over the plain data of a workflow, old names among them.
Does not cover: which settings there are (`settings`), the texts of `--set` (`cli.front`), files (`workflow_file`).
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
"""Settings without a section."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is laid over a workflow.

    Attributes:
        settings: by dotted key, or nested: `{"train.steps": 100}` and `{"train": {"steps": 100}}` say the same.
        images, captions: put a `CocoSource` over these into the workflow; both or neither.
        where: becomes `dataset.where`.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    images: str | None = None
    captions: str | None = None
    where: str | None = None

    @property
    def none(self) -> bool:
        """Whether nothing is changed."""
        return not self.settings and self.images is None and self.captions is None and self.where is None

    def apply(self, data: dict[str, Any], origin: str) -> tuple[str, ...]:
        """Change plain data of a workflow in place.

        Args:
            origin: of the data, for messages.

        Returns:
            a note for each old name.

        Raises:
            ConfigError: a key is not of the form `section.key`, leads into a single value, or has both its names.
        """
        if (self.images is None) != (self.captions is None):
            raise ConfigError("images and captions belong together; give both. Nothing was started.")
        if self.images is not None:
            data.pop("scenes", None)
            coco = {"class": COCO_SOURCE, "images": str(self.images), "captions": str(self.captions)}
            dataset = data.get("dataset") or {}
            if not isinstance(dataset, Mapping):
                raise ConfigError(f"`dataset:` of {origin} holds {dataset!r} where settings are wanted.")
            data["dataset"] = {**dataset, "source": coco}
        notes: tuple[str, ...] = ()
        written: dict[str, tuple[str, Any]] = {}
        for key, value in _flat(self.settings):
            notes += _set(data, key, value, written)
        if self.where is not None:
            notes += _set(data, "dataset.where", self.where, written)
        return notes


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys; the sections of nested settings are opened once, since deeper mappings may be values."""
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"settings is {settings!r} where changes by dotted key are wanted, such as {{'train.steps': 100}}. Nothing "
            "was started."
        )
    for key, value in settings.items():
        if isinstance(key, str) and "." not in key and key not in _TOP and isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", one) for inner, one in value.items())
        else:
            yield str(key), value


def _set(data: dict[str, Any], key: str, value: Any, written: dict[str, tuple[str, Any]]) -> tuple[str, ...]:
    """Lay one setting over the data.

    Args:
        written: of the settings before this one: how each was written, and its value.

    Returns:
        a note for each old name in it.
    """
    parts = key.split(".")
    if (len(parts) < 2 and key not in _TOP) or not all(parts):
        raise ConfigError(
            f"The setting {key!r} is not of the form section.key, such as run.batch. Nothing was started."
        )
    parts, value, notes = _with_new_names(parts, copy.deepcopy(value))
    name = ".".join(parts)
    before, earlier = written.setdefault(name, (key, value))
    if before != key and earlier != value:
        raise ConfigError(
            f"The settings {before} and {key} are names of one setting, and their values differ. Nothing was started; "
            f"keep {name} alone."
        )
    written[name] = (key, value)
    node = data
    for part in parts[:-1]:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(
                f"{key} cannot be set: {part} holds a single value, and nothing can be set inside it. Nothing was "
                "started."
            )
        node = child
    node[parts[-1]] = value
    return notes


def _with_new_names(parts: list[str], value: Any) -> tuple[list[str], Any, tuple[str, ...]]:
    """The path and the value of a setting, and notes. Old names may stand in the path, or in a section as its value."""
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
