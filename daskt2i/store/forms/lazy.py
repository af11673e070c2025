"""Arrays of a store in an xarray Dataset as the encoders made them: lazy, one Dask chunk per shard.

Covers: putting them in the place of the arrays that hold their forms.
Does not cover: opening the store (`store.dataset`), reading rows (`made_rows`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from daskt2i.store.forms.form import Form
from daskt2i.store.forms.made_rows import read_made, stored_forms
from daskt2i.store.zarr_store import ZarrStore

if TYPE_CHECKING:
    import xarray


def as_made(found: xarray.Dataset, store: ZarrStore) -> xarray.Dataset:
    """The Dataset with the arrays as the encoders made them. It is the same one if all arrays are exact.

    Raises:
        StoreError: metadata are damaged.
    """
    for form in stored_forms(store).values():
        found = found.drop_vars([spec.name for spec in form.arrays()])
        found = found.assign({form.made.name: _variable(store, form)})
    return found


def _variable(store: ZarrStore, form: Form) -> Any:
    import dask.array as da
    import xarray as xr

    layout, made = store.layout(), form.made
    rows, step = layout["rows"], layout["rows_per_chunk"]
    edges = tuple(min(step, rows - start) for start in range(0, rows, step))

    def read(block_info: Any = None) -> npt.NDArray[Any]:
        start, stop = block_info[None]["array-location"][0]
        return read_made(store, made.name, start, stop)

    chunks = (edges, *((side,) for side in made.shape))
    values = da.map_blocks(read, chunks=chunks, dtype=made.dtype, meta=_nothing(form))
    attributes = {"description": made.description, "stored_as": form.number + ", packed" * form.packed}
    return xr.Variable(("row", *made.dims), values, attributes)


def _nothing(form: Form) -> npt.NDArray[Any]:
    import numpy as np

    return np.empty((0,) * (1 + len(form.made.shape)), form.made.dtype)
