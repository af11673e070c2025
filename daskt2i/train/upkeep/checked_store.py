"""A latent store whose shards are hashed by the rank that reads them, before their first row is used.

Covers: comparing each shard with its receipt, once in a process; several threads that want the same shard; reading
from a copy on this machine, if there is one (`shard_copies`).
Does not cover: sizes and receipts of the whole store, which the driver compares before ranks start (`encode.verify`),
decoding (`store.zarr_store`), which rows are read when (`loader`).

The driver used to hash the whole store before the first step. For a store of 100 GB these are minutes on one core,
each time a training goes on. A rank needs a few shards for its first step, and hashes the others while it trains.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from daskt2i.errors import StoreError
from daskt2i.plan import ChunkGrid
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.upkeep.shard_copies import ShardCopies
from daskt2i.types import Shard

if TYPE_CHECKING:
    import zarr


class CheckedStore(ZarrStore):
    """A store to read from. It keeps the checksums of a chunk until all of them were compared.

    Args:
        copies: copies of its shards on this machine, for a store behind an address.
    """

    def __init__(self, folder: RunFolder, copies: ShardCopies | None = None) -> None:
        super().__init__(folder)
        self._copies = copies
        self._hashes: dict[str, str] = {}
        self._grid: ChunkGrid | None = None
        self._turn = threading.Lock()
        self._turns: dict[tuple[str, int], threading.Lock] = {}
        self._good: set[tuple[str, int]] = set()
        self._shards: dict[int, dict[str, list[Shard]]] = {}

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """See `ZarrStore.read`.

        Raises:
            StoreError: a shard of these rows is not what its receipt says.
        """
        self.require_whole(name, start, stop)
        return super().read(name, start, stop)

    def require_whole(self, name: str, start: int, stop: int) -> None:
        """Compare the shards of these rows with their receipts, each once.

        Raises:
            StoreError: a shard is not what its receipt says.
        """
        if self._grid is None:
            layout = self.layout()
            self._grid = ChunkGrid(layout["rows"], layout["rows_per_chunk"])
        size = self._grid.rows_per_chunk
        for chunk in range(start // size, -(-stop // size)):
            if (name, chunk) not in self._good or self._passed(name, chunk):
                self._compare(name, chunk)

    def nearest(self, key: str) -> Path | None:
        """See `ZarrStore.nearest`: also a copy of an object that is behind an address."""
        if self._copies is None or (sha256 := self._hashes.get(key)) is None:
            return super().nearest(key)
        return self._copies.nearest(sha256)

    def _opened(self, store: Any, name: str, mode: str) -> zarr.Array[Any]:
        return super()._opened(store if self._copies is None else _copies_first(store, self.nearest), name, mode)

    def close(self) -> None:
        """The last rank of this machine removes the copies."""
        if self._copies is not None:
            self._copies.close()

    def _passed(self, name: str, chunk: int) -> bool:
        """Whether there are copies, but none of this shard any more."""
        return self._copies is not None and any(self.nearest(shard.key) is None for shard in self._of(name, chunk))

    def _copied(self, shards: Sequence[Shard]) -> Sequence[Shard]:
        """Copy shards to this machine. Returns those of which there is no copy; a copy is compared when it is made."""
        if self._copies is None:
            return shards
        left = []
        for shard in shards:
            try:
                found = self._copies.get(shard, lambda key=shard.key: self.folder.read(f"{self.name}/{key}"))  # type: ignore[misc]
            except FileNotFoundError:
                found = None
            if found is None:
                left.append(shard)
            else:
                self._hashes[shard.key] = shard.sha256
        return left

    def _compare(self, name: str, chunk: int) -> None:
        with self._turn:
            turn = self._turns.setdefault((name, chunk), threading.Lock())
        with turn:  # a second thread waits for the first, and does not hash the shard again
            left = self._copied(self._of(name, chunk))
            if (name, chunk) in self._good:
                return
            if (problem := self.check(left)) is not None:
                raise StoreError(
                    f"Chunk {chunk} of {self.address} is damaged: {problem}. No sample of this shard was trained on, "
                    "and saved checkpoints stay. Encode again: it repairs only this chunk; then train again."
                )
            with self._turn:
                self._good.add((name, chunk))
                self._turns.pop((name, chunk), None)

    def _of(self, name: str, chunk: int) -> Sequence[Shard]:
        """The shards of an array in a chunk. One without a receipt is refused where rows are chosen (`loader`)."""
        with self._turn:
            found = self._shards.get(chunk)
        if found is None:
            found = {}
            for receipt in Receipts(self.folder).read_chunks([chunk]):
                for shard in receipt.shards:
                    found.setdefault(shard.key.partition("/")[0], []).append(shard)
            with self._turn:
                self._shards[chunk] = found
        return found.get(name, [])


def _copies_first(store: Any, nearest: Callable[[str], Path | None]) -> Any:
    """The zarr store that reads from a copy on this machine, if there is one."""
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype
    from zarr.storage import LocalStore, WrapperStore

    class CopiesFirst(WrapperStore[Any]):
        async def get(
            self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
        ) -> Buffer | None:
            found = None
            if (path := nearest(key)) is not None:
                found = await LocalStore(path.parent, read_only=True).get(path.name, prototype, byte_range)
            # A copy may pass in between; then the shard is not missing.
            return await super().get(key, prototype, byte_range) if found is None else found

    return CopiesFirst(store)
