"""Chunks in a store without an encode: written as a worker does it, published as the driver does it."""

from __future__ import annotations

from daskt2i.store.publishing.attempts import begin_attempt
from daskt2i.store.publishing.publication import Publication, publishing
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.testing.store import receipt_for
from daskt2i.types import Chunk, Encoded, Receipt, Shard, Staged


def put(store: ZarrStore, chunk: Chunk, data: Encoded) -> tuple[Shard, ...]:
    """Write and publish the shards of a chunk, without a receipt."""
    attempt = begin_attempt(store.folder, "", chunk.index)
    try:
        shards = store.write(chunk, data, attempt)
        store.publish(attempt.place, shards)
    finally:
        attempt.discard()
        for name in (f"attempts/{attempt.run}", "attempts") if store.folder.is_local else ():
            store.folder.local_path(name).rmdir()
    return shards


def stage(folder: RunFolder, run: str, chunk: Chunk, data: Encoded) -> Staged:
    """Write a chunk and its receipt as a worker of a run does it."""
    attempt = begin_attempt(folder, run, chunk.index)
    receipt = receipt_for(chunk, ZarrStore(folder).write(chunk, data, attempt))
    Receipts(folder).write(receipt, attempt)
    return Staged(receipt, attempt.name)


def commit(publication: Publication, chunk: Chunk, data: Encoded) -> Receipt:
    """Write and publish a chunk with its receipt."""
    staged = stage(publication.plain, publication.run, chunk, data)
    publication.publish(staged)
    return staged.receipt


def publish(folder: RunFolder, staged: Staged) -> Receipt:
    """Publish a chunk that no run publishes, as a test of a worker leaves it."""
    with publishing(folder) as publication:
        place = next(name for name in folder.list("attempts") if f"/{staged.attempt}/" in name).rpartition("/")[0]
        if folder.is_local:
            folder.local_path(place).rename(folder.local_path(f"{publication.place}/{staged.attempt}"))
        publication.publish(staged)
    return staged.receipt
