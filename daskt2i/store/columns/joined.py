"""Which columns a store has, and the names of their arrays beside those of the store.

Covers: complete columns that fit the store; which arrays they give, and their names; all in one xarray Dataset.
Does not cover: opening one store (`store.dataset`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from daskt2i.store.columns.places import column_folder, columns_of, is_complete
from daskt2i.store.layout import EMPTY_PREFIX, about_store, row_arrays
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore

if TYPE_CHECKING:
    import xarray

_ROWS_OWN = frozenset(spec.name for spec in row_arrays(1)) - {"valid"}
"""Arrays that a column has only because it is a store: those of the rows are in the store that it belongs to."""


def fitting_columns(folder: RunFolder) -> Iterator[tuple[str, RunFolder]]:
    """Name and run folder of each complete column whose rows are those of the store."""
    there = columns_of(folder)
    about = about_store(ZarrStore(folder)) if there else None
    for name in there if about is not None else ():
        place = column_folder(folder, name)
        column = about_store(ZarrStore(place)) if is_complete(place) else None
        if column is None or about is None:
            continue
        if column["identity"]["source"].get("accepted_by") == about["fingerprint"]:
            yield name, place  # else the store was made again, and its rows may be others


def names_of_column(name: str, arrays: Iterable[str], taken: Collection[str]) -> dict[str, str]:
    """Array of a column -> its name beside the arrays of the store.

    An array is named after its column and itself, as `dino_features`; after its column alone if it is the only one; and
    with two `_` if another array has this name. The rows that a column has are in `dino_valid`.

    Args:
        name: of the column.
        arrays: all arrays of the store of the column.
        taken: names of other arrays.
    """
    given = [one for one in arrays if one not in _ROWS_OWN]
    own = [one for one in given if one != "valid" and not one.startswith(EMPTY_PREFIX)]
    names = {one: name if len(own) == 1 else f"{name}_{one}" for one in own}
    names |= {one: f"{name}_{one}" for one in given if one not in names}
    return names | {one: f"{name}__{one}" for one, new in names.items() if new in taken}


def join_columns(
    found: xarray.Dataset, folder: RunFolder, open_one: Callable[[RunFolder], xarray.Dataset]
) -> xarray.Dataset:
    """A Dataset with the arrays of all complete columns of a run folder too, named as in `names_of_column`.

    Args:
        found: the Dataset of the store in `folder`.
        open_one: opens the store in a run folder.
    """
    for name, place in fitting_columns(folder):
        arrays = open_one(place).drop_vars(_ROWS_OWN, errors="ignore")
        names = names_of_column(name, map(str, arrays.data_vars), {str(one) for one in found.variables})
        dims = {dim: f"{name}_{dim}" for dim in arrays.dims if dim not in ("row", "slot")}
        found = found.assign(arrays.rename({**names, **dims}).data_vars)
    return found
