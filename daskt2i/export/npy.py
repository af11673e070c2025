"""Numpy files of all rows, for `numpy.load(..., mmap_mode="r")`.

Covers: the files; those that grow chunk by chunk.
Does not cover: the rows (`rows`).

| file | |
|---|---|
| `latent_mean.npy`, `latent_std.npy` | `[row, channel, y, x]`, raw |
| `row.npy`, `image_id.npy`, and one a small array | `[row, ...]` |
| `text_states.npy` | `[token, feature]`: the captions one after the other |
| `text_mask.npy` | `bool[token]` |
| `caption_ends.npy` | `int64[caption]`: where the tokens of each caption end |
| `row_ends.npy` | `int64[row]`: where the captions of each row end |
| `rows.jsonl` | row, image_id, file_name, captions: a line a row |
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from daskt2i.export.rows import Array, Exported, ExportedRows


class NpyWriter:
    """Writes numpy files that grow."""

    def __init__(self, place: Path, exported: Exported) -> None:
        self._place = place
        self._growing: dict[str, _Growing] = {}
        self._files = ExitStack()  # closes each of them, also when others fail on a full disk
        self._lines = self._files.enter_context((place / "rows.jsonl").open("w", encoding="utf-8"))
        self._tokens = self._captions = 0

    def write(self, part: ExportedRows) -> None:
        """Append the rows to each file."""
        self._append("latent_mean", part.mean)
        if part.std is not None:
            self._append("latent_std", part.std)
        self._append("row", part.numbers)
        self._append("image_id", part.image_ids)
        for name, values in part.extra.items():
            self._append(name, np.concatenate(values) if name in part.of_captions else np.stack(values))
        for place in range(len(part)):
            states, mask = part.states[place], part.masks[place]
            self._append("text_states", states.reshape(-1, states.shape[-1]))
            self._append("text_mask", mask.ravel())
            ends = self._tokens + np.arange(1, len(states) + 1, dtype=np.int64) * states.shape[1]
            self._append("caption_ends", ends)
            self._tokens, self._captions = int(ends[-1]), self._captions + len(states)
            self._append("row_ends", np.array([self._captions], np.int64))
            line: dict[str, Any] = {"row": int(part.numbers[place]), "image_id": int(part.image_ids[place])}
            line |= {"file_name": part.file_names[place], "captions": list(part.captions[place])}
            self._lines.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Write the final shapes."""
        for growing in self._growing.values():
            growing.finish()
        self.discard()

    def discard(self) -> None:
        """Close the files."""
        self._files.close()

    def _append(self, name: str, values: Array) -> None:
        if name not in self._growing:
            file = self._files.enter_context((self._place / f"{name}.npy").open("wb"))
            self._growing[name] = _Growing(file, values)
        self._growing[name].append(values)


class _Growing:
    """A numpy file whose first dimension grows. numpy leaves room in its header for that."""

    def __init__(self, file: IO[bytes], like: Array) -> None:
        self._file, self._dtype, self._shape = file, like.dtype, like.shape[1:]
        self._count = 0
        self._header()
        self._begin = self._file.tell()

    def append(self, values: Array) -> None:
        self._file.write(np.ascontiguousarray(values, self._dtype).tobytes())
        self._count += len(values)

    def finish(self) -> None:
        self._file.seek(0)
        self._header()
        assert self._file.tell() == self._begin, "the header has grown into the data"

    def _header(self) -> None:
        shape = (self._count, *self._shape)
        about = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, about)
