"""Shards behind an address are fetched once by all ranks of a machine, within a limit, and the copies go at the end."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from builders.workflows import fake_settings
from fsspec.implementations.memory import MemoryFileSystem

from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.errors import StoreError
from daskt2i.executors.serial import SerialExecutor
from daskt2i.loader.dataset import LatentDataset
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.upkeep import shard_copies
from daskt2i.train.upkeep.checked_store import CheckedStore
from daskt2i.train.upkeep.shard_copies import ShardCopies

ROWS, BATCH = 64, 8
ROOT = "counted://run"


class CountedFiles(MemoryFileSystem):  # type: ignore[misc]
    """Objects in memory. It counts how often each is read whole, and its bytes."""

    protocol = "counted"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    reads: ClassVar[Counter[str]] = Counter()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("counted://", "memory://")))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **how: Any) -> bytes:
        if start is None:
            self.reads[path] += 1
        return bytes(super().cat_file(path, start, end, **how))


@pytest.fixture(scope="module")
def encoded() -> Iterator[RunFolder]:
    fsspec.register_implementation("counted", CountedFiles, clobber=True)
    workflow = fake_settings(rows=ROWS, rows_per_chunk=8)
    assert encode(prepare(workflow, ROOT), SerialExecutor()).accepted == ROWS
    yield RunFolder(ROOT)
    CountedFiles.store.clear()


@pytest.fixture
def folder(encoded: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    CountedFiles.reads.clear()
    return encoded


def dataset_of(folder: RunFolder, store: CheckedStore, rank: int = 0, world: int = 1) -> LatentDataset:
    how: dict[str, Any] = {"seed": 0, "batch": BATCH, "heldout": 0, "window": 2, "cache_bytes": 0, "threads": 1}
    return LatentDataset(folder, rank=rank, world=world, allow_random=True, open_as=lambda _: store, **how)


def epochs(folder: RunFolder, limit: str | None, count: int = 3, world: int = 1) -> tuple[list[Any], list[str]]:
    """The latents of some epochs, of all ranks, which take their batches in turn; and the notes."""
    notes: list[str] = []
    stores, datasets = [], []
    for rank in range(world):
        copies = None if limit is None else ShardCopies.opened(folder, limit, notes.append)
        stores.append(CheckedStore(folder, copies))
        datasets.append(dataset_of(folder, stores[-1], rank, world))
    streams = [dataset.batches(0, count * ROWS) for dataset in datasets]
    found = [batch.latents.copy() for batches in zip(*streams, strict=True) for batch in batches]
    for store, dataset in zip(stores, datasets, strict=True):
        dataset.close()
        store.close()
    return found, notes


def fetched() -> Counter[str]:
    """How often each shard was fetched as a whole."""
    found = {path.partition("latents.zarr/")[2]: count for path, count in CountedFiles.reads.items()}
    return Counter({key: count for key, count in found.items() if "/c." in key})


def test_each_shard_is_fetched_once_for_all_epochs_and_the_samples_are_the_same(folder: RunFolder) -> None:
    plain, _ = epochs(folder, None)
    without = fetched()
    CountedFiles.reads.clear()
    copied, notes = epochs(folder, "1 GiB")
    assert notes == []
    assert all(np.array_equal(one, other) for one, other in zip(plain, copied, strict=True))
    assert set(fetched().values()) == {1}
    assert fetched().keys() <= without.keys()  # shards with the same bytes are one
    assert min(without.values()) >= 3


def test_two_ranks_of_a_machine_fetch_each_shard_once_together(folder: RunFolder) -> None:
    epochs(folder, "1 GiB", world=2)
    assert set(fetched().values()) == {1}


def test_no_file_is_left_in_the_folder_for_temporary_files(folder: RunFolder, tmp_path: Path) -> None:
    epochs(folder, "1 GiB", world=2)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_with_room_for_half_of_the_store_half_is_fetched_again_and_the_limit_holds(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = {s.key: s.size for receipt in Receipts(folder).read() for s in receipt.shards}
    epochs(folder, None)
    used, without = sum(shards[key] for key in fetched()), sum(shards[key] * count for key, count in fetched().items())
    CountedFiles.reads.clear()
    limit, most = used * 4 // 7, [0]
    add = ShardCopies._add

    def watched(self: ShardCopies, *given: Any) -> Any:
        try:
            return add(self, *given)
        finally:
            most[0] = max(most[0], sum(path.stat().st_size for path in self.place.iterdir()))

    monkeypatch.setattr(ShardCopies, "_add", watched)
    epochs(folder, f"{limit} B")
    assert 0 < most[0] <= limit
    assert sum(shards[key] * count for key, count in fetched().items()) < 0.75 * without
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "daskt2i-shards" in str(path)] == []


def test_a_full_disk_is_told_once_and_the_samples_are_the_same(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = epochs(folder, None, count=1)
    monkeypatch.setattr(ShardCopies, "_fits", lambda self, size: False)
    copied, notes = epochs(folder, "1 GiB", count=1)
    assert all(np.array_equal(one, other) for one, other in zip(plain, copied, strict=True))
    (note,) = notes
    assert "no space is left" in note.lower()
    assert "launch.disk_cache" in note


def test_a_copy_that_was_damaged_is_fetched_again(folder: RunFolder) -> None:
    (shard, *_) = next(iter(Receipts(folder).read())).shards
    first = ShardCopies.opened(folder, "1 GiB", lambda text: None)
    assert first is not None
    path = first.get(shard, lambda: folder.read(f"latents.zarr/{shard.key}"))
    assert path is not None
    path.write_bytes(b"x" * shard.size)
    second = ShardCopies.opened(folder, "1 GiB", lambda text: None)  # another rank
    assert second is not None
    found = second.get(shard, lambda: folder.read(f"latents.zarr/{shard.key}"))
    assert found is not None
    assert found.read_bytes() == folder.read(f"latents.zarr/{shard.key}")
    first.close()
    assert found.exists()
    second.close()
    assert not found.exists()


def test_copies_of_a_killed_training_are_removed_by_the_next_one(folder: RunFolder, tmp_path: Path) -> None:
    left = shard_copies._base() / ("a" * 24)
    left.mkdir(parents=True)
    (left / f"kept-{'b' * 64}").write_bytes(b"x")
    copies = ShardCopies.opened(folder, "1 GiB", lambda text: None)
    assert copies is not None
    assert not left.exists()
    copies.close()


def test_a_shard_that_is_damaged_at_its_address_is_refused(folder: RunFolder) -> None:
    key = next(iter(Receipts(folder).read())).shards[0].key
    name = f"latents.zarr/{key}"
    whole = folder.read(name)
    folder.write(name, whole[:-1] + bytes([whole[-1] ^ 1]))
    store = CheckedStore(folder, ShardCopies.opened(folder, "1 GiB", lambda text: None))
    try:
        with pytest.raises(StoreError, match=r"Chunk 0 of .* is damaged"):
            store.read(key.partition("/")[0], 0, 4)
    finally:
        store.close()
        folder.write(name, whole)


def test_a_store_on_this_machine_and_a_limit_of_nothing_make_no_copies(folder: RunFolder, tmp_path: Path) -> None:
    assert ShardCopies.opened(RunFolder(tmp_path), "auto", lambda text: None) is None
    assert ShardCopies.opened(folder, "0 B", lambda text: None) is None
