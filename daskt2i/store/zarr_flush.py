"""Zarr stores over a run folder: one for reading, and one for writing that flushes and hashes each object.

Covers: avoiding the behaviour of zarr 3.1 that is wrong for a completely new chunk.
Does not cover: which arrays there are (`zarr_store`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Any

from daskt2i.store.publishing.attempts import Attempt, staged_name
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Shard


def reading_store(folder: RunFolder, name: str, read_only: bool = True) -> Any:
    """The zarr store `name` in a run folder. "" is the folder itself."""
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from zarr.storage import FsspecStore, LocalStore

    if folder.is_local:
        return LocalStore(folder.local_path(name), read_only=read_only)
    # FsspecStore.from_url would make an asynchronous s3fs and never close its sessions.
    fs = AsyncFileSystemWrapper(folder.filesystem(), asynchronous=True)
    return FsspecStore(fs, read_only=read_only, path=fs._strip_protocol(folder.address(name)))


def flushing_store(folder: RunFolder, name: str, shards: list[Shard], attempt: Attempt | None = None) -> Any:
    """The same store for writing. `set` returns when the object is on disk, and adds it to `shards`. It reads none.

    Args:
        attempt: shards are written into its place; None to write them into the store.
    """
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype
    from zarr.storage import WrapperStore

    class FlushingStore(WrapperStore[Any]):
        async def set(self, key: str, value: Buffer) -> None:
            data = memoryview(value.as_buffer_like()).cast("B")
            if attempt is None or key.endswith("zarr.json"):
                write = asyncio.to_thread(folder.write, f"{name}/{key}" if name else key, data)
            else:
                write = asyncio.to_thread(attempt.write, staged_name(key), data)
            if key.endswith("zarr.json"):
                await write
                return
            digest, _ = await asyncio.gather(asyncio.to_thread(hashlib.sha256, data), write)
            shards.append(Shard(key, digest.hexdigest(), data.nbytes))

        async def set_if_not_exists(self, key: str, value: Buffer) -> None:
            if not await self.exists(key):
                await self.set(key, value)

        async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
            await asyncio.gather(*(self.set(key, value) for key, value in values))

        async def get(
            self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
        ) -> Buffer | None:
            # zarr merges new data into the old shard, even if all of the shard is new. So the old shard stays hidden.
            return await super().get(key, prototype, byte_range) if key.endswith("zarr.json") else None

    return FlushingStore(reading_store(folder, name, read_only=False))
