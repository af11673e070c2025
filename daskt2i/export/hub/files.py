"""Which files of a run folder are pushed, and in which order.

Covers: the store, its parts and columns, receipts, settings, manifest, facts; the files by which readers find a store.
Does not cover: sending them (`repository`).

Checkpoints, models, pictures and logs stay here: a push is a data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from daskt2i.store.columns.places import COLUMNS, column_folder, columns_of, is_complete
from daskt2i.store.parts.rows_file import members
from daskt2i.store.run_folder import (
    MANIFEST,
    MARKER,
    PART_ROWS,
    PARTS,
    RECEIPTS,
    REPORTS,
    ROWS,
    STORE,
    WORKFLOW,
    RunFolder,
)

FACTS = f"{REPORTS}/facts.parquet"

GROUP = f"{STORE}/zarr.json"
"""The metadata of a store. Without it there is no store for any reader."""

_DOCUMENTS = (MARKER, WORKFLOW, MANIFEST)
_LAST = ("zarr.json", MANIFEST, WORKFLOW, ROWS)


@dataclass(frozen=True, slots=True)
class PushedFile:
    """A file of the run folder.

    Attributes:
        name: its name in the run folder, and in the repository.
        bytes: its size.
    """

    name: str
    bytes: int

    @property
    def is_last(self) -> bool:
        """Whether readers find a store, or the end of one, by it. Such files are sent when all others are there."""
        return self.name.rpartition("/")[2] in _LAST


def pushed_files(folder: RunFolder) -> tuple[PushedFile, ...]:
    """The files of a run folder that make a data set, sorted by name.

    A column that is not complete, and a part that does not count, are left out.
    """
    names = {name for name in (ROWS, FACTS) if folder.exists(name)}
    for member in members(folder):
        prefix = f"{PARTS}/{member.name}/" if member.name else ""
        names.update(_of_store(member.folder, prefix))
        if member.folder.exists(PART_ROWS):
            names.add(f"{prefix}{PART_ROWS}")
        for column in columns_of(member.folder):
            place = column_folder(member.folder, column)
            if is_complete(place):
                names.update(_of_store(place, f"{prefix}{COLUMNS}/{column}/"))
    sizes = {name: folder.size(name) for name in sorted(names)}
    return tuple(PushedFile(name, size) for name, size in sizes.items() if size is not None)


def is_of_store(name: str) -> bool:
    """Whether a push may remove this file of a repository, if the run folder has it no more."""
    return name == ROWS or name.startswith((f"{STORE}/", f"{RECEIPTS}/", f"{COLUMNS}/", f"{PARTS}/"))


def _of_store(folder: RunFolder, prefix: str) -> Iterator[str]:
    for name in (*_DOCUMENTS, *folder.list(STORE), *folder.list(RECEIPTS)):
        yield f"{prefix}{name}"
