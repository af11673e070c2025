"""What any setting may hold: plain values that the machine can compute with and JSON can hold.

Covers: numbers that are endless, infinite or no number, yes and no in place of a number, text that is not whole.
Does not cover: the limits of one setting (`settings`), reading files (`documents`).
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from typing import Any

from dask.utils import parse_bytes

from daskt2i.documents import NOT_OF_PATHS, shown

MOST = 2**63
"""Integers are smaller: NumPy and torch hold 64 bits."""

_MOST_DEPTH = 100


def check(value: Any, *, number: bool = False, path: tuple[str, ...] = ()) -> None:
    """Refuse a value that no setting can have, at any depth of lists and mappings.

    Args:
        value: what the user gave.
        number: whether the setting takes numbers, and neither yes nor no.
        path: keys that lead to the value inside of the setting.

    Raises:
        ValueError: the message follows the name of the setting: ".seed should be a number below 2**63 (given: …)".
    """
    if wrong := _wrong(value, number, len(path)):
        place = "".join(f".{part}" for part in path[:8]) + "…" * (len(path) > 8)
        raise ValueError(f"{place} should {wrong} (given: {shown(value)})")
    if isinstance(value, Mapping):
        for key, below in value.items():
            check(key, path=(*path, shown(key)))
            check(below, path=(*path, str(key)))
    elif isinstance(value, list | tuple):
        for number_of_item, below in enumerate(value):
            check(below, number=number, path=(*path, str(number_of_item)))


def _wrong(value: Any, number: bool, depth: int) -> str | None:
    if depth > _MOST_DEPTH:
        return f"not be nested more than {_MOST_DEPTH} levels deep"
    if isinstance(value, bool):
        return "be a number, not yes or no" if number else None
    if isinstance(value, int):
        return "be a number below 2**63" if abs(value) >= MOST else None
    if isinstance(value, float):
        return None if math.isfinite(value) else "be a finite number"
    if isinstance(value, str) and NOT_OF_PATHS.search(value):
        return "be whole text, without half a surrogate pair"
    return None


def takes_numbers(annotation: Any) -> bool:
    """Whether a setting with this type takes numbers, and neither yes nor no nor anything."""
    parts = set(_parts(annotation))
    return bool(parts & {int, float}) and not parts & {bool, Any}


def _parts(annotation: Any) -> list[Any]:
    return [annotation, *(part for one in typing.get_args(annotation) for part in _parts(one))]


def require_size(value: str) -> str:
    """A number of bytes in words, as it was given.

    Raises:
        ValueError: it is no such text.
    """
    try:
        size = parse_bytes(value)
    except (ValueError, OverflowError):
        size = -1
    if size < 0 or not value.strip():
        raise ValueError(f" is {value!r}; give a size such as 512 MiB")
    return value
