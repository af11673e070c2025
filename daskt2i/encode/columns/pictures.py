"""Whether the pictures of a column are those of its store.

Covers: comparing the hashes of the image files that the receipts of both hold.
Does not cover: images that change between two encodes of one store (`encode.resume`).
"""

from __future__ import annotations

from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Receipt

_DIGITS = 8
"""Hexadecimal digits of a row in `Receipt.contents`."""

_NONE = "0" * _DIGITS


def other_pictures(store: RunFolder, column: RunFolder) -> list[int]:
    """Rows whose image file had another content when the column was encoded than when the store was. Ascending.

    Receipts of older versions hold no hashes; their rows are left out. It reads two receipts at a time.
    """
    found: list[int] = []
    for receipt in Receipts(column).read():
        for before in Receipts(store).read_chunks([receipt.chunk]):
            found += _others(before, receipt)
    return found


def _others(before: Receipt, now: Receipt) -> list[int]:
    if (before.start, before.stop, len(before.contents)) != (now.start, now.stop, len(now.contents)):
        return []
    places = range(0, len(now.contents), _DIGITS)
    pairs = [(before.contents[at : at + _DIGITS], now.contents[at : at + _DIGITS]) for at in places]
    return [now.start + i for i, (old, new) in enumerate(pairs) if _NONE not in (old, new) and old != new]
