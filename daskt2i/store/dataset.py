"""The store as an xarray Dataset: lazy, read-only, with its variables in reading order.

Covers: opening the store, the order of its variables, showing long attributes briefly, the nearest run folder to a
wrong path.
Does not cover: writing the store and reading rows fast (`zarr_store`), training samples (`loader`).
"""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from daskt2i.errors import StoreError, StoreMissing
from daskt2i.store.columns.joined import join_columns
from daskt2i.store.forms.lazy import as_made
from daskt2i.store.layout import checked_layout
from daskt2i.store.parts.joined import join_parts
from daskt2i.store.parts.rows_file import members
from daskt2i.store.run_folder import STORE, WORKFLOW, RunFolder
from daskt2i.store.views import grid_of
from daskt2i.store.zarr_flush import reading_store
from daskt2i.store.zarr_store import LAYOUT, ZarrStore

if TYPE_CHECKING:
    import xarray

READING_ORDER = (
    *("caption", "latent_mean", "latent_std"),
    *("text_states", "text_mask", "text_pooled", "text_truncated"),
    *("valid", "source_size", "crop_box"),
    *("empty_text_states", "empty_text_mask", "empty_text_pooled"),
)
"""The order of the variables. Other variables follow, sorted by name."""

PROVENANCE = "daskt2i"
"""Name of the attribute that records the data, the encoders and the settings of the store."""


class Provenance(dict[str, Any]):
    """A mapping whose `repr` shows only the fingerprint and the keys, because its values fill pages."""

    def __repr__(self) -> str:
        rest = ", ".join(key for key in self if key != "fingerprint")
        return f"{{fingerprint {str(self.get('fingerprint'))[:12]}…, {rest}}}"

    __str__ = __repr__


def open_store(path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> xarray.Dataset:
    """Open a latent store as an xarray Dataset: lazy, read-only, one Dask chunk per shard.

    Arrays that are stored in another form (`dataset.store`) are decoded when they are read. The attribute `stored_as`
    names the form. The arrays of complete columns (`add`) are there too, named after their column. Rows that were
    appended follow those of the first store, and `valid` is False for removed rows; see docs/how-to/rows.md. With
    aspect buckets each size of picture has its own arrays and dimensions (`latent_mean_512x448`), which are NaN in rows
    of other buckets; `row` then has the row numbers, because some are left out. See docs/how-to/shapes.md.

    The attribute `daskt2i` of the Dataset is a mapping: the fingerprint, the settings and data behind it, the encoders,
    the layout.

    Args:
        path: a run folder, or the `.zarr` folder in it, as a path or an fsspec address.
        storage_options: passed to fsspec.

    Raises:
        StoreMissing: there is no store at this address.
        StoreError: the metadata of the store is damaged.
    """
    folder = RunFolder(path, storage_options)
    found = _open_one(folder)
    if folder.exists("zarr.json"):
        return found
    stores = members(folder)
    opened = (found, *(_open_one(store.folder) for store in stores[1:]))
    columns = [join_columns(one, store.folder, _open_one) for one, store in zip(opened, stores, strict=True)]
    return join_parts(columns, stores)


def _open_one(folder: RunFolder) -> xarray.Dataset:
    """The store of a run folder, without its columns."""
    store = ZarrStore(folder, "" if folder.exists("zarr.json") else STORE)
    try:
        layout = checked_layout(store)
    except StoreError as error:
        if not folder.is_local or (folder.local_path() / STORE).exists() or folder.exists("zarr.json"):
            raise
        raise StoreMissing(
            f"There is no latent store in {folder}, which {_what(folder.local_path())}. Nothing was changed. Run "
            f"encode to make one, or give another run folder.{nearest_run(folder)}"
        ) from error
    import xarray as xr

    chunks = {"row": layout["rows_per_chunk"]}
    found = xr.open_zarr(reading_store(folder, store.name), consolidated=False, chunks=chunks, zarr_format=3)
    found = as_made(found, store)
    names = [name for name in READING_ORDER if name in found.data_vars]
    found = found[[*names, *sorted(str(name) for name in found.data_vars if name not in names)]]
    about = found.attrs.get(PROVENANCE)
    grid = grid_of(layout, about if isinstance(about, dict) else {})
    if grid.short:
        numbers = np.concatenate([np.arange(chunk.start, chunk.stop) for chunk in grid])
        found = found.isel(row=numbers).assign_coords(row=("row", numbers))
    found.attrs = {PROVENANCE: Provenance({**(about if isinstance(about, dict) else {}), LAYOUT: dict(layout)})}
    return found


def nearest_run(folder: RunFolder) -> str:
    """`" Did you mean runs/demo?"`, or "" if there is no run folder of a similar name, above it or in it."""
    if not folder.is_local:
        return ""
    place = folder.local_path()
    above = next((parent for parent in place.parents if _is_run(parent)), None)
    if above is not None:  # a file or a folder of a run folder
        return f" Did you mean {above}?"
    beside = {one.name: one for one in _runs(place.parent)}
    near = [beside[name] for name in difflib.get_close_matches(place.name, list(beside), 1)]
    found = near or sorted(_runs(place))[:1]
    return f" Did you mean {found[0]}?" if found else ""


_LOOKED_AT = 1000
"""Names of a folder that are looked at for a hint."""


def _runs(place: Path) -> Iterator[Path]:
    try:
        yield from filter(_is_run, itertools.islice(place.iterdir(), _LOOKED_AT))
    except OSError:  # no folder, or one that may not be read
        return


def _is_run(place: Path) -> bool:
    try:
        return (place / STORE).is_dir() or (place / WORKFLOW).is_file()
    except OSError:
        return False


def _what(place: Path) -> str:
    if place.is_file():
        return "is a file"
    if not place.is_dir():
        return "does not exist"
    return "is a run folder without a store" if _is_run(place) else "is not a run folder"
