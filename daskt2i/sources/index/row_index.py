"""An index in use: it gives rows, and reads the part that they are in.

Covers: counts over all files; rows by their numbers; the last parts that were read; files that changed after the index
was made.
Does not cover: building it (`build`).
"""

from __future__ import annotations

import hashlib
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from daskt2i.errors import SourceError
from daskt2i.formatting import many
from daskt2i.sources.index.lines import Line
from daskt2i.sources.index.part_rows import from_bytes, rows_of
from daskt2i.sources.index.places import Place
from daskt2i.sources.index.shelf import Shelf
from daskt2i.types import Row, SourceInfo

MOST_BYTES = 64 * 1024 * 1024
"""Parts stay in memory up to this size together, and one part always."""

_LOOK_SECONDS = 10.0
"""How often a file at an address is asked whether it is the same. A local file is asked each time."""

_NAMED = 3


class RowIndex:
    """Rows of a source in parts. Several threads may ask.

    Args:
        lines: all files, in order.
        place: where they lie.
        shelf: holds the parts.
        changed: names of files that changed since an earlier index.
    """

    def __init__(self, lines: Sequence[Line], place: Place, shelf: Shelf, changed: Sequence[str] = ()) -> None:
        self._lines, self._place, self._shelf, self._changed = tuple(lines), place, shelf, tuple(changed)
        self._parts = [(line, part) for line in lines for part in line.parts]
        self._starts = list(accumulate((part.rows for _, part in self._parts), initial=0))
        self._tables: OrderedDict[int, Any] = OrderedDict()
        self._looked: dict[str, float] = {}
        self._lock = threading.Lock()

    def info(self, source: str, label: str) -> SourceInfo:
        """Counts and identity of all files.

        Args:
            source: name of the kind of source, for `content`.
            label: name of the data for a person.
        """
        lines, parts = self._lines, [part for _, part in self._parts]
        rows, captions = self._starts[-1], sum(part.captions for part in parts)
        digest = hashlib.sha256("".join(f"{line.sha256} {line.name}\n" for line in lines).encode()).hexdigest()
        counts = f"{many(len(lines), 'file')}, {many(rows, 'image')}, {many(captions, 'caption')}"
        return SourceInfo(
            rows=rows,
            slots=max((part.slots for part in parts), default=0),
            captions=captions,
            caption_characters=sum(part.characters for part in parts),
            orphan_captions=sum(line.orphan_captions for line in lines),
            blank_captions=sum(line.blank_captions for line in lines),
            content={"source": source, "rows_sha256": digest},
            label=f"{label} ({counts})",
            notes=(*_few([note for line in lines for note in line.notes]), *self._rebuilt()),
        )

    def rows(self, start: int, stop: int) -> list[Row]:
        """Rows `start <= index < stop`. Row numbers after the last row are left out.

        Raises:
            SourceError: a file of these rows changed after the index was made.
        """
        if start < 0:
            raise IndexError(f"rows start at 0, not at {start}")
        stop = min(stop, self._starts[-1])
        found: list[Row] = []
        while start < stop:
            number = bisect_right(self._starts, start) - 1
            first, end = self._starts[number], min(stop, self._starts[number + 1])
            line, _ = self._parts[number]
            self._require_same(line)
            found += rows_of(self._table(number), start - first, end - first, first, line.name)
            start = end
        return found

    def _table(self, number: int) -> Any:
        with self._lock:
            if (table := self._tables.get(number)) is None:
                table = self._tables[number] = from_bytes(self._shelf.table(self._parts[number][1].table))
                while len(self._tables) > 1 and sum(one.nbytes for one in self._tables.values()) > MOST_BYTES:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(number)
            return table

    def _require_same(self, line: Line) -> None:
        """Raise an error if a file is not the one that was read. Its spans would give other bytes."""
        now = time.monotonic()
        if not line.stamp or (not self._place.is_local and now - self._looked.get(line.name, -1e9) < _LOOK_SECONDS):
            return
        try:
            same = self._place.stamp(line.name) == line.stamp
        except OSError:
            return  # it is away now; reading an image says so, and may be tried again
        if not same:
            raise SourceError(
                f"{self._place.path_of(line.name)} was changed after its index was made. Finished chunks are kept; run "
                "the command again, and the index of this file is made anew."
            )
        self._looked[line.name] = now

    def _rebuilt(self) -> list[str]:
        if not self._changed:
            return []
        count = len(self._changed)
        named = ", ".join(self._changed[:_NAMED]) + (f" and {count - _NAMED:,} more" if count > _NAMED else "")
        return [f"The index of {'a file' if count == 1 else f'{count:,} files'} that changed was made anew: {named}."]


def _few(notes: list[str]) -> list[str]:
    """The first notes, and the number of the others."""
    more = len(notes) - _NAMED
    return notes[:_NAMED] + ([f"{more:,} more files have something like it."] if more > 0 else [])
