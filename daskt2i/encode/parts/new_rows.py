"""Which rows of a source become a part of a store, and which rows of the store they replace.

Covers: rows whose image id the store does not have; rows that a user names by image id or file name.
Does not cover: reading manifests (`store.parts.row_ids`), encoding.

Nothing here reads a picture or an array: ids stand in the index of the source and in the manifests of the stores.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.config.settings import DatasetSettings, Workflow
from daskt2i.documents import integer
from daskt2i.facts.part_rows import all_rows
from daskt2i.facts.selection import open_source
from daskt2i.facts.stored import rows_where
from daskt2i.store.parts.row_ids import PartRows, RowIds, plain_name, row_ids
from daskt2i.store.parts.rows_file import Member
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Row

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NewRows:
    """Rows of a source.

    Attributes:
        listed: those that become a part.
        known: how many others the store has already, by their image id.
        renamed: how many of these have another file name in the store.
    """

    listed: PartRows
    known: int = 0
    renamed: int = 0


def unknown_rows(workflow: Workflow, stores: Sequence[Member], about: Mapping[str, Any], *, keep: bool) -> NewRows:
    """The rows of a source, with `dataset.where`, whose image id no store has, also not as a removed or a rejected row.

    Args:
        workflow: names the source.
        stores: all members of the store; the first one keeps indexes and facts of the source.
        about: what makes the part.
        keep: whether new indexes and facts are written.

    Raises:
        StoreMissing: a store has no manifest.
    """
    there: dict[int, str] = {}
    for store in stores:
        ids = row_ids(store.folder)
        there.update(zip(ids.image_ids.tolist(), ids.file_names, strict=True))
    found, known, renamed = list[Row](), 0, 0
    for row in all_rows(open_source(_by_order(workflow.dataset), stores[0].folder, keep=keep)):
        name = there.get(row.image_id)
        if name is None:
            found.append(row)
        else:
            known += 1
            renamed += name != plain_name(row.file_name)
    return NewRows(_part(found, about), known, renamed)


def named_rows(
    workflow: Workflow, folder: RunFolder, names: Collection[str], about: Mapping[str, Any], *, keep: bool
) -> PartRows:
    """The rows of a source that have one of these image ids or file names, whatever `dataset.where` says.

    Args:
        folder: the run folder of the store.
        workflow, about, keep: as in `unknown_rows`.
    """
    wanted = frozenset(names)
    source = open_source(_by_order(workflow.dataset).model_copy(update={"where": None}), folder, keep=keep)
    found = [row for row in all_rows(source) if {str(row.image_id), plain_name(row.file_name)} & wanted]
    return _part(found, about)


def rows_true(store: Member, ids: RowIds, where: str) -> Rows:
    """The accepted rows of a store, those that are removed aside, for which an expression is true.

    Raises:
        ConfigError: the expression is wrong, or needs facts that are not there.
    """
    return rows_where(ZarrStore(store.folder), ids.rows[ids.accepted & store.kept(ids.rows)], where)


def rows_named(ids: RowIds, names: Collection[str]) -> dict[str, Rows]:
    """Name -> the rows of a store that have it as image id or file name. Names that no row has are left out.

    A name of digits is an image id if a row has it, else a file name.
    """
    numbers = {number: name for name in names if (number := integer(name)) is not None}
    found: dict[str, list[int]] = {}
    hits = np.flatnonzero(np.isin(ids.image_ids, np.fromiter(numbers, np.int64))) if numbers else ()
    for place in map(int, hits):
        found.setdefault(numbers[int(ids.image_ids[place])], []).append(int(ids.rows[place]))
    left = frozenset(names) - found.keys()
    for place, name in enumerate(ids.file_names if left else ()):
        if name in left:
            found.setdefault(name, []).append(int(ids.rows[place]))
    return {name: np.array(rows, np.int64) for name, rows in found.items()}


def _by_order(dataset: DatasetSettings) -> DatasetSettings:
    """The data settings without buckets: sizes of pictures do not decide which rows are new, and need not be read."""
    return dataset.model_copy(update={"image": dataset.image.model_copy(update={"buckets": None})})


def _part(rows: Sequence[Row], about: Mapping[str, Any]) -> PartRows:
    return PartRows(
        np.array([row.image_id for row in rows], np.int64), [plain_name(row.file_name) for row in rows], about
    )
