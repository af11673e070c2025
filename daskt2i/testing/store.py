"""The conformance suite for stores.

    class TestMine(LatentStoreSuite):
        @pytest.fixture
        def store(self, tmp_path):
            return MyStore(tmp_path)

        def damage(self, store, key, change): ...

Covers: the rules of `protocols.LatentStore`.
Does not cover: speed, or a full disk.
"""

from __future__ import annotations

import multiprocessing
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from daskt2i.errors import StoreError
from daskt2i.protocols import LatentStore
from daskt2i.types import ArraySpec, Chunk, Encoded, Receipt, Rejection, Shard

ROWS = 22
ROWS_PER_CHUNK = 8

ARRAYS = (
    ArraySpec("latent_mean", ("channel", "y", "x"), (4, 4, 4), "float16", "nan", "posterior mean"),
    ArraySpec("text_mask", ("slot", "token"), (3, 7), "bool", False, "tokens that count"),
    ArraySpec("captions", ("slot",), (3,), "string", "", "captions as they stand in the file"),
    ArraySpec("image_id", (), (), "int64", 0, "the source's own number"),
)

ATTRIBUTES = {"scaling_factor": 0.5, "fingerprint": {"encoder": "fake", "numbers": [1, 2.5, None]}}

TEXTS = (
    "",
    "a cat",
    "é 😀 中文",
    "two\nlines\ttab",
    'a "quote" \\ and \x00 zero',
    " spaces  ",
    "👩‍👩‍👧 الف",
    "x" * 5000,
)


def chunks(rows: int = ROWS, rows_per_chunk: int = ROWS_PER_CHUNK) -> list[Chunk]:
    """The chunks of a store of this size. The last chunk is short."""
    starts = range(0, rows, rows_per_chunk)
    return [Chunk(i, start, min(start + rows_per_chunk, rows)) for i, start in enumerate(starts)]


def encoded(chunk: Chunk, seed: int = 0) -> Encoded:
    """Arrays for a chunk. They depend only on its rows and the seed."""
    n = len(chunk)
    rng = np.random.default_rng((seed, chunk.index))
    text = [[TEXTS[(row + slot + seed) % len(TEXTS)] for slot in range(3)] for row in range(chunk.start, chunk.stop)]
    return Encoded(
        {
            "latent_mean": rng.normal(size=(n, 4, 4, 4)).astype(np.float16),
            "text_mask": rng.random((n, 3, 7)) > 0.5,
            "captions": np.array(text, dtype=object).reshape(n, 3),
            "image_id": np.arange(chunk.start, chunk.stop, dtype=np.int64) + 2**40,
        }
    )


def receipt_for(chunk: Chunk, shards: tuple[Shard, ...], rejected: tuple[Rejection, ...] = ()) -> Receipt:
    """A receipt for a chunk whose rows have two captions each."""
    accepted = len(chunk) - len(rejected)
    return Receipt(
        chunk=chunk.index,
        start=chunk.start,
        stop=chunk.stop,
        fingerprint="f" * 64,
        accepted=accepted,
        captions=2 * accepted,
        truncated=0,
        rejected=rejected,
        inputs="0" * 64,
        seconds={"total": 0.5},
        worker="host:1",
        loads={"image": 1},
        batch=4,
        peak_bytes=1,
        shards=shards,
    )


