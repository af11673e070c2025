"""Counts the people in each image from COCO instance annotations.

Covers: reading `instances_*.json` once, and keeping two numbers of each annotation.
Does not cover: strict JSON (`documents`), the boxes and outlines themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from daskt2i import addresses, documents
from daskt2i.errors import ConfigError

PERSON = "person"
"""The category to count."""

_ABSENT = object()


def persons_of(address: str, storage_options: Mapping[str, Any] | None = None) -> dict[int, int]:
    """Image id -> number of boxes of the category `person`, for images that have any. A crowd counts as one.

    Ids are 64-bit integers. Digits in quotes count as integers, and so do numbers such as `7.0`.

    Raises:
        ConfigError: there is no such file, or it is not an instance file.
    """
    data = read_instances(address, storage_options)
    try:
        document = documents.read_json(documents.text_of(data), _thin)
        people = _people(_listed(document, "categories"))
        counted: Counter[int] = Counter()
        for position, entry in enumerate(_listed(document, "annotations")):
            image, category = _ids(entry, "annotations", position, ("image_id", "category_id"))
            if category in people:
                counted[image] += 1
    except (documents.BadDocument, MemoryError) as error:
        raise ConfigError(
            f"dataset.facts.coco_instances is {address}, which is not a COCO instance file "
            f"({str(error) or 'it does not fit into memory'}). It must have `categories` (id, name) and `annotations` "
            "(image_id, category_id). Nothing was counted."
        ) from error
    if not people:
        raise ConfigError(
            f"dataset.facts.coco_instances is {address}, which has no category named {PERSON}, so it cannot count "
            "people. Nothing was counted; give another file, or leave the setting out."
        )
    return dict(counted)


def read_instances(address: str, storage_options: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of an instance file.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    try:
        return addresses.read_bytes(address, storage_options)
    except (OSError, MemoryError) as error:
        raise ConfigError(
            f"dataset.facts.coco_instances is {address}, which cannot be read ({error}). Nothing was counted; give "
            "another file, or leave the setting out."
        ) from error


def _thin(item: dict[str, Any]) -> tuple[Any, ...]:
    """An annotation as two values, another object as three. With outlines it would take ten times the memory."""
    if "category_id" in item:
        return item.get("image_id", _ABSENT), item["category_id"]
    return item.get("id", _ABSENT), item.get("name"), None


def _listed(document: Any, key: str) -> list[Any]:
    found = document.get(key) if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise documents.BadDocument(f"it has no list `{key}`")
    return found


def _people(categories: list[Any]) -> set[int]:
    """Ids of the categories to count."""
    found = set()
    for position, entry in enumerate(categories):
        if isinstance(entry, tuple) and len(entry) == 2:
            raise documents.BadDocument(f"entry {position} of `categories` is an annotation")
        if isinstance(entry, tuple) and entry[1] == PERSON:
            found.add(_ids(entry[:1], "categories", position, ("id",))[0])
    return found


def _ids(entry: Any, where: str, position: int, keys: tuple[str, ...]) -> list[int]:
    if not isinstance(entry, tuple) or len(entry) != len(keys):
        raise documents.BadDocument(f"entry {position} of `{where}` is no object with {' and '.join(keys)}")
    found = []
    for key, value in zip(keys, entry, strict=True):
        number = documents.integer(int(value) if isinstance(value, float) and value.is_integer() else value)
        if number is None:
            shown = "missing" if value is _ABSENT else documents.shown(value)
            raise documents.BadDocument(f"`{key}` of entry {position} of `{where}` is {shown} and no 64-bit integer")
        found.append(number)
    return found
