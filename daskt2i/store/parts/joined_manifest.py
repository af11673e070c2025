"""The manifest of a store and its parts, as one table.

Covers: row numbers, chunks, removed rows.
Does not cover: writing the manifest of a store (`store.manifest`), ids alone (`row_ids`).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from daskt2i.store.layout import checked_layout
from daskt2i.store.parts.rows_file import Member, members
from daskt2i.store.run_folder import MANIFEST, RunFolder
from daskt2i.store.zarr_store import ZarrStore

if TYPE_CHECKING:
    import pyarrow as pa

REMOVED = "removed"
"""The status of a row that was removed. It stands in this table alone: the manifest of a store does not change."""


def joined_manifest(folder: RunFolder) -> pa.Table:
    """One line for each row of all stores of a run folder, with its global number. Chunks are counted on, too.

    Raises:
        FileNotFoundError: a store has no manifest.
        pyarrow.ArrowException: a manifest is damaged.
        StoreError: `rows.json` is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for store in members(folder):
        table = pq.read_table(io.BytesIO(store.folder.read(MANIFEST)))
        tables.append(_numbered(table, store) if store.offset or store.removed else table)
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables)


def _numbered(table: pa.Table, store: Member) -> pa.Table:
    import pyarrow as pa

    rows = np.asarray(table["row"].to_numpy(), np.int64)
    first_chunk = store.offset // int(checked_layout(ZarrStore(store.folder))["rows_per_chunk"])
    status = [one if kept else REMOVED for one, kept in zip(table["status"].to_pylist(), store.kept(rows), strict=True)]
    columns = {
        "row": pa.array(rows + store.offset),
        "chunk": pa.array(np.asarray(table["chunk"].to_numpy(), np.int64) + first_chunk),
        "status": pa.array(status, pa.string()),
    }
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), values)
    return table
