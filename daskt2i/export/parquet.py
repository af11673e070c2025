"""Parquet: tables of rows, with arrays as lists.

Covers: the tables, `data/part-00000.parquet` and on, one row group a chunk of the store.
Does not cover: the rows (`rows`).

Latents are lists of a fixed length, and states are one flat list a row, because nested lists are read several times
slower. The metadata of the schema has their shapes, under the key `daskt2i`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from daskt2i.export.rows import Array, Exported, ExportedRows

if TYPE_CHECKING:
    import pyarrow as pa

_FILE_BYTES = 256 * 2**20
"""A file with more bytes gets no further row group."""


class ParquetFiles:
    """Tables as files of a limited size.

    Args:
        place: the folder.
        name: name of a file, with a place for its number: `"data/part-{:05d}.parquet"`.
    """

    def __init__(self, place: Path, name: str) -> None:
        self._place, self._name = place, name
        self._writer: Any = None
        self._number = 0

    def write(self, table: pa.Table) -> None:
        """Append a row group."""
        import pyarrow.parquet as pq

        path = self._place / self._name.format(self._number)
        if self._writer is None:
            path.parent.mkdir(exist_ok=True)
            self._writer = pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=False)
        self._writer.write_table(table)
        if path.stat().st_size > _FILE_BYTES:
            self.close()

    def close(self) -> None:
        """Close the file; the next table begins another one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._number += 1


class ParquetWriter:
    """Writes tables with flat lists."""

    def __init__(self, place: Path, exported: Exported) -> None:
        self._files = ParquetFiles(place, "data/part-{:05d}.parquet")
        self._shapes = {"latent": exported.latent_shape, "features": exported.features}

    def write(self, part: ExportedRows) -> None:
        """Write the rows as a row group."""
        import pyarrow as pa

        columns = label_columns(part)
        for name, values in (("latent_mean", part.mean), ("latent_std", part.std)):
            if values is not None:
                flat = pa.array(np.ascontiguousarray(values).ravel())
                columns[name] = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
        columns["text_states"] = flat_lists(part.states)
        columns["text_mask"] = flat_lists(part.masks)
        columns["text_tokens"] = pa.array([mask.shape[1] for mask in part.masks], pa.int32())
        for name, arrays in part.extra.items():
            columns[name] = flat_lists(arrays)
        about = {b"daskt2i": json.dumps(self._shapes).encode()}
        self._files.write(pa.table(columns).replace_schema_metadata(about))

    def close(self) -> None:
        """Close the last file."""
        self._files.close()

    def discard(self) -> None:
        """Close the file."""
        self._files.close()


def label_columns(part: ExportedRows) -> dict[str, Any]:
    """The columns that are no arrays."""
    import pyarrow as pa

    return {
        "row": pa.array(part.numbers),
        "image_id": pa.array(part.image_ids),
        "file_name": pa.array(list(part.file_names), pa.string()),
        "captions": pa.array([list(texts) for texts in part.captions], pa.list_(pa.string())),
    }


def flat_lists(arrays: Sequence[Array]) -> Any:
    """One list a row: the values of its array, flat."""
    import pyarrow as pa

    ends = np.cumsum([0, *(array.size for array in arrays)]).astype(np.int32)
    return pa.ListArray.from_arrays(ends, pa.array(np.concatenate([array.ravel() for array in arrays])))
