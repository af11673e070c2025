"""The arrays of a store and its parts, one after the other, in one xarray Dataset.

Covers: row numbers, rows between two stores, removed rows, arrays that not all of the stores have.
Does not cover: opening one store (`store.dataset`), samples for training (`loader`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from daskt2i.errors import StoreError
from daskt2i.store.parts.rows_file import Member, numbers_of

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray

_GROWS = "slot"
"""The dimension that may be longer in one store than in another: captions of a row."""


def join_parts(found: Sequence[xarray.Dataset], stores: Sequence[Member]) -> xarray.Dataset:
    """A Dataset whose row i is the row with the global number i, lazily.

    `valid` is False for removed rows, and for the numbers between two stores, where all arrays have their fill value.
    The same is true for an array, such as that of a column, in the rows of a store that does not have it. If a store
    leaves out row numbers (aspect buckets), those between two stores are left out too, and `row` has the others.

    Args:
        found: the Dataset of each store.
        stores: the members, in the same order.

    Raises:
        StoreError: two stores have an array of one name with different shapes or dtypes.
    """
    shown = [_without(one, store) for one, store in zip(found, stores, strict=True)]
    if len(shown) == 1:
        return shown[0]
    import xarray as xr

    labelled = any("row" in one.coords for one in shown)
    if labelled:
        numbered = zip(shown, stores, strict=True)
        shown = [one.assign_coords(row=_row_numbers(one) + store.offset) for one, store in numbered]
    kinds = _kinds(shown, stores)
    sizes = {dim: max(one.sizes.get(dim, 0) for one in shown) for dim in {dim for one in shown for dim in one.dims}}
    pieces = []
    for place, one in enumerate(shown):
        rows = one.sizes["row"]
        last = place + 1 == len(shown)
        numbers = rows if last or labelled else stores[place + 1].offset - stores[place].offset
        pieces.append(_padded(one, kinds, {**sizes, "row": numbers}))
    joined = xr.concat(pieces, "row", data_vars="all", coords="minimal", compat="override", join="override")
    whole = joined.assign(
        {name: values for one in shown for name, values in one.data_vars.items() if name not in kinds}
    )
    return whole[[*(name for name in shown[0].data_vars), *(name for name in whole.data_vars if name not in shown[0])]]


def _without(one: xarray.Dataset, store: Member) -> xarray.Dataset:
    """The Dataset of a store in which removed rows are not valid."""
    gone = numbers_of(store.removed)
    if not len(gone):
        return one
    there = ~np.isin(_row_numbers(one), gone)
    masks = [name for name in one.data_vars if f"_{name}".endswith("_valid") and one[name].dims == ("row",)]
    return one.assign({name: (("row",), one[name].data & there, one[name].attrs) for name in masks})


def _row_numbers(one: xarray.Dataset) -> npt.NDArray[np.int64]:
    """The number of each row in its own store."""
    return np.asarray(one["row"].values, np.int64) if "row" in one.coords else np.arange(one.sizes["row"])


def _kinds(shown: Sequence[xarray.Dataset], stores: Sequence[Member]) -> dict[Any, tuple[tuple[Any, ...], Any, Any]]:
    """Name -> dimensions, dtype and attributes of each array of rows, coordinates included."""
    kinds: dict[Any, tuple[tuple[Any, ...], Any, Any]] = {}
    shapes: dict[Any, Any] = {}
    for one, store in zip(shown, stores, strict=True):
        for name, array in one.variables.items():
            if array.dims[:1] != ("row",):
                continue
            shape = [one.sizes[dim] for dim in array.dims if dim not in ("row", _GROWS)]
            mine = (array.dims, array.dtype.kind, shape)
            if shapes.setdefault(name, mine) != mine:
                raise StoreError(
                    f"{name} has the dimensions {_words(mine)} in {store.folder}, but {_words(shapes[name])} in the "
                    "stores before it. Nothing was changed; remove the folder of this column, and add it again."
                )
            kinds.setdefault(name, (array.dims, array.dtype, array.attrs))
    return kinds


def _words(kind: tuple[Any, ...]) -> str:
    return f"{', '.join(map(str, kind[0]))} {kind[2]}"


def _padded(one: xarray.Dataset, kinds: dict[Any, Any], sizes: dict[Any, int]) -> xarray.Dataset:
    """A Dataset with all arrays of rows, filled up to these sizes."""
    import dask.array as da
    import xarray as xr

    arrays, rows_per_chunk = {}, max(one.chunksizes["row"])
    for name, (dims, dtype, attributes) in kinds.items():
        shape = tuple(sizes[dim] for dim in dims)
        fill = _fill(dtype)
        chunks = (rows_per_chunk, *shape[1:])
        if name in one.variables:
            values = one.variables[name].chunk().data
            for axis, length in enumerate(shape):
                if length > values.shape[axis]:
                    more = (*values.shape[:axis], length - values.shape[axis], *values.shape[axis + 1 :])
                    filled = da.full(more, fill, dtype=values.dtype, chunks=tuple(map(min, chunks, more)))
                    values = da.concatenate([values, filled], axis)
        else:
            values = da.full(shape, fill, dtype=dtype, chunks=chunks)
        arrays[name] = xr.Variable(dims, values, attributes)
    labels = {name: arrays.pop(name) for name in one.coords if name in arrays}
    return xr.Dataset(arrays, labels, one.attrs)


def _fill(dtype: Any) -> Any:
    """What stands where no row was written; as `store.layout` has it."""
    if dtype.kind == "f":
        return np.nan
    return "" if dtype.kind in "OTU" else np.zeros((), dtype).item()
