"""The Zarr store: named arrays over rows, written one whole shard per array and chunk.

Covers: making the arrays, writing a chunk so that it is on disk, reading rows, checking objects against their hashes,
opening the whole as an xarray Dataset. Writing takes as much memory again as the largest arrays of a chunk, of which
`plan.WRITTEN_AT_ONCE` are compressed side by side.
Does not cover: what is done (`receipts`), what the arrays mean (`encode`, `loader.dataset`), who may write (`lock`).

What the layout rests on, measured on 2 cores with 256 rows a chunk (latents 4x32x32 fp16, text states 5x77x768 fp16
with 9 to 21 tokens in use):

| array | zstd | rows in an inner chunk | write MB/s | read whole MB/s | read 16 rows MB/s | read one row ms |
|---|---|---|---|---|---|---|
| latents | 1 | 1 (8 KiB) | 13 | 24 | 17 | 1.5 |
| latents | 1 | 64 (0.5 MiB) | 170 | 294 | 49 | 2.6 |
| latents | 1 | 256 (2 MiB) | 217 | 462 | 27 | 5.4 |
| text | 1 | 1 (0.6 MiB) | 295 | 294 | 723 | 2.1 |
| text | 1 | 16 (9 MiB) | 447 | 1624 | 1263 | 5.7 |
| text | 1 | 64 (36 MiB) | 500 | 573 | 256 | 19.5 |

Level 3 is no smaller (1.09 times for latents, 5.5 for text) and no faster. An inner chunk holds 64 rows where that is
half a MiB or more, and never more than 10 MiB. So 256 rows of all arrays (156 MB, 31 MB on disk) were compressed,
hashed and flushed in 0.28 s one after the other, and reading latents gives 400 MB/s.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import FingerprintMismatch, StoreError, StoreMissing
from daskt2i.plan import WRITTEN_AT_ONCE
from daskt2i.store.run_folder import STORE, RunFolder
from daskt2i.store.zarr_flush import flushing_store, reading_store
from daskt2i.types import ArraySpec, Chunk, Constant, Encoded, Shard

if TYPE_CHECKING:
    import xarray
    import zarr

LAYOUT = "layout"
"""Group attribute that `create` writes last, and that says how to read and write the arrays."""

COORDINATES = "coordinates"
"""Group attribute that tells xarray which arrays label the rows (the name is that of the CF conventions)."""

_LAYOUT_VERSION, _ZSTD_LEVEL = 1, 1
_ROW_LABELS = ("image_id", "file_name")
_INNER_ROWS, _INNER_BYTES, _INNER_BYTES_MAX = 64, 512 * 1024, 10 * 1024 * 1024


class ZarrStore:
    """A `LatentStore` in Zarr v3 inside a run folder. Cheap to make, picklable; several processes may write at once.

    Args:
        folder: the run folder.
        name: the store's folder in it; "" when the run folder is the store itself.
    """

    def __init__(self, folder: RunFolder, name: str = STORE) -> None:
        self.folder = folder
        self.name = name
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def __repr__(self) -> str:
        return f"ZarrStore({self.address!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "name": self.name, "_arrays": {}}

    @property
    def address(self) -> str:
        """Where the store lies, as a path or an fsspec address."""
        return self.folder.address(self.name)

    def create(
        self,
        rows: int,
        rows_per_chunk: int,
        arrays: Sequence[ArraySpec],
        attributes: Mapping[str, Any],
        constants: Sequence[Constant] = (),
    ) -> None:
        """Make the empty arrays `(rows, *spec.shape)`; a store that is already there with the same ones is kept.

        A shard has `rows_per_chunk` rows, even in a smaller store. The group comes last: a creation cut off is redone.

        Args:
            attributes: of the group; JSON values. `layout` and `coordinates` are ours.
            constants: arrays without rows, written at once; in a store that is there, only where they are damaged.

        Raises:
            FingerprintMismatch: the store that is there has other arrays or attributes; nothing was touched.
            StoreError: what is there is not ours, or the arguments make no store.
            StoreFull: no space is left.
        """
        layout = _layout_of(rows, rows_per_chunk, arrays, constants)
        if clash := {LAYOUT, COORDINATES} & attributes.keys():
            raise StoreError(f"The attributes {sorted(clash)} are written by the store itself; name yours otherwise.")
        wanted = json.loads(json.dumps(dict(attributes), allow_nan=False))
        group = self._group()
        finished = LAYOUT in (group or {})
        if group and finished:
            mine = {**wanted, LAYOUT: layout}
            theirs = {**group, LAYOUT: {**group[LAYOUT], "constants": layout["constants"]}}
            keys = sorted((mine.keys() | theirs.keys()) - {COORDINATES})
            if differ := [key for key in keys if mine.get(key) != theirs.get(key)]:
                raise FingerprintMismatch(
                    f"{self.address} was made with other settings (they differ in: {', '.join(differ)}). It was not "
                    "touched; go back to those settings, or choose another folder with --out."
                )
        elif group:
            raise StoreError(
                f"{self.address} is a Zarr group that is not ours, and was not touched. Choose another --out."
            )
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec

        store = flushing_store(self.folder, self.name, [])
        for spec in arrays:
            metadata = self._name(f"{spec.name}/zarr.json")
            if finished and self.folder.exists(metadata):
                continue
            self.folder.delete(metadata)  # of a creation that was cut off
            zarr.create_array(
                store,
                name=spec.name,
                shape=(rows, *spec.shape),
                shards=(rows_per_chunk, *spec.shape),
                chunks=(inner_rows(rows_per_chunk, spec.row_bytes), *spec.shape),
                dtype="string" if spec.dtype == "string" else np.dtype(spec.dtype),
                fill_value=float("nan") if spec.fill == "nan" else spec.fill,
                compressors=[ZstdCodec(level=_ZSTD_LEVEL), Crc32cCodec()],
                dimension_names=("row", *spec.dims),
                # "c.3.0.0" and not "c/3/0/0": one folder an array instead of one a shard, each to be made and flushed.
                chunk_key_encoding={"name": "default", "separator": "."},
                attributes={"description": spec.description} if spec.description else {},
                zarr_format=3,
            )
        if not finished or self.check_shared():
            layout["constants"] = self._write_constants(constants)
            labels = " ".join(name for name in _ROW_LABELS if name in layout["arrays"])
            ours = {**wanted, LAYOUT: layout, **({COORDINATES: labels} if labels else {})}
            node = {"attributes": ours, "zarr_format": 3, "node_type": "group"}
            self.folder.write(self._name("zarr.json"), json.dumps(node, indent=2).encode())

    def _write_constants(self, constants: Sequence[Constant]) -> list[dict[str, Any]]:
        """Write them, and return their objects with hashes, for the layout."""
        import zarr

        shards: list[Shard] = []
        for constant in constants:
            self.folder.delete(self._name(f"{constant.name}/zarr.json"))
            array = zarr.create_array(
                flushing_store(self.folder, self.name, shards),
                name=constant.name,
                shape=constant.values.shape,
                chunks=constant.values.shape,
                dtype=constant.values.dtype,
                dimension_names=constant.dims,
                attributes={"description": constant.description},
                config={"write_empty_chunks": True},
            )
            array[...] = constant.values
        return [dataclasses.asdict(shard) for shard in shards]

    def check_shared(self) -> str | None:
        """As `check`, of what belongs to all chunks: metadata of arrays, and the arrays without rows."""
        layout = self.layout()
        constants = [Shard(**shard) for shard in layout["constants"]]
        names = [*layout["arrays"], *(shard.key.partition("/")[0] for shard in constants)]
        lost = (key for key in (f"{name}/zarr.json" for name in names) if not self.folder.exists(self._name(key)))
        return next((f"{key} is missing" for key in lost), None) or self.check(constants)

    def write(self, chunk: Chunk, encoded: Encoded) -> tuple[Shard, ...]:
        """Write a chunk's part of every array and flush it to disk. Twice the same gives the same bytes.

        What lies in the chunk's place is never read, so a damaged shard is repaired by writing it again.

        Returns:
            One `Shard` per array, by key; hashed on the way out.

        Raises:
            StoreMissing: there is no store here.
            StoreError: an array is missing, unknown, or of another shape or dtype; or the chunk is not one of this
                store. Nothing was written.
            StoreFull: no space is left; other chunks are untouched.
        """
        layout = self.layout()
        values = _checked(chunk, encoded, layout)
        import zarr

        shards: list[Shard] = []
        store = flushing_store(self.folder, self.name, shards)

        def put(name: str) -> None:
            # Without this zarr leaves out shards that hold only the fill value, and there is nothing to hash.
            target = self._opened(store, name, "r+").with_config({"write_empty_chunks": True})
            target[chunk.start : chunk.stop] = values[name]

        # Most of a small write is waiting for the disk to flush: several arrays wait together.
        with ThreadPoolExecutor(WRITTEN_AT_ONCE, thread_name_prefix="daskt2i-write") as pool:
            for done in [pool.submit(put, name) for name in sorted(values, key=lambda name: -values[name].nbytes)]:
                done.result()
        if len(shards) != len(values):
            raise StoreError(
                f"zarr {zarr.__version__} wrote {len(shards)} objects for the {len(values)} arrays of chunk "
                f"{chunk.index}; the chunk does not count. Install another version of zarr."
            )
        return tuple(sorted(shards, key=lambda shard: shard.key))

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows `start <= row < stop` of one array; text comes as `str`, what was never written as the fill value.

        Raises:
            StoreMissing: there is no store here.
            StoreError: no such array or rows, or what is stored there is damaged.
        """
        if name not in self._arrays:
            self._arrays[name] = self._open(name)
        array = self._arrays[name]
        if not 0 <= start <= stop <= array.shape[0]:
            raise StoreError(f"Rows {start} to {stop} were asked of {self.address}, which has {array.shape[0]} rows.")
        try:
            values = np.asarray(array[start:stop])
        except Exception as error:  # zarr and its codecs raise many kinds for damaged bytes
            if isinstance(error, MemoryError):
                raise
            raise StoreError(
                f"Rows {start} to {stop} of {name} in {self.address} cannot be read ({error}). Run verify to see which "
                "chunks are damaged, then encode again: it repairs those alone."
            ) from error
        return values.astype(object) if values.dtype.kind == "T" else values

    def check(self, shards: Iterable[Shard], deep: bool = True) -> str | None:
        """What is wrong with these objects, one sentence, or None. `deep` re-hashes them; else their sizes count."""
        wanted = list(shards)
        # A request for each object: side by side where each is a round trip over a network.
        with ThreadPoolExecutor(1 if self.folder.is_local else 8) as pool:
            sizes = list(pool.map(lambda shard: self.folder.size(self._name(shard.key)), wanted))
        for shard, size in zip(wanted, sizes, strict=True):
            if size is None:
                return f"{shard.key} is missing"
            if size != shard.size:
                return f"{shard.key} has {size} bytes instead of {shard.size}"
            try:
                if deep and self.folder.sha256(self._name(shard.key)) != shard.sha256:
                    return f"{shard.key} has changed: its SHA-256 is not that of the receipt"
            except OSError as error:
                return f"{shard.key} cannot be read: {error}"
        return None

    def attributes(self) -> dict[str, Any] | None:
        """The attributes that `create` was given, or None where there is no finished store. Imports no zarr.

        Raises:
            StoreError: the metadata is damaged.
        """
        group = self._group() or {}
        given = {key: value for key, value in group.items() if key not in (LAYOUT, COORDINATES)}
        return given if LAYOUT in group else None

    def layout(self) -> dict[str, Any]:
        """`{"version", "rows", "rows_per_chunk", "arrays": {name: {"dims", "shape", "dtype", "fill"}}}`.

        Raises:
            StoreMissing: there is no store here, or its creation was cut off.
            StoreError: the metadata is damaged.
        """
        layout: dict[str, Any] | None = (self._group() or {}).get(LAYOUT)
        if not isinstance(layout, dict):
            raise StoreMissing(f"There is no latent store in {self.address}. Run encode to make one.")
        if (version := layout.get("version")) != _LAYOUT_VERSION:
            raise StoreError(
                f"{self.address} has layout version {version}, not {_LAYOUT_VERSION}. Choose another folder with --out."
            )
        return layout

    def _name(self, key: str) -> str:
        return f"{self.name}/{key}" if self.name else key

    def _group(self) -> dict[str, Any] | None:
        try:
            text = self.folder.read(self._name("zarr.json"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return dict(json.loads(text)["attributes"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"The metadata of {self.address} (zarr.json) is damaged: {error!r}. The arrays are untouched; restore "
                "that file, or encode into another folder."
            ) from error

    def _open(self, name: str) -> zarr.Array[Any]:
        layout = self.layout()
        if name not in layout["arrays"]:
            raise StoreError(f"{self.address} has no array {name!r}; it has {', '.join(sorted(layout['arrays']))}.")
        return self._opened(reading_store(self.folder, self.name), name, "r")

    def _opened(self, store: Any, name: str, mode: str) -> zarr.Array[Any]:
        import zarr

        try:
            return zarr.open_array(store=store, path=name, mode=mode, zarr_format=3)
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise StoreError(
                f"The metadata of the array {name} in {self.address} is missing or damaged ({error}). The shards are "
                "untouched; remove what is left of its zarr.json and encode again to restore it."
            ) from error


def open_store(path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> xarray.Dataset:
    """A latent store as an xarray Dataset: lazy, read-only, one Dask chunk per shard.

    Args:
        path: a run folder, or the `.zarr` folder in it; a path or an fsspec address.
        storage_options: passed to fsspec.

    Raises:
        StoreMissing: there is no store here.
        StoreError: its metadata is damaged.
    """
    folder = RunFolder(path, storage_options)
    store = ZarrStore(folder, "" if folder.exists("zarr.json") else STORE)
    layout = store.layout()
    import xarray as xr

    return xr.open_zarr(reading_store(folder, store.name), consolidated=False, chunks={"row": layout["rows_per_chunk"]})


def inner_rows(rows_per_chunk: int, row_bytes: int) -> int:
    """Rows of an inner chunk: of the divisors of `rows_per_chunk` up to 10 MiB, the smallest with 64 rows and 0.5 MiB,
    else the largest. The table above says why."""
    divisors = [n for n in range(1, rows_per_chunk + 1) if rows_per_chunk % n == 0]
    fitting = [n for n in divisors if n * row_bytes <= _INNER_BYTES_MAX] or [1]
    ample = [n for n in fitting if n >= _INNER_ROWS and n * row_bytes >= _INNER_BYTES]
    return ample[0] if ample else fitting[-1]


def _layout_of(
    rows: int, rows_per_chunk: int, arrays: Sequence[ArraySpec], constants: Sequence[Constant]
) -> dict[str, Any]:
    names = [spec.name for spec in arrays] + [constant.name for constant in constants]
    if rows < 1 or rows_per_chunk < 1 or not names or len(set(names)) != len(names):
        raise StoreError(
            f"Nothing was made: a store needs rows, rows per chunk and arrays of different names; got {rows}, "
            f"{rows_per_chunk} and {names}."
        )
    described = {
        spec.name: {"dims": list(spec.dims), "shape": list(spec.shape), "dtype": spec.dtype, "fill": spec.fill}
        for spec in arrays
    }
    shape = {"version": _LAYOUT_VERSION, "rows": rows, "rows_per_chunk": rows_per_chunk}
    return {**shape, "arrays": described, "constants": []}


def _checked(chunk: Chunk, encoded: Encoded, layout: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """The chunk's arrays as zarr takes them. zarr itself would cast and broadcast without a word."""
    rows, per_chunk, arrays = layout["rows"], layout["rows_per_chunk"], layout["arrays"]
    where = f"Chunk {chunk.index} was not written:"
    if not (chunk.index * per_chunk == chunk.start < chunk.stop == min(chunk.start + per_chunk, rows)):
        raise StoreError(
            f"{where} rows {chunk.start} to {chunk.stop} are not chunk {chunk.index} of a store of {rows} rows, "
            f"{per_chunk} per chunk."
        )
    missing, unknown = sorted(arrays.keys() - encoded.arrays), sorted(encoded.arrays.keys() - arrays)
    if missing or unknown:
        raise StoreError(f"{where} arrays missing: {missing}, not in the store: {unknown}.")
    checked = {}
    for name, spec in arrays.items():
        values = np.asarray(encoded.arrays[name])
        shape = (len(chunk), *spec["shape"])
        if values.shape != shape:
            raise StoreError(f"{where} {name} has shape {values.shape} instead of {shape}.")
        if spec["dtype"] == "string":
            values = _text(values, f"{where} {name}")
        elif values.dtype != np.dtype(spec["dtype"]):
            raise StoreError(f"{where} {name} is {values.dtype} instead of {spec['dtype']}.")
        checked[name] = values
    return checked


def _text(values: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    """An object array of `str`; refuses what is not text, and lone surrogates, which no file can hold as UTF-8."""
    strings = values.astype(object)
    for index, value in np.ndenumerate(strings):
        if not isinstance(value, str):
            raise StoreError(f"{where} at {index} is {type(value).__name__} instead of text.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise StoreError(f"{where} at {index} is not valid Unicode ({error.reason}).") from error
    return strings
