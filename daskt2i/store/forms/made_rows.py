"""Rows of a store as the encoders made them, whatever their form.

Covers: which arrays a store has in this view, reading rows of them.
Does not cover: the fast reading of training (`loader`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.store.forms.chunks import numbers_of
from daskt2i.store.forms.form import MASK, Form, Forms, read_forms
from daskt2i.store.forms.packed import lengths_of, unpack
from daskt2i.store.zarr_store import ZarrStore


def stored_forms(store: ZarrStore) -> Forms:
    """The forms of a store; none for a store whose arrays are exact.

    Raises:
        StoreError: metadata are damaged.
    """
    about = (store.attributes() or {}).get("daskt2i")
    return read_forms(about if isinstance(about, dict) else {}, store.address)


def made_layout(store: ZarrStore) -> dict[str, Any]:
    """`ZarrStore.layout`, with the arrays as the encoders made them.

    Raises:
        StoreMissing: there is no store.
        StoreError: metadata are damaged.
    """
    layout, forms = store.layout(), stored_forms(store)
    if not forms:
        return layout
    first = {form.values: form for form in forms.values()}
    hidden = {spec.name for form in forms.values() for spec in form.arrays()} - first.keys()
    arrays: dict[str, Any] = {}
    for name, about in layout["arrays"].items():
        if name in first:
            made = first[name].made
            arrays[made.name] = {"dims": [*made.dims], "shape": [*made.shape], "dtype": made.dtype, "fill": made.fill}
        elif name not in hidden:
            arrays[name] = about
    return {**layout, "arrays": arrays}


def read_made(store: ZarrStore, name: str, start: int, stop: int) -> npt.NDArray[Any]:
    """Rows `start <= row < stop` of one array, as `ZarrStore.read` for an array that is exact.

    Raises:
        StoreMissing: there is no store here.
        StoreError: there is no such array or row, or the stored data is damaged.
    """
    form = stored_forms(store).get(name)
    if form is None:
        return store.read(name, start, stop)
    return _unpacked(store, form, start, stop) if form.packed else _numbers(store, form, start, stop)


def _numbers(store: ZarrStore, form: Form, start: int, stop: int) -> npt.NDArray[Any]:
    scale = store.read(form.scale, start, stop) if form.number == "int8" else None
    return numbers_of(form, store.read(form.values, start, stop), scale)


def _unpacked(store: ZarrStore, form: Form, start: int, stop: int) -> npt.NDArray[Any]:
    slots, tokens, features = form.made.shape
    layout = store.layout()
    step, rows = layout["rows_per_chunk"], layout["rows"]
    made = np.zeros((max(0, stop - start), slots, tokens, features), form.made.dtype)
    for edge in range(start - start % step, stop, step):
        low, high = max(start, edge), min(stop, edge + step)
        flat = _numbers(store, form, edge, min(edge + step, rows)).reshape(-1, features)
        lengths = lengths_of(store.read(MASK, low, high), form.whole)
        made[low - start : high - start] = unpack(flat, store.read(form.begin, low, high), lengths, tokens)
    return made
