"""Stamps: what the image files of a chunk looked like when it was encoded, without their content.

    stamps = Stamps(source)
    chunk = replace(chunk, stamps=stamps.of(chunk.rows))            # driver, before a worker reads the images
    receipt = replace(receipt, stamps=of_reads(chunk.stamps, read))         # worker: of the files that it opened
    others, _ = exchanged(receipt, stamps.of(rows), rows, source.read)      # later: which files are others

Covers: the stamps of a chunk as text for its receipt, comparing them, comparing the content of files that differ.
Does not cover: where a stamp comes from (`protocols.StampedSource`, `types.FileBytes`), what follows (`resume`,
`verify`).

A stamp is taken before the bytes are read. If a file changes in between, its stamp differs later, and its content is
compared once more than needed. The other order could miss a change.

A stamp that is taken by name may belong to another file than the one that is opened later, because a whole folder may
be exchanged, and exchanged back. So the stamp of the open file counts, if the source knows it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from daskt2i.errors import ImagesExchanged, Reason, RowRejected
from daskt2i.faults.time_limit import within
from daskt2i.protocols import Source, StampedSource
from daskt2i.store.parts.rows_file import Ranges, in_ranges
from daskt2i.types import Chunk, FileBytes, Receipt, Row

_DIGITS = 8
"""Hexadecimal digits of a row: another file has the same ones once in four thousand million times."""

_NONE = "0" * _DIGITS
"""The digits of a row without a file."""

_SECONDS = 10.0
"""A chunk does not wait longer for its stamps."""

_FAILS = 3
"""A source that fails so often in a row is not asked again: it may list a whole bucket before it knows."""

NAMED = 5
"""Number of files that a message names."""


class Stamps:
    """The stamps of a source.

    A mount whose server is gone stops nothing: what does not come in time is left out. A listing that takes longer (a
    bucket with a million objects) goes on, and later chunks have their stamps.

    Args:
        seconds: how long to wait.
    """

    def __init__(self, source: Source, seconds: float = _SECONDS) -> None:
        self._source = source if isinstance(source, StampedSource) else None
        self._seconds = seconds
        self._late: threading.Event | None = None
        self._fails = 0

    def of(self, rows: Sequence[Row]) -> str:
        """Eight hexadecimal digits for each row; "" if the source cannot tell now. Several threads may call it."""
        if (source := self._source) is None or not rows:
            return ""
        if self._late is not None and not self._late.is_set():
            return ""
        ended = threading.Event()

        def ask() -> Sequence[str]:
            try:
                return source.stamps(rows) or ()
            finally:
                ended.set()

        found = within(self._seconds, ask)
        if found is None:
            self._late = ended
            return ""
        if isinstance(found, BaseException) or not found:  # reading the images will say what is wrong
            self._fails += 1
            if self._fails >= _FAILS:
                self._source = None
            return ""
        self._fails = 0
        return _joined(rows, found)


def digits(digest: bytes) -> str:
    """Eight hexadecimal digits of the SHA-256 of an image file; zeros for no file."""
    return digest.hex()[:_DIGITS] or _NONE


def of_reads(stamps: str, read: Mapping[int, str]) -> str:
    """The stamps of a chunk, with those of the files that were opened.

    Args:
        stamps: of the whole chunk, taken by name; "" stays.
        read: place in the chunk -> its digits, from `of_read`.
    """
    if not stamps:
        return ""
    found = [stamps[i : i + _DIGITS] for i in range(0, len(stamps), _DIGITS)]
    for place, one in read.items():
        found[place] = one
    return "".join(found)


def of_read(row: Row, data: bytes) -> str:
    """The digits of a file that was read; "" if the source does not tell which file it opened."""
    return _joined([row], [data.stamp]) if isinstance(data, FileBytes) else ""


def exchanged(
    receipt: Receipt, now: str, rows: Sequence[Row], read: Callable[[Row], bytes], removed: Ranges = ()
) -> tuple[list[Row], str]:
    """Rows whose image files have another content than before. Only files with other stamps are read.

    Args:
        now: stamps of these rows; `rows`: all rows of the chunk.
        read: gives the bytes of an image file.
        removed: rows whose files may be others, because no reader sees these rows.

    Returns:
        these rows, and the stamps of the receipt, with new ones for files that have the content of before. A file that
        is gone keeps its stamp.
    """
    kills = {row.row for row in receipt.rejected if row.reason is Reason.KILLS_WORKER}  # would kill this process too
    others, stamps = [], [receipt.stamps[i : i + _DIGITS] for i in range(0, len(receipt.stamps), _DIGITS)]
    for row in other_rows(receipt.stamps, now, rows):
        at = row.index - receipt.start
        place = slice(_DIGITS * at, _DIGITS * (at + 1))
        if not row.usable or row.index in kills or in_ranges(row.index, removed):
            continue
        try:
            data = read(row)
        except RowRejected:
            continue
        if digits(hashlib.sha256(data).digest()) == receipt.contents[place]:
            stamps[at] = of_read(row, data) or now[place]
        else:
            others.append(row)
    return others, "".join(stamps)


def settled(receipt: Receipt, chunk: Chunk, source: Source, read: Callable[[Row], bytes]) -> Receipt:
    """The receipt of a chunk that was just encoded, if its images are still those that were read.

    Files are looked at once more only if they are others than those that the driver saw. Then their folder may have
    been exchanged, and exchanged back.

    Args:
        read: gives the bytes of an image file.

    Raises:
        ImagesExchanged: a file has another content now, or is exchanged at this moment.
    """
    if receipt.stamps == chunk.stamps:
        return receipt
    now = Stamps(source).of(chunk.rows)
    others, stamps = exchanged(receipt, now, chunk.rows, read)
    if others := others or other_rows(stamps, now, chunk.rows):  # or the file that is opened is another one again
        raise ImagesExchanged(
            f"Images of chunk {chunk.index} became others while they were encoded: {names(others)}. Nothing of it was "
            "stored, and no row was rejected. Encode again when nobody changes the image folder."
        )
    return replace(receipt, stamps=stamps)


def _joined(rows: Sequence[Row], found: Sequence[str]) -> str:
    return "".join(
        hashlib.sha256(f"{row.file_name}\0{stamp}".encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
        if stamp
        else _NONE
        for row, stamp in zip(rows, found, strict=True)
    )


def other_rows(before: str, now: str, rows: Sequence[Row]) -> list[Row]:
    """Rows whose files are others than before, or were touched. A file that is gone, or that is new, does not count.

    Args:
        before, now: stamps of these rows. If one of them is empty or of another length, nothing is known.
    """
    return [row for row, old, new in _pairs(before, now, rows) if _NONE not in (old, new) and old != new]


def new_rows(before: str, now: str, rows: Sequence[Row]) -> list[Row]:
    """Rows that have a file now, and had none before."""
    return [row for row, old, new in _pairs(before, now, rows) if old == _NONE != new]


def had_file(stamps: str, rows: Sequence[Row]) -> list[Row]:
    """Rows that had a file when the stamps were taken."""
    if len(stamps) != _DIGITS * len(rows):
        return []
    places = range(0, len(stamps), _DIGITS)
    return [row for row, at in zip(rows, places, strict=True) if stamps[at : at + _DIGITS] != _NONE]


def _pairs(before: str, now: str, rows: Sequence[Row]) -> list[tuple[Row, str, str]]:
    if before == now or len(before) != len(now) or len(now) != _DIGITS * len(rows):
        return []
    places = range(0, len(now), _DIGITS)
    return [(row, before[at : at + _DIGITS], now[at : at + _DIGITS]) for row, at in zip(rows, places, strict=True)]


def names(rows: Iterable[Row]) -> str:
    """The file names of rows for a message: the first ones, and the number of the others."""
    found = [row.file_name for row in rows]
    more = len(found) - NAMED
    return ", ".join(found[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
