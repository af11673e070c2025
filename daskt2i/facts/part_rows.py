"""The rows of a source that a store was made of, found again by their image ids.

Covers: the rows of a part, and those of a store whose source has grown since; what identifies them.
Does not cover: which rows become a part (`encode.parts`), `dataset.where` (`selection`).

A row is known by its image id and its file name. So a source that got more rows, also between the others, gives the
rows of before under their old numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import SourceError
from daskt2i.protocols import Source
from daskt2i.store.parts.row_ids import plain_name
from daskt2i.types import Row, SourceInfo

ROWS = 1024
"""Rows that are asked for at once."""

_NAMED = 5


def all_rows(source: Source) -> Iterator[Row]:
    """All rows of a source, in order."""
    for start in range(0, source.info().rows, ROWS):
        yield from source.rows(start, start + ROWS)


def places_of(source: Source, image_ids: npt.NDArray[np.int64], file_names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Where these rows are in a source now: its row numbers, in the order of `image_ids`.

    Raises:
        SourceError: some are not there.
    """
    wanted = defaultdict[tuple[int, str], deque[int]](deque)
    for place, key in enumerate(zip(image_ids.tolist(), map(plain_name, file_names), strict=True)):
        wanted[key].append(place)
    found = np.full(len(image_ids), -1, np.int64)
    for row in all_rows(source):
        if places := wanted.get((row.image_id, plain_name(row.file_name))):
            found[places.popleft()] = row.index
    if lost := [file_names[place] for place in np.flatnonzero(found < 0).tolist()]:
        more = f" and {len(lost) - _NAMED:,} more" if len(lost) > _NAMED else ""
        raise SourceError(
            f"The source ({source.info().label}) has no {', '.join(lost[:_NAMED])}{more}, and the store is made of it. "
            "What is encoded stays; give the source its rows back (images, captions)."
        )
    return found


def info_of(source: Source, kept: npt.NDArray[np.int64], rows: Iterator[Row], where: Any) -> SourceInfo:
    """The info of some rows of a source. Its content depends on these rows alone, not on what else the source has.

    Args:
        kept: their numbers in the source.
        rows: these rows, with all of their captions.
        where: what identifies `dataset.where`; None without it.
    """
    whole, digest = source.info(), hashlib.sha256()
    slots = captions = characters = 0
    for row in rows:
        slots, captions = max(slots, len(row.captions)), captions + len(row.captions)
        characters += sum(map(len, row.captions))
        about = [row.image_id, row.file_name, list(row.captions), None if row.reason is None else str(row.reason)]
        digest.update(json.dumps(about).encode() + b"\n")
    return replace(
        whole,
        rows=len(kept),
        slots=slots,
        captions=captions,
        caption_characters=characters,
        orphan_captions=0,
        blank_captions=0,
        content={"rows": len(kept), "rows_sha256": digest.hexdigest()},
        label=f"{len(kept):,} of {whole.rows:,} rows of {whole.label}",
        where=where,
    )
