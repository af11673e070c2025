"""WebDataset: tar files of samples, one tar a chunk of the store.

Covers: the tar files, `00000.tar` and on. `webdataset.WebDataset(...).decode()` reads them; so does any tar program.
Does not cover: the rows (`rows`).

| member | |
|---|---|
| `KEY.latent_mean.npy`, `KEY.latent_std.npy` | `[channel, y, x]`, raw |
| `KEY.text_states.npy`, `KEY.text_mask.npy` | `[caption, token, feature]`, `bool[caption, token]` |
| `KEY.json` | row, image_id, file_name, captions, and the small arrays of the row |
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from daskt2i.export.rows import Array, Exported, ExportedRows


class WebDatasetWriter:
    """Writes tar files. The same rows always give the same bytes."""

    def __init__(self, place: Path, exported: Exported) -> None:
        self._place, self._files = place, 0

    def write(self, part: ExportedRows) -> None:
        """Write a tar file."""
        with tarfile.open(self._place / f"{self._files:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for place in range(len(part)):
                key = f"{int(part.numbers[place]):09d}"
                arrays = {"latent_mean": part.mean[place], "text_states": part.states[place]}
                arrays |= {"text_mask": part.masks[place]}
                if part.std is not None:
                    arrays["latent_std"] = part.std[place]
                about: dict[str, Any] = {
                    "row": int(part.numbers[place]),
                    "image_id": int(part.image_ids[place]),
                    "file_name": part.file_names[place],
                    "captions": list(part.captions[place]),
                }
                for name, values in part.extra.items():
                    if values[place].dtype.kind == "f" or values[place].ndim > 1:
                        arrays[name] = values[place]
                    else:
                        about[name] = values[place].tolist()
                for name, array in arrays.items():
                    _add(tar, f"{key}.{name}.npy", _npy(array))
                _add(tar, f"{key}.json", json.dumps(about).encode())
        self._files += 1

    def close(self) -> None:
        """All files are closed already."""

    def discard(self) -> None:
        """All files are closed already."""


def _npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
