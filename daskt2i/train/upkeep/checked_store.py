"""A latent store whose shards are hashed by the rank that reads them, before their first row is used.

Covers: comparing each shard with its receipt, once in a process; several threads that want the same shard.
Does not cover: sizes and receipts of the whole store, which the driver compares before ranks start (`encode.verify`),
decoding (`store.zarr_store`), which rows are read when (`loader`).

The driver used to hash the whole store before the first step. For a store of 100 GB these are minutes on one core,
each time a training goes on. A rank needs a few shards for its first step, and hashes the others while it trains.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from daskt2i.errors import StoreError
from daskt2i.plan import ChunkGrid
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Shard


class CheckedStore(ZarrStore):
    """A store to read from. It keeps the checksums of a chunk until all of them were compared."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder)
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
            if (name, chunk) not in self._good:
                self._compare(name, chunk)

    def _compare(self, name: str, chunk: int) -> None:
        with self._turn:
            turn = self._turns.setdefault((name, chunk), threading.Lock())
        with turn:  # a second thread waits for the first, and does not hash the shard again
            if (name, chunk) in self._good:
                return
            if (problem := self.check(self._of(name, chunk))) is not None:
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
