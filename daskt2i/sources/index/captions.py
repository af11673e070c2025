"""Captions that lie beside an image: lines of a text file, values of a JSON object, values of a column.

Covers: which values are captions, and which are blank; what else an object tells of an image.
Does not cover: finding these texts (the sources), COCO's caption files (`coco_index`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from daskt2i import documents
from daskt2i.documents import BadDocument, storable

KEYS = ("caption", "captions", "text", "sentences", "TEXT")
"""Names under which data sets keep their captions. The first one that is there counts."""

_LINE_END = re.compile(r"\r\n|\r|\n")
"""Not U+2028 and the like: they occur in captions."""

_IDS = ("image_id", "id")
_LICENCES = ("license", "licence")


@dataclass(frozen=True, slots=True)
class Beside:
    """What stands beside an image.

    Attributes:
        captions: those that are not blank, unchanged.
        blank: number of the others.
        problem: why there are none, as a clause; "" if the data just have none.
        image_id, licence: None and "" if they are not told.
    """

    captions: tuple[str, ...] = ()
    blank: int = 0
    problem: str = ""
    image_id: int | None = None
    licence: str = ""


def of_text(raw: bytes) -> Beside:
    """A caption on each line that is not blank."""
    try:
        text = documents.text_of(raw)
    except BadDocument as error:
        return Beside(blank=1, problem=f"its text file cannot be read: {error}")
    return Beside(*split(line for line in _LINE_END.split(text) if line.strip()))


def of_json(raw: bytes, key: str | None = None) -> Beside:
    """Captions, number and licence of a JSON object.

    Args:
        key: the key of the captions; None: the first of `KEYS`.
    """
    try:
        found = documents.read_json(documents.text_of(raw))
    except BadDocument as error:
        return Beside(blank=1, problem=f"its JSON cannot be read: {error}")
    if not isinstance(found, dict):
        return Beside(blank=1, problem="its JSON is not an object")
    return of_object(found, key)


def of_object(found: Mapping[str, Any], key: str | None = None) -> Beside:
    """Captions, number and licence of an object. See `of_json`."""
    keys = KEYS if key is None else (key,)
    name = next((one for one in keys if one in found), None)
    captions, blank = split(values(found[name])) if name is not None else ((), 0)
    number = next(
        (n for one in _IDS if isinstance(n := found.get(one), int) and documents.integer(n) is not None), None
    )
    licence = next((text for one in _LICENCES if isinstance(text := found.get(one), str)), "")
    return Beside(captions, blank, "", None if isinstance(number, bool) else number, storable(licence))


def values(value: Any) -> Iterable[Any]:
    """The captions of a value: the value itself, or the values of a list. A list in a list counts too (`sentences`)."""
    if not isinstance(value, list | tuple):
        return (value,)
    return (inner for one in value for inner in (one if isinstance(one, list | tuple) else (one,)))


def split(found: Iterable[Any]) -> tuple[tuple[str, ...], int]:
    """The captions that are not blank, and the number of the others.

    Empty, white-space and missing ones count as blank, as does text that UTF-8 cannot hold.
    """
    captions, blank = list[str](), 0
    for one in found:
        if isinstance(one, Mapping):  # COCO-like: {"raw": "a dog"}
            one = next((one[key] for key in ("raw", "caption", "text") if key in one), None)
        if isinstance(one, str) and one.strip() and storable(one) == one:
            captions.append(one)
        else:
            blank += 1
    return tuple(captions), blank
