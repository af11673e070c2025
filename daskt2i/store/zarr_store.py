"""The Zarr store: named arrays over rows. A chunk is one whole shard of each array.

Covers: making the arrays, writing a chunk to disk, reading rows, checking objects against their
hashes. Writing needs as much memory again as the largest arrays of a chunk, because
`plan.WRITTEN_AT_ONCE` of them are compressed in parallel.
Does not cover: the store as an xarray Dataset (`dataset`), which chunks are done (`receipts`), the meaning of the
arrays (`encode`, `loader`), the lock (`lock`).

The layout follows from these measurements on 2 cores with 256 rows a chunk (latents 4x32x32 fp16, text states 5x77x768
fp16 with 9 to 21 tokens in use):

| array | zstd | rows in an inner chunk | write MB/s | read whole MB/s | read 16 rows MB/s | read one row ms |
|---|---|---|---|---|---|---|
| latents | 1 | 1 (8 KiB) | 13 | 24 | 17 | 1.5 |
| latents | 1 | 64 (0.5 MiB) | 170 | 294 | 49 | 2.6 |
| latents | 1 | 256 (2 MiB) | 217 | 462 | 27 | 5.4 |
| text | 1 | 1 (0.6 MiB) | 295 | 294 | 723 | 2.1 |
| text | 1 | 16 (9 MiB) | 447 | 1624 | 1263 | 5.7 |
| text | 1 | 64 (36 MiB) | 500 | 573 | 256 | 19.5 |

Level 3 gives no smaller files (1.09 times for latents, 5.5 for text) and is not faster. An inner chunk has 64 rows if
that is half a MiB or more, and at most 10 MiB. With this, 256 rows of all arrays (156 MB, 31 MB on disk) were
compressed, hashed and flushed in 0.28 s one after the other, and reading latents gives 400 MB/s. Since then, text has
level -1: with all 77 tokens in use it is read 2.2 times as fast and written 8 times as fast, with 1.09 times the bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import FingerprintMismatch, StoreError, StoreMissing
from daskt2i.plan import WRITTEN_AT_ONCE
from daskt2i.store.array_checks import checked_arrays
from daskt2i.store.partial_files import flush_folder
from daskt2i.store.publishing.attempts import Attempt, begin_attempt, staged_name
from daskt2i.store.publishing.moves import move
from daskt2i.store.run_folder import STORE, RunFolder
from daskt2i.store.zarr_flush import flushing_store, reading_store
from daskt2i.types import ArraySpec, Chunk, Constant, Encoded, Shard

if TYPE_CHECKING:
    import zarr

LAYOUT = "layout"
"""Group attribute that `create` writes last. It says how to read and write the arrays."""

COORDINATES = "coordinates"
"""Group attribute that tells xarray which arrays label the rows (the name comes from the CF conventions)."""

_LAYOUT_VERSION, _ZSTD_LEVEL, _TEXT_LEVEL = 1, 1, -1
_ROW_LABELS = ("image_id", "file_name")
_INNER_ROWS, _INNER_BYTES, _INNER_BYTES_MAX = 64, 512 * 1024, 10 * 1024 * 1024


class ZarrStore:
    """A `LatentStore` in Zarr v3 inside a run folder. It can be pickled, and several processes may write at once.

    Args:
        folder: the run folder.
        name: the store's folder in it; "" if the run folder is the store itself.
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
        """The path or the fsspec address of the store."""
        return self.folder.address(self.name)

    def create(
        self,
        rows: int,
        rows_per_chunk: int,
        arrays: Sequence[ArraySpec],
        attributes: Mapping[str, Any],
        constants: Sequence[Constant] = (),
    ) -> None:
        """Make the empty arrays `(rows, *spec.shape)`. A store that exists with the same arrays is kept.

        A shard always has `rows_per_chunk` rows. The group is written last, so an interrupted creation is repeated.

        Args:
            attributes: attributes of the group; JSON values. The names `layout` and `coordinates` are reserved.
            constants: arrays without rows. They are written at once; in an existing store only if they are damaged.

        Raises:
            FingerprintMismatch: the store exists with other arrays or attributes. Nothing was changed.
            StoreError: there is something else at this place, or the arguments are wrong.
            StoreFull: no space is left.
        """
        layout = _layout_of(rows, rows_per_chunk, arrays, constants)
        if clash := {LAYOUT, COORDINATES} & attributes.keys():
            raise StoreError(f"The store itself writes the attributes {sorted(clash)}. Choose other names.")
        wanted = json.loads(json.dumps(dict(attributes), allow_nan=False))
        group = self._group()
        finished = LAYOUT in (group or {})
        if group and finished:
            mine = {**wanted, LAYOUT: layout}
            theirs = {**group, LAYOUT: {**group[LAYOUT], "constants": layout["constants"]}}
            keys = sorted((mine.keys() | theirs.keys()) - {COORDINATES})
            if differ := [key for key in keys if mine.get(key) != theirs.get(key)]:
                raise FingerprintMismatch(
                    f"{self.address} was made with different settings ({', '.join(differ)}). It was not changed; go "
                    "back to its settings, or choose another run folder (out)."
                )
        elif group:
            raise StoreError(
                f"daskt2i did not make the Zarr group {self.address}. It is unchanged; choose another run folder (out)."
            )
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec

        store = flushing_store(self.folder, self.name, [])
        for spec in arrays:
            metadata = self._name(f"{spec.name}/zarr.json")
            if finished and self.folder.exists(metadata):
                continue
            self.folder.delete(metadata)  # an interrupted creation may have left it
            zarr.create_array(
                store,
                name=spec.name,
                shape=(rows, *spec.shape),
                shards=(rows_per_chunk, *spec.shape),
                chunks=(
                    inner_rows(rows_per_chunk, spec.row_bytes, _INNER_ROWS if "place" not in spec.dims else 1),
                    *spec.shape,
                ),
                dtype="string" if spec.dtype == "string" else np.dtype(spec.dtype),
                fill_value=float("nan") if spec.fill == "nan" else spec.fill,
                compressors=[ZstdCodec(level=_level(spec)), Crc32cCodec()],
                dimension_names=("row", *spec.dims),
                # With "c/3/0/0" each shard would need its own folder to make and flush; "c.3.0.0" needs one an array.
                chunk_key_encoding={"name": "default", "separator": "."},
                attributes={"description": spec.description} if spec.description else {},
                zarr_format=3,
            )
        if not finished or self.check_shared() or not self._constants_are_finite():
            layout["constants"] = self._write_constants(constants)
            labels = " ".join(name for name in _ROW_LABELS if name in layout["arrays"])
            ours = {**wanted, LAYOUT: layout, **({COORDINATES: labels} if labels else {})}
            node = {"attributes": ours, "zarr_format": 3, "node_type": "group"}
            self.folder.write(self._name("zarr.json"), json.dumps(node, indent=2).encode())

    def _write_constants(self, constants: Sequence[Constant]) -> list[dict[str, Any]]:
        """Write the arrays without rows, and return their objects with hashes, for the layout."""
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
        """As `check`, for what belongs to all chunks: metadata of arrays, and the arrays without rows."""
        layout = self.layout()
        constants = [Shard(**shard) for shard in layout["constants"]]
        names = [*layout["arrays"], *(shard.key.partition("/")[0] for shard in constants)]
        lost = (key for key in (f"{name}/zarr.json" for name in names) if not self.folder.exists(self._name(key)))
        return next((f"{key} is missing" for key in lost), None) or self.check(constants)

    def constants(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays without rows: the empty prompt."""
        names = dict.fromkeys(shard["key"].partition("/")[0] for shard in self.layout()["constants"])
        store = reading_store(self.folder, self.name)
        return {name: np.asarray(self._opened(store, name, "r")[...]) for name in names}

    def _constants_are_finite(self) -> bool:
        return all(np.isfinite(values).all() for values in self.constants().values())

    def write(self, chunk: Chunk, encoded: Encoded, attempt: Attempt | None = None) -> tuple[Shard, ...]:
        """Write a chunk's part of every array to disk, where nobody reads it before `publish`. The same arrays always
        give the same bytes.

        It never reads the old shard, so a chunk that is written again and published repairs a damaged shard.

        Args:
            attempt: the place to write to; None for a new one that no run publishes.

        Returns:
            One `Shard` per array, sorted by key, with its hash.

        Raises:
            StoreMissing: there is no store here.
            StoreError: an array is missing or unknown, a shape or dtype is wrong, or the chunk does not belong to this
                store. Nothing was written.
            StoreFull: no space is left. Other chunks are unchanged.
            TakenOver: the run of the attempt is over.
        """
        layout = self.layout()
        values = checked_arrays(chunk, encoded, layout, (self.attributes() or {}).get("daskt2i") or {})
        import zarr

        shards: list[Shard] = []
        place = attempt or begin_attempt(self.folder, "", chunk.index)
        store = flushing_store(self.folder, self.name, shards, place)

        def put(name: str) -> None:
            # By default zarr does not write shards that hold only the fill value, and they could not be hashed.
            target = self._opened(store, name, "r+").with_config({"write_empty_chunks": True})
            target[chunk.start : chunk.stop] = values[name]

        # A small write mostly waits for the disk to flush, so several arrays wait at the same time.
        with ThreadPoolExecutor(WRITTEN_AT_ONCE, thread_name_prefix="daskt2i-write") as pool:
            for done in [pool.submit(put, name) for name in sorted(values, key=lambda name: -values[name].nbytes)]:
                done.result()
        if len(shards) != len(values):
            raise StoreError(
                f"zarr {zarr.__version__} wrote {len(shards)} objects for the {len(values)} arrays of chunk "
                f"{chunk.index}, so the chunk is not valid. Install another version of zarr."
            )
        return tuple(sorted(shards, key=lambda shard: shard.key))

    def publish(self, place: str, shards: Iterable[Shard]) -> None:
        """Move what was written to a place (`Attempt.place`) into the store. It is on disk when this returns.

        Raises:
            FileNotFoundError: something of it is not there, for example because the run of the attempt is over.
        """
        moves = [(f"{place}/{staged_name(shard.key)}", self._name(shard.key)) for shard in shards]
        if not self.folder.is_local:
            with ThreadPoolExecutor(8, thread_name_prefix="daskt2i-publish") as pool:
                list(pool.map(lambda pair: move(self.folder, *pair), moves))
            return
        for old, new in moves:
            move(self.folder, old, new)
        for folder in {self.folder.local_path(new).parent for _, new in moves}:
            flush_folder(folder)

    def require_whole(self, name: str, start: int, stop: int) -> None:
        """What a reader calls before it reads rows of an array past `read`. Here it does nothing."""

    def nearest(self, key: str) -> Path | None:
        """A file on this machine with the bytes of an object of the store; None if there is none.

        Args:
            key: `"text_mask/c.3.0.0"`.
        """
        return self.folder.local_path(self._name(key)) if self.folder.is_local else None

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows `start <= row < stop` of one array. Text is `str`; rows that were never written have the fill value.

        Raises:
            StoreMissing: there is no store here.
            StoreError: there is no such array or row, or the stored data is damaged.
        """
        if name not in self._arrays:
            self._arrays[name] = self._open(name)
        array = self._arrays[name]
        if not 0 <= start <= stop <= array.shape[0]:
            raise StoreError(f"There are no rows {start} to {stop} in {self.address}: it has {array.shape[0]} rows.")
        try:
            values = np.asarray(array[start:stop])
        except Exception as error:  # zarr and its codecs raise many kinds for damaged bytes
            if isinstance(error, MemoryError):
                raise
            raise StoreError(
                f"Rows {start} to {stop} of {name} in {self.address} cannot be read ({error}). Run verify to find the "
                "damaged chunks, then encode again: it repairs only these."
            ) from error
        return values.astype(object) if values.dtype.kind == "T" else values

    def check(self, shards: Iterable[Shard], deep: bool = True) -> str | None:
        """One sentence that says what is wrong with these objects, or None. `deep` hashes them; else sizes count."""
        wanted = list(shards)
        # Each object needs a request. Over a network each is a round trip, so they run in parallel.
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
        """The attributes that were given to `create`; None if there is no complete store. It imports no zarr.

        Raises:
            StoreError: the metadata is damaged.
        """
        group = self._group() or {}
        given = {key: value for key, value in group.items() if key not in (LAYOUT, COORDINATES)}
        return given if LAYOUT in group else None

    def layout(self) -> dict[str, Any]:
        """`{"version", "rows", "rows_per_chunk", "arrays": {name: {"dims", "shape", "dtype", "fill"}}}`.

        Raises:
            StoreMissing: there is no store here, or its creation was interrupted.
            StoreError: the metadata is damaged.
        """
        layout: dict[str, Any] | None = (self._group() or {}).get(LAYOUT)
        if not isinstance(layout, dict):
            raise StoreMissing(f"There is no latent store in {self.address}. Run encode to make one.")
        if (version := layout.get("version")) != _LAYOUT_VERSION:
            raise StoreError(
                f"{self.address} has layout version {version}, but this version of daskt2i needs {_LAYOUT_VERSION}. It "
                "was not changed; choose another run folder (out)."
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
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(
                f"The metadata of {self.address} (zarr.json) is damaged: {error!r}. The arrays are unchanged; restore "
                "this file, or encode into another run folder (out)."
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
        except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError, RecursionError) as error:
            raise StoreError(
                f"The metadata of the array {name} in {self.address} is missing or damaged ({error}). The shards are "
                "unchanged; delete its zarr.json if there is one, and encode again to restore it."
            ) from error


def inner_rows(rows_per_chunk: int, row_bytes: int, least: int = _INNER_ROWS) -> int:
    """Rows of an inner chunk, a divisor of `rows_per_chunk` with at most 10 MiB. It is the smallest with at least 64
    (`least`) rows and 0.5 MiB, else the largest. The table above gives the reason."""
    divisors = [n for n in range(1, rows_per_chunk + 1) if rows_per_chunk % n == 0]
    fitting = [n for n in divisors if n * row_bytes <= _INNER_BYTES_MAX] or [1]
    ample = [n for n in fitting if n >= least and n * row_bytes >= _INNER_BYTES]
    return ample[0] if ample else fitting[-1]


def _level(spec: ArraySpec) -> int:
    """Level of zstd. Numbers of text states hardly repeat. A negative level leaves them as they are and shortens only
    the padding, see docs/decisions/0017-samples.md. Stores of before keep their level: it is in their metadata."""
    return _TEXT_LEVEL if spec.dtype == "float16" and {"token", "place"} & {*spec.dims} else _ZSTD_LEVEL


def _layout_of(
    rows: int, rows_per_chunk: int, arrays: Sequence[ArraySpec], constants: Sequence[Constant]
) -> dict[str, Any]:
    names = [spec.name for spec in arrays] + [constant.name for constant in constants]
    if rows < 1 or rows_per_chunk < 1 or not names or len(set(names)) != len(names):
        raise StoreError(
            f"Nothing was made: a store needs rows, rows per chunk and arrays with different names, not {rows}, "
            f"{rows_per_chunk} and {names}."
        )
    described = {
        spec.name: {"dims": list(spec.dims), "shape": list(spec.shape), "dtype": spec.dtype, "fill": spec.fill}
        for spec in arrays
    }
    shape = {"version": _LAYOUT_VERSION, "rows": rows, "rows_per_chunk": rows_per_chunk}
    return {**shape, "arrays": described, "constants": []}
