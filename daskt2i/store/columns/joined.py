"""The arrays of columns beside those of their store, in one xarray Dataset.

Covers: which arrays and dimensions a column gives.
Does not cover: their names (`arrays`), opening one store (`store.dataset`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from daskt2i.store.columns.arrays import ROWS_OWN, complete_columns, names_of
from daskt2i.store.run_folder import RunFolder

if TYPE_CHECKING:
    import xarray


def join_columns(
    found: xarray.Dataset, folder: RunFolder, open_one: Callable[[RunFolder], xarray.Dataset]
) -> xarray.Dataset:
    """A Dataset with the arrays of all complete columns of a run folder too. The rows that a column has are in
    `dino_valid`.

    Args:
        found: the Dataset of the store in `folder`.
        open_one: opens the store in a run folder.
    """
    for name, place, _ in complete_columns(folder):
        arrays = open_one(place).drop_vars(ROWS_OWN, errors="ignore")
        names = names_of(name, [str(one) for one in arrays.data_vars], set(map(str, found.variables)))
        dims = {dim: f"{name}_{dim}" for dim in arrays.dims if dim not in ("row", "slot")}
        found = found.assign(arrays.rename({**names, **dims}).data_vars)
    return found
