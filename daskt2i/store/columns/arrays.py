"""The arrays of the complete columns of a store: how each is named beside those of the store, and where it lies.

Covers: which columns belong to a store, names of their arrays, finding an array by its name.
Does not cover: a Dataset of them (`joined`), reading rows (`loader.joined.column_rows`), where a column is (`places`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daskt2i.errors import StoreError
from daskt2i.store.columns.places import column_folder, columns_of, is_complete
from daskt2i.store.forms.made_rows import made_layout
from daskt2i.store.layout import EMPTY_PREFIX, about_store, checked_layout, row_arrays
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore

VALID = "valid"

ROWS_OWN = frozenset(spec.name for spec in row_arrays(1)) - {VALID}
"""Arrays that a column has only because it is a store: those of the rows are in the store that it belongs to."""


@dataclass(frozen=True, slots=True)
class ColumnArray:
    """An array of a column.

    Attributes:
        store: the store of the column.
        name: the array in it.
        about: its dimensions, shape of a row, dtype and fill value, as in `ZarrStore.layout`.
        rows: rows of the store, also those that it rejected.
        rows_per_chunk: rows of a shard of the column, which may not be those of the store.
        fingerprint: of the column.
    """

    store: ZarrStore
    name: str
    about: Mapping[str, Any]
    rows: int
    rows_per_chunk: int
    fingerprint: str


def column_arrays(folder: RunFolder) -> dict[str, ColumnArray]:
    """The arrays with rows of all complete columns of a run folder, by their names in the Dataset of `open_store`.

    Raises:
        StoreError: the metadata of the store or of a column is damaged.
    """
    found: dict[str, ColumnArray] = {}
    columns = list(complete_columns(folder))
    there = checked_layout(ZarrStore(folder))["arrays"] if columns else ()
    taken = {*there, *(f"{EMPTY_PREFIX}{name}" for name in there)}
    for column, place, about in columns:
        store = ZarrStore(place)
        layout = made_layout(store)
        empty = [one["key"].partition("/")[0] for one in layout.get("constants", ())]
        names = names_of(column, [name for name in (*layout["arrays"], *empty) if name not in ROWS_OWN], taken)
        taken.update(names.values())
        for name, new in names.items():
            if name in layout["arrays"]:
                sizes = int(layout["rows"]), int(layout["rows_per_chunk"])
                found[new] = ColumnArray(store, name, layout["arrays"][name], *sizes, str(about["fingerprint"]))
    return found


def complete_columns(folder: RunFolder) -> Iterator[tuple[str, RunFolder, Mapping[str, Any]]]:
    """(name, run folder, what its store says about itself) of each complete column of the store that is there now.

    A column of a store that was made again since is left out: its rows may be others.
    """
    there = columns_of(folder)
    about = about_store(ZarrStore(folder)) if there else None
    for name in there if about is not None else ():
        place = column_folder(folder, name)
        column = about_store(ZarrStore(place)) if is_complete(place) else None
        if column is None or about is None:
            continue
        if column["identity"]["source"].get("accepted_by") == about["fingerprint"]:
            _require_rows(folder, place)
            yield name, place, column


def _require_rows(folder: RunFolder, column: RunFolder) -> None:
    own, whole = (int(checked_layout(ZarrStore(one))["rows"]) for one in (column, folder))
    if own != whole:
        raise StoreError(
            f"The column in {column} has {own:,} rows, but its store has {whole:,}. Nothing was changed; remove this "
            "folder, and add the column again."
        )


def names_of(column: str, arrays: Sequence[str], taken: Container[str]) -> dict[str, str]:
    """Array of a column -> its name beside the arrays of the store.

    An array is named after its column and itself, as `dino_features`; after its column alone if it is the only one; and
    with two `_` if another array has this name.

    Args:
        arrays: all arrays of the column, also those of the empty prompt.
        taken: names in the store, and of the columns before.
    """
    own = [one for one in arrays if one != VALID and not one.startswith(EMPTY_PREFIX)]
    names = {one: column if len(own) == 1 else f"{column}_{one}" for one in own}
    names |= {one: f"{column}_{one}" for one in arrays if one not in names}
    return {one: f"{column}__{one}" if new in taken else new for one, new in names.items()}
