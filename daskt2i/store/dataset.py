"""The store as an xarray Dataset: lazy, read-only, with its variables in reading order.

Covers: opening the store, the order of its variables, showing long attributes briefly.
Does not cover: writing the store and reading rows fast (`zarr_store`), training samples (`loader`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daskt2i.store.layout import checked_layout
from daskt2i.store.run_folder import STORE, RunFolder
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
    store = ZarrStore(folder, "" if folder.exists("zarr.json") else STORE)
    layout = checked_layout(store)
    import xarray as xr

    chunks = {"row": layout["rows_per_chunk"]}
    found = xr.open_zarr(reading_store(folder, store.name), consolidated=False, chunks=chunks, zarr_format=3)
    names = [name for name in READING_ORDER if name in found.data_vars]
    found = found[[*names, *sorted(str(name) for name in found.data_vars if name not in names)]]
    about = found.attrs.get(PROVENANCE)
    found.attrs = {PROVENANCE: Provenance({**(about if isinstance(about, dict) else {}), LAYOUT: dict(layout)})}
    return found
