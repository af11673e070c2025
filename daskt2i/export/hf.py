"""A data set for the library `datasets`, and for the Hugging Face hub: Parquet with nested lists.

Covers: `data/train-00000.parquet` and on. `datasets.load_dataset("FOLDER", split="train")` reads it.
Does not cover: the card with the settings that the hub reads (`card`), uploading.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daskt2i.export.parquet import ParquetFiles, label_columns
from daskt2i.export.rows import Array, Exported, ExportedRows


class HfWriter:
    """Writes tables with nested lists: latents `[channel, y, x]`, states `[caption, token, feature]`."""

    def __init__(self, place: Path, exported: Exported) -> None:
        self._files = ParquetFiles(place, "data/train-{:05d}.parquet")

    def write(self, part: ExportedRows) -> None:
        """Write the rows as a row group."""
        import pyarrow as pa

        columns = label_columns(part)
        columns["latent_mean"] = _nested(list(part.mean))
        if part.std is not None:
            columns["latent_std"] = _nested(list(part.std))
        columns["text_states"] = _nested(part.states)
        columns["text_mask"] = _nested(part.masks)
        for name, arrays in part.extra.items():
            columns[name] = _nested(arrays)
        self._files.write(pa.table(columns))

    def close(self) -> None:
        """Close the last file."""
        self._files.close()

    def discard(self) -> None:
        """Close the file."""
        self._files.close()


def _nested(arrays: Sequence[Array]) -> Any:
    """Lists of lists, as deep as the arrays have dimensions. All arrays have the same number of them."""
    import pyarrow as pa

    made = pa.array(np.concatenate([array.ravel() for array in arrays]))
    for axis in range(arrays[0].ndim - 1, -1, -1):
        sizes = [array.shape[axis] for array in arrays for _ in range(int(np.prod(array.shape[:axis])))]
        made = pa.ListArray.from_arrays(np.cumsum([0, *sizes]).astype(np.int32), made)
    return made
