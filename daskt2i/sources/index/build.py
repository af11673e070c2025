"""Builds the index of a source: reads its files, several at a time, and cuts their rows into parts.

Covers: files that an index has already, and that did not change; equal ids; files that change while they are read.
Does not cover: what is in a file (the sources), using the index (`row_index`).

At no time are all rows in memory: of each file that is being read, those of one part, and 8 bytes a row for the ids.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from daskt2i.errors import Daskt2iError, SourceError
from daskt2i.sources.identity import id_of
from daskt2i.sources.index.found import Found, Tally
from daskt2i.sources.index.lines import Line, Part, from_json, to_json
from daskt2i.sources.index.part_rows import ContentHash, from_bytes, ids_of, table_of, to_bytes, with_repeats
from daskt2i.sources.index.places import Container, Place
from daskt2i.sources.index.repeats import may_meet, repeated
from daskt2i.sources.index.row_index import RowIndex
from daskt2i.sources.index.shelf import Shelf

ROWS = 65_536
"""Rows of a part. One with five captions a row needs 25 MB while it is made."""

_FILES = 8
"""Files that are read at once. Files at an address wait for the network most of the time."""

Scan = Callable[[Container, Tally], Iterator[Found]]
"""Gives the rows of a file, and counts the rest in the tally."""


def build(place: Place, scan: Scan, shelf: Shelf, key: str) -> RowIndex:
    """The index of all files of a place. Files that have not changed since it was kept are not read again.

    Args:
        scan: gives the rows of a file; several threads call it.
        shelf: where the index is kept.
        key: what the rows depend on besides the files: class and arguments of the source.

    Raises:
        SourceMissing, SourceError: a file cannot be used, or the place has none.
        StoreError: the index cannot be written.
    """
    containers = place.containers()
    kept, changed = _kept(containers, shelf, key)
    todo = [one for one in containers if one.name not in kept]
    with ThreadPoolExecutor(min(_FILES, max(1, len(todo))), thread_name_prefix="daskt2i-index") as pool:
        made = list(pool.map(lambda one: _line(place, one, scan, shelf), todo))
    lines = sorted([*kept.values(), *made], key=lambda line: line.name)
    if todo or changed:
        lines = _without_repeats(lines, shelf)
        if any(line.parts for line in lines):  # else there is nothing to encode, and no run folder is begun for it
            shelf.keep_lines(to_json(key, lines))
    return RowIndex(lines, place, shelf, changed)


def _kept(containers: Sequence[Container], shelf: Shelf, key: str) -> tuple[dict[str, Line], tuple[str, ...]]:
    """The lines of files that are as they were, and the names of those that are not, or are gone."""
    former = {line.name: line for line in from_json(shelf.lines(), key)}
    if not former:
        return {}, ()
    tables = shelf.tables()
    stamps = {one.name: one.stamp for one in containers}
    same = {
        name: line
        for name, line in former.items()
        if line.stamp and stamps.get(name) == line.stamp and all(part.table in tables for part in line.parts)
    }
    changed = tuple(name for name, line in former.items() if stamps.get(name) != line.stamp)
    if len(same) < len(stamps) or changed:  # rows that repeat an id of a file that changed may be good rows now
        same = {name: line for name, line in same.items() if not line.repeats}
    return same, changed


@dataclass(slots=True)
class _Writer:
    """Cuts rows into parts. `given`: whether another file may have an id of this part."""

    shelf: Shelf
    container: str
    content: ContentHash = field(default_factory=ContentHash)
    parts: list[Part] = field(default_factory=list)
    all_ids: list[npt.NDArray[np.int64]] = field(default_factory=list)
    rows: list[Found] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    given: bool = False

    def add(self, row: Found) -> None:
        number = id_of(row.name) if row.image_id is None else row.image_id
        self.given = self.given or row.image_id is not None or not row.name.startswith(f"{self.container}/")
        self.content.add(row, number)
        self.rows.append(row)
        self.ids.append(number)
        if len(self.rows) == ROWS:
            self.end_part()

    def end_part(self) -> None:
        if not self.rows:
            return
        lengths = [len(row.captions) for row in self.rows]
        self.parts.append(
            Part(
                rows=len(self.rows),
                captions=sum(lengths),
                characters=sum(len(caption) for row in self.rows for caption in row.captions),
                slots=max(lengths),
                table=self.shelf.keep_table(to_bytes(table_of(self.rows, self.ids))),
                low=min(self.ids) if self.given else None,
                high=max(self.ids) if self.given else None,
            )
        )
        self.all_ids.append(np.array(self.ids, np.int64))
        self.rows, self.ids, self.given = [], [], False


def _line(place: Place, container: Container, scan: Scan, shelf: Shelf) -> Line:
    """Read a file.

    Raises:
        SourceError: it cannot be read, or it changed meanwhile.
    """
    tally, writer = Tally(), _Writer(shelf, container.name)
    try:
        for row in scan(container, tally):
            writer.add(row)
    except (Daskt2iError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # libraries of object stores have errors of their own
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise SourceError(
            f"{container.path} cannot be read: {said}. Nothing was encoded; mend it or take it away (images), and run "
            "the command again."
        ) from error
    writer.end_part()
    for text in tally.looks:
        writer.content.look(text)
    if container.stamp and place.stamp(container.name) != container.stamp:
        raise SourceError(
            f"{container.path} was changed while its index was made. Nothing was encoded; run the command again when "
            "nobody writes into it."
        )
    found = repeated([part.rows for part in writer.parts], lambda number: writer.all_ids[number])
    return Line(
        name=container.name,
        stamp=container.stamp,
        sha256=writer.content.hexdigest(),
        parts=tuple(_marked(part, found.get(n), shelf) for n, part in enumerate(writer.parts)),
        orphan_captions=tally.orphan_captions,
        blank_captions=tally.blank_captions,
        notes=tuple(tally.notes),
    )


def _without_repeats(lines: Sequence[Line], shelf: Shelf) -> list[Line]:
    """The lines, with rows rejected that have the id of a row of an earlier file."""
    where = [(number, place) for number, line in enumerate(lines) for place in range(len(line.parts))]
    parts = [lines[number].parts[place] for number, place in where]
    made = list(lines)
    for group in may_meet(enumerate(parts)):
        names = [parts[number].table for number in group]
        found = repeated([parts[number].rows for number in group], functools.partial(_ids, shelf, names))
        for n, places in found.items():
            number, place = where[group[n]]
            line = made[number]
            part = _marked(line.parts[place], places, shelf)
            if part != line.parts[place]:  # its own file has marked it already
                marked = (*line.parts[:place], part, *line.parts[place + 1 :])
                made[number] = replace(line, parts=marked, repeats=True)
    return made


def _ids(shelf: Shelf, names: Sequence[str], number: int) -> npt.NDArray[np.int64]:
    return ids_of(from_bytes(shelf.table(names[number])))


def _marked(part: Part, places: npt.NDArray[np.int64] | None, shelf: Shelf) -> Part:
    """The part with rows rejected as `duplicate-id`."""
    if places is None:
        return part
    table = from_bytes(shelf.table(part.table))
    ids = ids_of(table)
    details = {int(place): f"an earlier row already has id {ids[place]}" for place in places}
    return replace(part, table=shelf.keep_table(to_bytes(with_repeats(table, details))))
