"""All rows of an epoch decoded in files of a folder on this machine, mapped into memory.

Covers: writing them once, finding them again, the rows as one `LoadedRows`.
Does not cover: reading the store (`loader.shards`), which batches need them (`loader.row_stream`).

A row of a compressed shard takes 70 to 90 microseconds of processor time to read and decode; a row of these files takes
only the copy. They hold all captions, as the store does, but uncompressed and without padding. All processes of a
machine share them, and the system keeps in memory what is read often.

The folder is complete or not there: files are written beside it under another name, which is changed at the end. One
process writes, and the others wait for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import StoreError, StoreFull
from daskt2i.loader.memory.loaded_rows import LoadedRows
from daskt2i.loader.memory.upcoming_rows import Parts, Unit
from daskt2i.loader.sample_order import Sample, Whole
from daskt2i.os_errors import FULL, meaning_of
from daskt2i.store.partial_files import partial_of

try:
    import fcntl
except ImportError:  # without it each process writes, and the last one wins
    fcntl = None  # type: ignore[assignment]

_ABOUT = "rows.json"
_LARGE = ("mean", "std", "tokens")
"""Arrays that stay in their files. The others are small, and are read."""

_ARRAYS = (*_LARGE, "captions", "mask", "lengths")


class MappedRows:
    """Rows that are always there: what `UpcomingRows` is for rows in memory. Several threads may take rows.

    Args:
        rows: all of them.
        numbers: their numbers in the store, `int64[n]`, ascending.
    """

    def __init__(self, rows: LoadedRows, numbers: Whole) -> None:
        self._rows, self._numbers = rows, numbers

    def announce(self, units: Mapping[Unit, Parts]) -> None:
        """Nothing has to be loaded."""

    def require(self, units: Iterable[Unit]) -> None:
        """Nothing has to be loaded."""

    def take(self, wanted: Sequence[tuple[Unit, Sample]]) -> list[tuple[LoadedRows, int]]:
        """The rows of these samples."""
        places = np.searchsorted(self._numbers, [row for _, (_, row) in wanted])
        return [(self._rows, place) for place in places.tolist()]

    def close(self) -> None:
        """The files stay for the next time."""


def mapped_rows(folder: Path, numbers: Whole, parts: Iterable[LoadedRows]) -> MappedRows:
    """The rows in a folder. They are written if they are not there.

    Args:
        folder: a folder of its own for these rows of this store.
        numbers: their numbers in the store, `int64[n]`, ascending.
        parts: the same rows with all captions, shard by shard. They are read only if files are written.

    Raises:
        StoreFull: no space is left. What was written is removed.
        StoreError: the folder cannot be written, or is damaged.
    """
    with _explaining(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not (folder / _ABOUT).exists():
            with _alone(folder.with_name(f"{folder.name}.lock")):
                if not (folder / _ABOUT).exists():
                    _write(folder, parts)
        return MappedRows(_read(folder, numbers), numbers)


def _write(folder: Path, parts: Iterable[LoadedRows]) -> None:
    partial = partial_of(folder)
    partial.mkdir()
    try:
        arrays = _append(partial, parts)
        (partial / _ABOUT).write_text(json.dumps(arrays), encoding="utf-8")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _append(place: Path, parts: Iterable[LoadedRows]) -> dict[str, Any]:
    """Write the arrays, and return dtype and shape of each; of texts, which are few, the texts."""
    arrays: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        files: dict[str, Any] = {}
        for part in parts:
            pieces = {name: getattr(part, name) for name in _ARRAYS}
            pieces["tokens"] = part.tokens[: int(part.lengths.sum())]
            pieces |= {f"extra.{name}": values for name, values in part.extra.items()}
            for name, values in pieces.items():
                if values is None:
                    continue
                if values.dtype == object:
                    arrays.setdefault(name, {"texts": []})["texts"] += values.tolist()
                    continue
                if name not in files:
                    files[name] = stack.enter_context((place / name).open("wb"))
                    arrays[name] = {"dtype": values.dtype.str, "shape": [0, *values.shape[1:]]}
                files[name].write(np.ascontiguousarray(values).data)
                arrays[name]["shape"][0] += len(values)
        # The last token is zeros, for padding.
        files["tokens"].write(bytes(np.dtype(arrays["tokens"]["dtype"]).itemsize * arrays["tokens"]["shape"][1]))
        arrays["tokens"]["shape"][0] += 1
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    return arrays


def _read(folder: Path, numbers: Whole) -> LoadedRows:
    arrays = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    found = {name: _array(folder, name, about) for name, about in arrays.items()}
    if len(found["captions"]) != len(numbers):
        raise ValueError("it has another number of rows")
    lengths = found["lengths"]
    return LoadedRows(
        [(-1, row) for row in numbers.tolist()],
        found["mean"],
        found.get("std"),
        found["captions"],
        None,
        found["mask"],
        (lengths.cumsum() - lengths.ravel()).reshape(lengths.shape),
        lengths,
        found["tokens"],
        {name.removeprefix("extra."): values for name, values in found.items() if name.startswith("extra.")},
    )


def _array(folder: Path, name: str, about: Mapping[str, Any]) -> npt.NDArray[Any]:
    if "texts" in about:
        texts = np.empty(len(about["texts"]), object)
        texts[:] = about["texts"]
        return np.array(about["texts"], object) if about["texts"] and isinstance(about["texts"][0], list) else texts
    shape, dtype = tuple(about["shape"]), np.dtype(about["dtype"])
    if not np.prod(shape):
        return np.empty(shape, dtype)
    if name in _LARGE:
        return np.asarray(np.memmap(folder / name, dtype, "r", shape=shape))
    return np.fromfile(folder / name, dtype).reshape(shape)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Only one process at a time is in the block. A killed process lets the next one in."""
    with path.open("w", encoding="utf-8") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _explaining(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = meaning_of(error)
        if why is FULL:
            raise StoreFull(
                f"No space is left in {folder.parent} for decoded rows. The store is unchanged, and nothing was left "
                "there; free some space, or give another cache_folder."
            ) from error
        says = why.says if why is not None else str(error)
        raise StoreError(
            f"Decoded rows cannot be kept in {folder.parent}: {says}. The store is unchanged; give another "
            "cache_folder."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"The decoded rows in {folder} are damaged ({error}). The store is unchanged; remove this folder, and they "
            "are written again."
        ) from error
