"""Counts the people in each image from COCO instance annotations.

Covers: reading `instances_*.json` once, and keeping two numbers of each annotation.
Does not cover: the boxes and outlines themselves.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import fsspec

from daskt2i.errors import ConfigError

PERSON = "person"
"""The category to count."""


def persons_of(address: str, storage_options: Mapping[str, Any] | None = None) -> dict[int, int]:
    """Image id -> number of boxes of the category `person`, for images that have any. A crowd counts as one.

    Raises:
        ConfigError: there is no such file, or it is not an instance file.
    """
    data = read_instances(address, storage_options)
    try:
        document = json.loads(data, object_pairs_hook=_thin)
        people = {entry["id"] for entry in document["categories"] if entry.get("name") == PERSON}
        counted = Counter(image for image, category in document["annotations"] if category in people)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"dataset.facts.coco_instances is {address}, which is not a COCO instance file "
            f"({type(error).__name__}: {error}). It must have `categories` (id, name) and `annotations` (image_id, "
            "category_id). Nothing was counted."
        ) from error
    if not people:
        raise ConfigError(
            f"dataset.facts.coco_instances is {address}, which has no category named {PERSON}, so it cannot count "
            "people. Nothing was counted; give another file, or leave the setting out."
        )
    return {int(image): count for image, count in counted.items()}


def read_instances(address: str, storage_options: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of an instance file.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    try:
        with fsspec.open(address, "rb", **(storage_options or {})) as stream:
            return bytes(stream.read())
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"dataset.facts.coco_instances is {address}, which cannot be read ({error}). Nothing was counted; give "
            "another file, or leave the setting out."
        ) from error


def _thin(pairs: list[tuple[str, Any]]) -> Any:
    """An annotation as two numbers, other objects unchanged. With outlines it would take ten times the memory."""
    item = dict(pairs)
    if "category_id" in item:
        return item["image_id"], item["category_id"]
    return item
