"""The arrays of columns beside those of their store, in one xarray Dataset.

Covers: which arrays a column gives, and their names.
Does not cover: opening one store (`store.dataset`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from daskt2i.store.columns.places import column_folder, columns_of, is_complete
from daskt2i.store.layout import EMPTY_PREFIX, about_store, row_arrays
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore

if TYPE_CHECKING:
    import xarray

_ROWS_OWN = frozenset(spec.name for spec in row_arrays(1)) - {"valid"}
"""Arrays that a column has only because it is a store: those of the rows are in the store that it belongs to."""


def join_columns(
    found: xarray.Dataset, folder: RunFolder, open_one: Callable[[RunFolder], xarray.Dataset]
) -> xarray.Dataset:
    """A Dataset with the arrays of all complete columns of a run folder too.

    An array is named after its column and itself, as `dino_features`; after its column alone if it is the only one; and
    with two `_` if another array has this name. The rows that a column has are in `dino_valid`.

    Args:
        found: the Dataset of the store in `folder`.
        open_one: opens the store in a run folder.
    """
    there = columns_of(folder)
    about = about_store(ZarrStore(folder)) if there else None
    for name in there if about is not None else ():
        place = column_folder(folder, name)
        column = about_store(ZarrStore(place)) if is_complete(place) else None
        if column is None or about is None:
            continue
        if column["identity"]["source"].get("accepted_by") != about["fingerprint"]:
            continue  # the store was made again, and its rows may be others
        arrays = open_one(place).drop_vars(_ROWS_OWN, errors="ignore")
        own = [str(one) for one in arrays.data_vars if one != "valid" and not str(one).startswith(EMPTY_PREFIX)]
        names = {one: name if len(own) == 1 else f"{name}_{one}" for one in own}
        names |= {str(one): f"{name}_{one}" for one in arrays.data_vars if str(one) not in names}
        names |= {one: f"{name}__{one}" for one, new in names.items() if new in found.variables}
        dims = {dim: f"{name}_{dim}" for dim in arrays.dims if dim not in ("row", "slot")}
        found = found.assign(arrays.rename({**names, **dims}).data_vars)
    return found
