"""Whether the arrays of a chunk fit the arrays of a store.

Covers: names, shapes, dtypes and text of a chunk; its rows.
Does not cover: writing them (`zarr_store`), their values (`encode.gates`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import StoreError
from daskt2i.store.views import grid_of, view_of_array, views_of
from daskt2i.types import Chunk, Encoded


def checked_arrays(
    chunk: Chunk, encoded: Encoded, layout: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, npt.NDArray[Any]]:
    """The chunk's arrays, checked. zarr would cast and broadcast wrong arrays without an error.

    Args:
        layout: of the store; `about`: its attribute `daskt2i`, which has the views.

    Raises:
        StoreError: an array is missing or unknown, a shape or dtype is wrong, or the chunk is not one of the store.
    """
    rows, per_chunk, grid, views = layout["rows"], layout["rows_per_chunk"], grid_of(layout, about), views_of(about)
    arrays = {
        name: spec
        for name, spec in layout["arrays"].items()
        if (view := view_of_array(name, views)) is None or view.covers(chunk.index)
    }
    where = f"Chunk {chunk.index} was not written:"
    planned = grid[chunk.index] if 0 <= chunk.index < len(grid) else None
    if planned is None or (chunk.start, chunk.stop) != (planned.start, planned.stop):
        raise StoreError(
            f"{where} rows {chunk.start} to {chunk.stop} are not chunk {chunk.index} of a store of {rows} rows, "
            f"{per_chunk} per chunk."
        )
    missing, unknown = sorted(arrays.keys() - encoded.arrays), sorted(encoded.arrays.keys() - arrays)
    if missing or unknown:
        raise StoreError(f"{where} missing arrays: {missing}, arrays that the store does not have: {unknown}.")
    checked = {}
    for name, spec in arrays.items():
        values = np.asarray(encoded.arrays[name])
        shape = (len(chunk), *spec["shape"])
        if values.shape != shape:
            raise StoreError(f"{where} {name} has shape {values.shape} instead of {shape}.")
        if spec["dtype"] == "string":
            values = _text(values, f"{where} {name}")
        elif values.dtype != np.dtype(spec["dtype"]):
            raise StoreError(f"{where} {name} is {values.dtype} instead of {spec['dtype']}.")
        checked[name] = values
    return checked


def _text(values: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    """An object array of `str`. It refuses values that are not text, and lone surrogates, which UTF-8 cannot hold."""
    strings = values.astype(object)
    for index, value in np.ndenumerate(strings):
        if not isinstance(value, str):
            raise StoreError(f"{where} at {index} is {type(value).__name__} instead of text.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise StoreError(f"{where} at {index} is not valid Unicode ({error.reason}).") from error
    return strings