def same(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> bool:
    """Whether shapes, dtypes (except of text) and elements are equal; NaN equals NaN."""
    if found.shape != wanted.shape:
        return False
    if wanted.dtype == object:
        return bool(found.tolist() == wanted.tolist())
    return found.dtype == wanted.dtype and bool(np.array_equal(found, wanted, equal_nan=wanted.dtype.kind == "f"))


class LatentStoreSuite:
    """Subclass it, give a `store` fixture (an empty one) and `damage`."""

    across_processes = True
    """Whether a pickled copy of the store in another process sees the same arrays."""

    @pytest.fixture
    def store(self) -> LatentStore:
        raise NotImplementedError("give a fixture `store` with an empty store")

    def damage(self, store: Any, key: str, change: Callable[[bytes], bytes | None]) -> None:
        """Replace an object with `change(its bytes)` without the store's knowledge; None removes the object."""
        raise NotImplementedError

    def attempt(self, store: Any, chunk: Chunk) -> Any:
        """The place of a new attempt at a chunk: an object with a `place`, a name that no other attempt has."""
        return SimpleNamespace(place=f"attempts/{uuid.uuid4().hex}")

    def put(self, store: LatentStore, chunk: Chunk, data: Encoded) -> tuple[Shard, ...]:
        """Write a chunk and publish it."""
        attempt = self.attempt(store, chunk)
        shards = store.write(chunk, data, attempt)
        store.publish(attempt.place, shards)
        return shards

    @pytest.fixture
    def made(self, store: LatentStore) -> LatentStore:
        store.create(ROWS, ROWS_PER_CHUNK, ARRAYS, ATTRIBUTES)
        return store

    def test_reads_back_what_was_written(self, made: LatentStore) -> None:
        for chunk in chunks():
            self.put(made, chunk, encoded(chunk))
        for chunk in chunks():
            for name, wanted in encoded(chunk).arrays.items():
                assert same(made.read(name, chunk.start, chunk.stop), wanted), name

    def test_reads_across_chunks_and_inside_them(self, made: LatentStore) -> None:
        for chunk in chunks():
            self.put(made, chunk, encoded(chunk))
        whole = np.concatenate([encoded(chunk).arrays["latent_mean"] for chunk in chunks()])
        for start, stop in ((0, ROWS), (3, 5), (6, 19), (ROWS - 1, ROWS), (4, 4)):
            assert same(made.read("latent_mean", start, stop), whole[start:stop])

    def test_text_comes_back_character_for_character(self, made: LatentStore) -> None:
        chunk = chunks()[0]
        self.put(made, chunk, encoded(chunk))
        found = made.read("captions", chunk.start, chunk.stop)
        assert all(isinstance(text, str) for text in found.flat)
        assert {str(text) for text in found.flat} == set(TEXTS)

    def test_rows_that_were_never_written_read_as_the_fill_value(self, made: LatentStore) -> None:
        self.put(made, chunks()[1], encoded(chunks()[1]))
        assert np.isnan(made.read("latent_mean", 0, 8)).all()
        assert not made.read("text_mask", 16, ROWS).any()
        assert set(made.read("captions", 0, 8).flat) == {""}

    def test_writing_twice_gives_the_same_bytes(self, made: LatentStore) -> None:
        for chunk in chunks():
            assert self.put(made, chunk, encoded(chunk)) == self.put(made, chunk, encoded(chunk))

    def test_every_array_has_a_shard_even_when_all_is_fill(self, made: LatentStore) -> None:
        chunk = chunks()[0]
        blank = Encoded(
            {
                "latent_mean": np.full((8, 4, 4, 4), np.nan, np.float16),
                "text_mask": np.zeros((8, 3, 7), bool),
                "captions": np.full((8, 3), "", dtype=object),
                "image_id": np.zeros(8, np.int64),
            }
        )
        shards = self.put(made, chunk, blank)
        assert len({shard.key for shard in shards}) == len(ARRAYS)
        assert made.check(shards) is None

    def test_the_last_write_of_a_chunk_replaces_the_ones_before(self, made: LatentStore) -> None:
        for chunk in chunks():
            self.put(made, chunk, encoded(chunk, seed=1))
            shards = self.put(made, chunk, encoded(chunk))
            assert made.check(shards) is None
            for name, wanted in encoded(chunk).arrays.items():
                assert same(made.read(name, chunk.start, chunk.stop), wanted)

    def test_create_keeps_a_store_with_the_same_arrays(self, made: LatentStore) -> None:
        shards = self.put(made, chunks()[0], encoded(chunks()[0]))
        made.create(ROWS, ROWS_PER_CHUNK, ARRAYS, ATTRIBUTES)
        assert made.check(shards) is None

    @pytest.mark.parametrize(
        ("rows", "per_chunk", "arrays", "attributes"),
        [
            pytest.param(ROWS + 1, ROWS_PER_CHUNK, ARRAYS, ATTRIBUTES, id="rows"),
            pytest.param(ROWS, ROWS_PER_CHUNK * 2, ARRAYS, ATTRIBUTES, id="rows per chunk"),
            pytest.param(ROWS, ROWS_PER_CHUNK, ARRAYS[1:], ATTRIBUTES, id="fewer arrays"),
            pytest.param(ROWS, ROWS_PER_CHUNK, ARRAYS, {**ATTRIBUTES, "scaling_factor": 1.0}, id="attributes"),
        ],
    )
    def test_create_refuses_a_store_that_differs(
        self, made: LatentStore, rows: int, per_chunk: int, arrays: tuple[ArraySpec, ...], attributes: dict[str, Any]
    ) -> None:
        shards = self.put(made, chunks()[0], encoded(chunks()[0]))
        with pytest.raises(StoreError):
            made.create(rows, per_chunk, arrays, attributes)
        assert made.check(shards) is None

    @pytest.mark.parametrize(
        "wrong",
        [
            pytest.param({"latent_mean": np.zeros((8, 4, 4, 4), np.float32)}, id="wider dtype"),
            pytest.param({"latent_mean": np.zeros((8, 4, 4), np.float16)}, id="a dimension less"),
            pytest.param({"latent_mean": np.zeros((1, 4, 4, 4), np.float16)}, id="one row to broadcast"),
            pytest.param({"latent_mean": np.zeros((7, 4, 4, 4), np.float16)}, id="a row too few"),
            pytest.param({"image_id": np.zeros(8, np.int32)}, id="narrower integers"),
            pytest.param({"captions": np.full((8, 3), None, dtype=object)}, id="None for text"),
            pytest.param({"captions": np.full((8, 3), "\ud800", dtype=object)}, id="text that is not Unicode"),
            pytest.param({"surprise": np.zeros(8, np.int32)}, id="an array that is not in the store"),
            pytest.param({"latent_mean": None}, id="an array left out"),
        ],
    )
    def test_write_refuses_what_does_not_fit(self, made: LatentStore, wrong: dict[str, Any]) -> None:
        chunk = chunks()[0]
        arrays = {**encoded(chunk).arrays, **wrong}
        with pytest.raises(StoreError):
            made.write(chunk, Encoded({name: array for name, array in arrays.items() if array is not None}))
        assert np.isnan(made.read("latent_mean", 0, 8)).all(), "something was written all the same"

    @pytest.mark.parametrize("chunk", [Chunk(0, 4, 12), Chunk(1, 0, 8), Chunk(2, 16, 24), Chunk(3, 24, 32)], ids=str)
    def test_write_refuses_rows_that_are_no_whole_chunk(self, made: LatentStore, chunk: Chunk) -> None:
        with pytest.raises(StoreError):
            made.write(chunk, encoded(chunk))

    def test_read_refuses_rows_and_arrays_that_are_not_there(self, made: LatentStore) -> None:
        for name, start, stop in (("latent_mean", 0, ROWS + 1), ("latent_mean", -1, 2), ("no_such", 0, 1)):
            with pytest.raises(StoreError):
                made.read(name, start, stop)

    @pytest.mark.parametrize("deep", [True, False])
    def test_check_finds_objects_that_are_missing_or_short(self, made: LatentStore, deep: bool) -> None:
        first, second, *_ = (self.put(made, chunk, encoded(chunk)) for chunk in chunks())
        self.damage(made, first[0].key, lambda data: None)
        self.damage(made, second[1].key, lambda data: data[:-1])
        assert first[0].key in (made.check(first, deep) or "")
        assert second[1].key in (made.check(second, deep) or "")

    def test_check_finds_one_flipped_bit(self, made: LatentStore) -> None:
        shards = self.put(made, chunks()[0], encoded(chunks()[0]))
        for shard in shards:
            self.damage(made, shard.key, _flip)
            assert shard.key in (made.check(shards) or "")
            assert made.check(shards, deep=False) is None
            self.damage(made, shard.key, _flip)
        assert made.check(shards) is None

    @pytest.mark.parametrize("index", [0, 2], ids=["whole chunk", "short chunk"])
    def test_writing_a_damaged_chunk_again_repairs_it(self, made: LatentStore, index: int) -> None:
        chunk = chunks()[index]
        shards = self.put(made, chunk, encoded(chunk))
        for shard in shards:
            self.damage(made, shard.key, lambda data: b"\xff" * (len(data) // 2))
        assert self.put(made, chunk, encoded(chunk)) == shards
        assert made.check(shards) is None

    def test_nobody_sees_what_was_written_before_it_is_published(self, made: LatentStore) -> None:
        chunk = chunks()[0]
        first = self.put(made, chunk, encoded(chunk))
        attempt = self.attempt(made, chunk)
        other = made.write(chunk, encoded(chunk, seed=1), attempt)
        assert made.check(first) is None
        assert same(made.read("latent_mean", 0, 8), encoded(chunk).arrays["latent_mean"])
        made.publish(attempt.place, other)
        assert made.check(other) is None

    def test_of_two_attempts_only_the_published_one_is_seen(self, made: LatentStore) -> None:
        chunk = chunks()[1]
        places = [self.attempt(made, chunk) for _ in range(2)]
        written = [made.write(chunk, encoded(chunk, seed=i), place) for i, place in enumerate(places)]
        made.publish(places[0].place, written[0])
        assert made.check(written[0]) is None

    def test_what_is_gone_cannot_be_published(self, made: LatentStore) -> None:
        chunk = chunks()[0]
        shards = self.put(made, chunk, encoded(chunk))
        with pytest.raises(FileNotFoundError):
            made.publish(self.attempt(made, chunk).place, shards)
        assert made.check(shards) is None

    def test_two_processes_that_write_at_once_lose_nothing(self, made: LatentStore) -> None:
        if not self.across_processes:
            pytest.skip("this store lives in one process")
        todo = chunks()
        context = multiprocessing.get_context("spawn")
        with context.Pool(2) as pool:
            places = [self.attempt(made, chunk) for chunk in todo * 2]
            work = [(made, chunk, place) for chunk, place in zip(todo * 2, places, strict=True)]
            written = pool.starmap(_write, work, chunksize=1)
            pool.close()
            pool.join()
        assert written[: len(todo)] == written[len(todo) :]
        for chunk, shards, place in zip(todo * 2, written, places, strict=True):
            made.publish(place.place, shards)
            assert made.check(shards) is None
            for name, wanted in encoded(chunk).arrays.items():
                assert same(made.read(name, chunk.start, chunk.stop), wanted)


def _write(store: LatentStore, chunk: Chunk, attempt: Any) -> tuple[Shard, ...]:
    return store.write(chunk, encoded(chunk), attempt)


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
