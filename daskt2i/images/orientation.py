"""Finds out how a stored picture must be turned.

Covers: the orientation in EXIF, in any integer kind, and in XMP, in the order of Pillow's `ImageOps.exif_transpose`.

Does not cover: where a format keeps EXIF and XMP (`jpeg`, `png`, and Pillow for the others), TIFF (Pillow turns it).
Pillow's own parser is not used: it warns about every odd value, and an error in one tag ends it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any

_TAG = 0x0112
_PREFIXES = re.compile(b"^(Exif\0\0){1,2}")
_ORDERS = {b"II*\0": "<", b"II\0*": "<", b"MM\0*": ">", b"MM*\0": ">"}
_NUMBERS = {3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I", 16: "Q"}
"""TIFF's kinds of numbers, as `struct` names them."""

_KINDS = {1: "B", 2: "B", 7: "B", **_NUMBERS}
"""All kinds. From text and single bytes, Pillow takes no orientation."""

_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def orientation(info: Mapping[Any, Any]) -> int:
    """The orientation of an image with Pillow's `info`: 1 to 8 (EXIF 2.3, 4.6.4). 1 if it is absent or damaged."""
    exif, xmp = info.get("exif"), info.get("xmp")
    value = _in_exif(exif) if isinstance(exif, bytes) else None
    if value is None and isinstance(xmp, bytes) and (found := _XMP.search(xmp)):
        value = int(found[1])
    return int(value) if value is not None and value in range(1, 9) else 1


def _in_exif(exif: bytes) -> float | None:
    """The value of the tag in the first directory. None if it is absent or damaged."""
    exif = _PREFIXES.sub(b"", exif)
    order = _ORDERS.get(exif[:4])
    try:
        if order is not None:
            (start,) = struct.unpack_from(f"{order}I", exif, 4)
            (entries,) = struct.unpack_from(f"{order}H", exif, start)
            for entry in range(start + 2, start + 2 + 12 * entries, 12):
                tag, kind, count = struct.unpack_from(f"{order}HHI", exif, entry)
                if tag == _TAG and kind in _KINDS and count > 0:
                    return _number(exif, order, entry, kind, count)  # the first entry counts, as in Pillow
    except struct.error:
        pass
    return None


def _number(exif: bytes, order: str, entry: int, kind: int, count: int) -> float | None:
    """The first number of an entry. None if its bytes are not all there."""
    shape = order + _KINDS[kind]
    size = count * struct.calcsize(shape)
    at = entry + 8
    if size > 4:
        (at,) = struct.unpack_from(f"{order}I", exif, at)
    if at + size > len(exif) or kind not in _NUMBERS:
        return None
    number, *divisor = struct.unpack_from(shape, exif, at)
    if divisor:
        return float(number) / divisor[0] if divisor[0] else None
    return float(number)
