"""The steps of a change of rows: find the rows, encode them as a part, replace `rows.json`.

Covers: the order of these steps, the lock, a change that was stopped before.
Does not cover: which rows are new (`encode.parts.new_rows`), the methods with their arguments (`methods`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from daskt2i.config.settings import Workflow
from daskt2i.encode.parts.new_rows import named_rows, rows_named, rows_true, unknown_rows
from daskt2i.encode.parts.result import RowsResult
from daskt2i.encode.parts.workflow import part_workflow
from daskt2i.encode.saved_workflow import with_source, without_secrets
from daskt2i.errors import StoreError
from daskt2i.events import Note
from daskt2i.formatting import many
from daskt2i.session.stages import Stages
from daskt2i.store.ownership import claim
from daskt2i.store.parts.places import part_folder, part_name, parts_begun
from daskt2i.store.parts.row_ids import PartRows, RowIds, part_rows, row_ids, write_part_rows
from daskt2i.store.parts.rows_file import Member, RowsFile, members, read_rows, write_rows
from daskt2i.store.publishing import lock


@dataclass(frozen=True, slots=True)
class _Begun:
    """The part that a command encodes.

    Attributes:
        name: of the part.
        listed: its rows, if they were written down before; else None.
    """

    name: str
    listed: PartRows | None


def append(stages: Stages, *, dry_run: bool) -> RowsResult:
    """Encode the rows of the source that the store does not have, as a part."""
    workflow = _workflow(stages, draw=not dry_run)
    with _held(stages, "append", dry_run) as still_held:
        rows, stores = read_rows(stages.folder), members(stages.folder)
        about = _about("append", workflow)
        begun = _begun(stages, rows, about)
        new = unknown_rows(workflow, stores, about, keep=not dry_run)
        if new.renamed:
            _note(stages, f"Rows of the source whose image id the store has under another file name: {new.renamed:,}.")
        listed = begun.listed or new.listed
        result = RowsResult("append", str(stages.folder), dry_run, new=len(listed), known=new.known)
        if not len(listed) or dry_run:
            return replace(result, rows=_accepted(stores))
        result = _encoded(stages, workflow, begun, listed, result)
        if result.done:
            still_held()
            write_rows(stages.folder, rows.with_part(begun.name))
        if result.done and len(new.listed) > len(listed):
            more = len(new.listed) - len(listed)
            _note(stages, f"The source has {many(more, 'new row')} more by now. Run append again to encode them.")
        return replace(result, rows=_accepted(members(stages.folder)))


def remove(stages: Stages, names: Collection[str] | None, where: str | None, *, dry_run: bool) -> RowsResult:
    """Take rows out of `rows.json`. No array is read, except what `where` needs, and none is written."""
    with _held(stages, "remove", dry_run) as still_held:
        rows, stores = read_rows(stages.folder), members(stages.folder)
        removed, gone, unknown = 0, 0, set(names or ())
        for store in stores:
            ids = row_ids(store.folder)
            if names is None:
                found = rows_true(store, ids, where or "")
            else:
                hits = rows_named(ids, names)
                unknown -= hits.keys()
                found = np.unique(np.concatenate([*hits.values(), np.empty(0, np.int64)]))
                gone += int(np.count_nonzero(~store.kept(found)))
                found = found[store.kept(found)]
            removed += len(found)
            rows = rows.without_rows(store.name, found)
        if removed and not dry_run:
            still_held()
            write_rows(stages.folder, rows)
        return RowsResult(
            "remove",
            str(stages.folder),
            dry_run,
            named=None if names is None else len(names),
            removed=removed,
            gone=gone,
            unknown=_in_order(names, unknown),
            rows=_accepted(members(stages.folder)),
        )


def replace_rows(stages: Stages, names: Collection[str], *, dry_run: bool) -> RowsResult:
    """Encode rows of the source that a user names as a part; the rows of before with these names are then removed."""
    workflow = _workflow(stages, draw=not dry_run)
    with _held(stages, "replace", dry_run) as still_held:
        rows, stores = read_rows(stages.folder), members(stages.folder)
        ids = {store.name: row_ids(store.folder) for store in stores}
        there = {name: rows_named(one, names) for name, one in ids.items()}
        known = set[str]().union(*there.values())
        about = _about("replace", workflow, sorted(names))
        begun = _begun(stages, rows, about)
        listed = begun.listed or named_rows(workflow, stages.folder, known, about, keep=not dry_run)
        found = _rows_of(listed)
        here = rows_named(found, known)
        result = RowsResult(
            "replace",
            str(stages.folder),
            dry_run,
            new=len(listed),
            named=len(names),
            unknown=_in_order(names, set(names) - here.keys()),
            rows=_accepted(stores),
        )
        if not len(listed) or dry_run:
            return replace(result, removed=_count(there, here, stores))
        result = _encoded(stages, workflow, begun, listed, result)
        if not result.done:
            return result
        made = row_ids(part_folder(stages.folder, begun.name))
        accepted = made.rows[made.accepted]
        swapped = {name for name, places in rows_named(made, here).items() if np.isin(places, accepted).any()}
        after = rows.with_part(begun.name)
        for store in stores:
            for name in swapped & there[store.name].keys():
                after = after.without_rows(store.name, there[store.name][name])
        still_held()
        write_rows(stages.folder, after)
        removed = _count(there, swapped, stores)
        return replace(result, removed=removed, kept=len(here) - len(swapped), rows=_accepted(members(stages.folder)))


@contextlib.contextmanager
def _held(stages: Stages, label: str, dry_run: bool) -> Iterator[Callable[[], None]]:
    """Hold the run folder: one command at a time changes its rows. A plan holds nothing.

    Raises:
        StoreBusy: another process holds it.
    """
    if dry_run:
        yield lambda: None
        return
    with lock.hold(stages.folder, label, lambda text: _note(stages, text)) as still_held:
        yield still_held


def _note(stages: Stages, text: str) -> None:
    stages.listener(Note(text))


def _workflow(stages: Stages, *, draw: bool) -> Workflow:
    return part_workflow(with_source(stages.workflow, stages.folder, draw), stages.folder)


def _about(command: str, workflow: Workflow, names: Collection[str] = ()) -> Mapping[str, Any]:
    """What makes a part, as it is written down beside its rows."""
    source = without_secrets(workflow).dataset.source.model_dump(mode="json", by_alias=True)
    return {"command": command, "source": source, "where": workflow.dataset.where, "names": list(names)}


def _begun(stages: Stages, rows: RowsFile, about: Mapping[str, Any]) -> _Begun:
    """The part that the same command began and did not end; else a new one.

    Raises:
        StoreError: another command began a part and did not end.
    """
    begun = parts_begun(stages.folder)
    for name in (name for name in begun if name not in rows.parts):
        listed = part_rows(part_folder(stages.folder, name))
        if listed is None:
            return _Begun(name, None)
        if listed.about != about:
            raise StoreError(
                f"{listed.about.get('command')} of {many(len(listed), 'row')} was stopped before it ended. The store "
                f"in {stages.folder} has the rows of before. Run that command again to end it, or remove the folder "
                f"parts/{name} to give it up, then run this one."
            )
        return _Begun(name, listed)
    return _Begun(part_name(1 + max(map(int, (*begun, *rows.parts)), default=0)), None)


def _encoded(stages: Stages, workflow: Workflow, begun: _Begun, listed: PartRows, result: RowsResult) -> RowsResult:
    """Encode the part, as far as it is not encoded."""
    place = part_folder(stages.folder, begun.name)
    if begun.listed is None:
        claim(place)
        write_part_rows(place, listed)
    dataset = workflow.dataset.model_copy(update={"part": begun.name})
    settings = workflow.model_copy(update={"name": f"{workflow.name}, part {begun.name}", "dataset": dataset})
    return replace(result, part=begun.name, encoded=stages.at(settings, place).encode())


def _rows_of(listed: PartRows) -> RowIds:
    """The rows of a part that is not encoded yet."""
    numbers = np.arange(len(listed), dtype=np.int64)
    return RowIds(numbers, listed.image_ids, listed.file_names, np.ones(len(listed), np.bool_), numbers)


def _accepted(stores: Collection[Member]) -> int:
    """Accepted rows that are still there."""
    found = 0
    for store in stores:
        ids = row_ids(store.folder)
        found += int(np.count_nonzero(ids.accepted & store.kept(ids.rows)))
    return found


def _count(there: Mapping[str, Mapping[str, Any]], names: Collection[str], stores: Collection[Member]) -> int:
    """How many rows with these names are not removed yet."""
    found = 0
    for store in stores:
        rows = [there[store.name][name] for name in there[store.name] if name in names]
        found += int(np.count_nonzero(store.kept(np.unique(np.concatenate([*rows, np.empty(0, np.int64)])))))
    return found


def _in_order(names: Collection[str] | None, some: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names or () if name in some)
