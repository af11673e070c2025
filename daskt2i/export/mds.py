"""MDS, the format of mosaicml-streaming.

Covers: its shards and their index, written by its own `MDSWriter`.
Does not cover: the rows (`rows`), uploading.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from daskt2i.errors import ConfigError
from daskt2i.export.rows import Array, Exported, ExportedRows

_SIZE_LIMIT = "128mb"


class MdsWriter:
    """Writes shards. Latents are `ndarray` of their shape, states `[caption, token, feature]`, captions JSON.

    Raises:
        ConfigError: mosaicml-streaming is not installed.
    """

    def __init__(self, place: Path, exported: Exported) -> None:
        self._place = place
        self._writer: Any = None
        try:
            from streaming import MDSWriter
        except ImportError as error:
            raise ConfigError(
                f"mds needs mosaicml-streaming, which cannot be imported ({error}). Nothing was written; run pip "
                "install 'daskt2i[export]'."
            ) from error
        self._make = MDSWriter

    def write(self, part: ExportedRows) -> None:
        """Write the rows as samples."""
        for place in range(len(part)):
            sample: dict[str, Any] = {
                "row": int(part.numbers[place]),
                "image_id": int(part.image_ids[place]),
                "file_name": part.file_names[place],
                "captions": list(part.captions[place]),
            }
            arrays: dict[str, Array] = {"latent_mean": part.mean[place], "text_states": part.states[place]}
            arrays["text_mask"] = part.masks[place].astype(np.uint8)
            if part.std is not None:
                arrays["latent_std"] = part.std[place]
            for name, values in part.extra.items():
                arrays[name] = values[place].astype(np.uint8) if values[place].dtype == bool else values[place]
            if self._writer is None:
                kinds = {"row": "int", "image_id": "int", "file_name": "str", "captions": "json"}
                kinds |= {name: f"ndarray:{array.dtype}" for name, array in arrays.items()}
                self._writer = self._make(out=str(self._place), columns=kinds, size_limit=_SIZE_LIMIT)
            self._writer.write(sample | {name: np.ascontiguousarray(array) for name, array in arrays.items()})

    def close(self) -> None:
        """Write the last shard and the index."""
        if self._writer is not None:
            self._writer.finish()

    def discard(self) -> None:
        """Its writer holds no open file between samples."""
