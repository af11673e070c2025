"""Reads one array of a store inner chunk by inner chunk, into memory that is used again.

Covers: shards as `store.zarr_store` writes them, on a disk or behind an address; their checksums.
Does not cover: other layouts and damaged shards (`ZarrStore.read` reads or refuses them), what rows mean (`shards`).

Through zarr, a shard of 256 rows of full text takes 65 ms of processor time; zstd itself takes 40. The rest is memory:
zarr makes 30 MB of new arrays for each shard. Of a shard of short captions zarr takes 37 ms, and zstd 16.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.store.zarr_store import ZarrStore

Bytes = npt.NDArray[np.uint8]

Memory = Callable[[str, int], Bytes]
"""(purpose, size) -> memory of this thread"""

_NONE = 2**64 - 1  # zarr's mark of an inner chunk that was never written
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC = {"name": "crc32c"}
_KINDS = {
    "float16": "<f2",
    "float32": "<f4",
    "bool": "?",
    "int32": "<i4",
    "int64": "<i8",
    "int8": "|i1",
    "uint16": "<u2",
}


class ShardedArray:
    """One array of a store.

    Args:
        store: the store.
        name: name of the array.
    """

    def __init__(self, store: ZarrStore, name: str) -> None:
        self._store, self._name = store, name
        self._known = _layout_of(store, name)
        self._mine = threading.local()

    def blocks(self, start: int, stop: int, rows: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """(first row, values) of each inner chunk of a shard that holds one of these rows, one at a time.

        The values are valid until the next block: the memory is used again.

        Args:
            start, stop: first row of the shard, and the row after its last one.
            rows: rows in the shard, ascending.

        Raises:
            StoreError: the shard is damaged. A shard that is missing has the fill value.
        """
        step = self._known[0] if self._known else stop - start
        wanted = dict.fromkeys((row - start) // step for row in rows)
        done = 0
        if self._known is not None:
            self._store.require_whole(self._name, start, stop)
            for number, values in self._decoded(start, list(wanted)):
                yield start + number * step, values[: stop - start - number * step]
                done += 1
        for number in list(wanted)[done:]:  # zarr knows other layouts, and says what is damaged
            first = start + number * step
            yield first, self._store.read(self._name, first, min(first + step, stop))

    def _decoded(self, start: int, numbers: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """These inner chunks, up to the first that this class cannot read."""
        assert self._known is not None
        inner, shape, dtype, shard_rows = self._known
        from google_crc32c import value as crc32c
        from numcodecs.zstd import Zstd

        key = ".".join(["c", str(start // shard_rows), *("0" for _ in shape)])
        count = shard_rows // inner
        size = inner * math.prod(shape) * dtype.itemsize
        target = self._memory("decoded", size)[:size]
        with _Object(self._store, f"{self._name}/{key}") as file:
            index = file.read(-(16 * count + 4), 16 * count + 4, self._memory)
            if index is None or crc32c(index[:-4].tobytes()) != int.from_bytes(index[-4:].tobytes(), "little"):
                return
            places = np.frombuffer(index[:-4].tobytes(), "<u8").reshape(count, 2)
            for number in numbers:
                offset, length = (int(n) for n in places[number])
                if offset == _NONE or length <= 4:
                    return
                packed = file.read(offset, length, self._memory)
                if packed is None or crc32c(packed[:-4]) != int.from_bytes(packed[-4:].tobytes(), "little"):
                    return
                try:
                    Zstd().decode(packed[:-4], target)
                except (RuntimeError, ValueError):
                    return
                yield number, target.view(dtype).reshape(inner, *shape)

    def _memory(self, purpose: str, size: int) -> Bytes:
        """Memory of this thread for a purpose, at least `size` bytes."""
        found: Bytes | None = getattr(self._mine, purpose, None)
        if found is None or len(found) < size:
            found = np.empty(size, np.uint8)
            setattr(self._mine, purpose, found)
        return found


class _Object:
    """Parts of an object: from a file part by part, from an address as a whole. A missing one is empty."""

    def __init__(self, store: ZarrStore, key: str) -> None:
        self._store, self._key = store, key
        self._file: io.FileIO | None = None
        self._all, self._size = b"", 0

    def __enter__(self) -> _Object:
        with contextlib.suppress(OSError):
            if (path := self._store.nearest(self._key)) is not None:
                self._file = io.FileIO(path)
                self._size = self._file.seek(0, os.SEEK_END)
                return self
        with contextlib.suppress(OSError):
            if not self._store.folder.is_local:  # also where a copy went away in between
                name = f"{self._store.name}/{self._key}" if self._store.name else self._key
                self._all = self._store.folder.read(name)
                self._size = len(self._all)
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, offset: int, length: int, memory: Memory) -> Bytes | None:
        """These bytes, or None if the object does not have them. A negative offset counts from the end."""
        offset = offset if offset >= 0 else self._size + offset
        if offset < 0 or offset + length > self._size:
            return None
        if self._file is None:
            return np.frombuffer(self._all, np.uint8, length, offset)
        target = memory("packed", length)[:length]
        view, done = target.data, 0
        with contextlib.suppress(OSError):
            self._file.seek(offset)
            while done < length and (got := self._file.readinto(view[done:])):
                done += got
        return target if done == length else None


def _layout_of(store: ZarrStore, name: str) -> tuple[int, tuple[int, ...], np.dtype[Any], int] | None:
    """(rows of an inner chunk, shape of a row, dtype, rows of a shard); None if the layout is another one."""
    try:
        import google_crc32c  # noqa: F401
        import numcodecs.zstd  # noqa: F401

        about = json.loads(store.folder.read(f"{store.name}/{name}/zarr.json" if store.name else f"{name}/zarr.json"))
        (sharding,) = about["codecs"]
        settings, (rows, *shape) = sharding["configuration"], about["chunk_grid"]["configuration"]["chunk_shape"]
        inner, *same = settings["chunk_shape"]
        first, second, third = settings["codecs"]
        fits = (
            sharding["name"] == "sharding_indexed"
            and settings.get("index_location", "end") == "end"
            and settings["index_codecs"] == [_BYTES, _CRC]
            and first in (_BYTES, {"name": "bytes"})
            and (second["name"], third) == ("zstd", _CRC)
            and about["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "."}}
            and same == shape == about["shape"][1:]
            and rows % inner == 0
        )
        return (inner, tuple(shape), np.dtype(_KINDS[about["data_type"]]), rows) if fits else None
    except (ImportError, OSError, KeyError, ValueError, TypeError):
        return None
