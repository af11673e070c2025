"""Publishing: a chunk is visible whole or not at all, and who lost the run folder can change nothing in it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.stores import commit, stage

from daskt2i.errors import StoreError, TakenOver
from daskt2i.store import zarr_store
from daskt2i.store.publishing import exchange, fenced
from daskt2i.store.publishing.attempts import RECEIPT, begin_attempt
from daskt2i.store.publishing.moves import create_exclusively, remove_tree
from daskt2i.store.publishing.publication import Publication, begin, publishing
from daskt2i.store.publishing.queue import WAITING, PublishQueue
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.testing.store import ARRAYS, ATTRIBUTES, ROWS, ROWS_PER_CHUNK, chunks, encoded, same
from daskt2i.types import Receipt, Staged


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    """A run folder with an empty store."""
    found = RunFolder(tmp_path / "run" if request.param == "disk" else f"memory://{uuid.uuid4().hex}/run")
    ZarrStore(found).create(ROWS, ROWS_PER_CHUNK, ARRAYS, ATTRIBUTES)
    return found


def objects(folder: RunFolder) -> dict[str, bytes]:
    """All objects that a reader sees."""
    return {name: folder.read(name) for name in folder.list() if not name.startswith("attempts/")}


def assert_true(folder: RunFolder, wanted: int) -> None:
    """So many chunks have a receipt, and each receipt is that of the bytes."""
    found = list(Receipts(folder).read(pytest.fail))
    assert len(found) == wanted
    assert [ZarrStore(folder).check(receipt.shards) for receipt in found] == [None] * wanted


def test_a_run_leaves_the_store_and_receipts_and_nothing_else(folder: RunFolder) -> None:
    before = set(objects(folder))
    with publishing(folder) as publication:
        for chunk in chunks():
            commit(publication, chunk, encoded(chunk))
    assert folder.list("attempts") == []
    assert len(objects(folder)) == len(before) + 3 * (len(ARRAYS) + 1)
    assert not folder.is_local or not folder.local_path("attempts").exists()
    assert_true(folder, 3)


def test_of_two_attempts_at_a_chunk_the_published_one_is_seen_whole(folder: RunFolder) -> None:
    chunk = chunks()[0]
    with publishing(folder) as publication:
        first = stage(folder, publication.run, chunk, encoded(chunk))
        second = stage(folder, publication.run, chunk, encoded(chunk, seed=1))
        publication.publish(second)
        seen = objects(folder)
        stage(folder, publication.run, chunk, encoded(chunk))  # one more, thought dead, comes to its end
        assert objects(folder) == seen
    assert objects(folder) == seen
    assert next(Receipts(folder).read()) == second.receipt != first.receipt
    assert_true(folder, 1)


def a_worker_begins(former: Publication, staged: Staged) -> None:
    begin_attempt(former.plain, former.run, 0)


def a_worker_ends(former: Publication, staged: Staged) -> None:
    stage(former.plain, former.run, chunks()[1], encoded(chunks()[1], seed=7))


def a_chunk_is_published(former: Publication, staged: Staged) -> None:
    former.publish(staged)


def an_object_is_written(former: Publication, staged: Staged) -> None:
    former.folder.write("workflow.yaml", b"x")


def a_file_is_written(former: Publication, staged: Staged) -> None:
    with former.folder.writing("manifest.parquet") as file:
        file.write(b"x")


def an_object_is_deleted(former: Publication, staged: Staged) -> None:
    former.folder.delete("receipts/chunk-0000000.json")


def the_run_is_asked(former: Publication, staged: Staged) -> None:
    former.require()


@pytest.mark.parametrize(
    "what",
    [
        a_worker_begins,
        a_worker_ends,
        a_chunk_is_published,
        an_object_is_written,
        a_file_is_written,
        an_object_is_deleted,
        the_run_is_asked,
    ],
)
def test_who_lost_the_folder_can_change_nothing_in_it(
    folder: RunFolder, what: Callable[[Publication, Staged], None]
) -> None:
    former = begin(folder)
    staged = stage(folder, former.run, chunks()[0], encoded(chunks()[0], seed=9))
    with publishing(folder) as publication:
        commit(publication, chunks()[0], encoded(chunks()[0]))
        before = objects(folder)
        with pytest.raises(TakenOver, match="Another run took over"):
            what(former, staged)
        former.end()
        assert objects(folder) == before
        commit(publication, chunks()[1], encoded(chunks()[1]))
    assert_true(folder, 2)


def test_a_chunk_that_cannot_be_published_keeps_its_receipt(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = chunks()[0]
    with publishing(folder) as publication:
        commit(publication, chunk, encoded(chunk))
        before = objects(folder)
        staged = stage(folder, publication.run, chunk, encoded(chunk, seed=1))
        real = zarr_store.move

        def broken(folder: RunFolder, old: str, new: str) -> None:
            if new.startswith("latents.zarr"):
                raise OSError(5, "Input/output error")
            real(folder, old, new)

        with monkeypatch.context() as patch:
            for module in (zarr_store, fenced):
                patch.setattr(module, "move", broken)
            with pytest.raises(OSError, match="Input/output"):
                publication.publish(staged)
            publication.discard(staged.attempt)
        if folder.is_local:
            assert objects(folder) == before
    assert_true(folder, 1)
    assert folder.list("attempts") == []


@pytest.mark.parametrize("moves", range(len(ARRAYS) + 1))
def test_a_run_killed_while_it_replaces_a_chunk_is_finished_or_taken_back_by_the_next(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    """The receipt that was there goes, the shards come, the receipt comes: it ends after each of these moves."""
    chunk = chunks()[0]
    with publishing(folder) as publication:
        old = commit(publication, chunk, encoded(chunk))
    publication = begin(folder)
    staged = stage(folder, publication.run, chunk, encoded(chunk, seed=1))

    class Killed(BaseException):
        pass

    done = iter(range(100))
    real = zarr_store.move

    def dies(*arguments: Any) -> None:
        if next(done) > moves:
            raise Killed
        real(*arguments)

    with monkeypatch.context() as patch:
        for module in (exchange, fenced, zarr_store):
            patch.setattr(module, "move", dies)
        patch.setattr("daskt2i.store.zarr_store.ThreadPoolExecutor", _InTurn)
        with pytest.raises(Killed):
            publication.publish(staged)
    with publishing(folder):
        assert_true(folder, 1)
        assert next(Receipts(folder).read()) in (old, staged.receipt)
    assert same(ZarrStore(folder).read("image_id", 0, 8), encoded(chunk).arrays["image_id"])


class _InTurn:
    """A pool that does everything at once, so that the order of moves is known."""

    def __init__(self, *arguments: Any, **more: Any) -> None: ...

    def __enter__(self) -> _InTurn:
        return self

    def __exit__(self, *arguments: object) -> None: ...

    def map(self, function: Any, items: Any) -> Any:
        return map(function, items)


def test_of_two_runs_that_begin_at_once_at_most_one_goes_on(folder: RunFolder) -> None:
    publications = [begin(folder), begin(folder)]
    for publication in publications:  # both look again for the other one
        try:
            publication.take_over()
        except TakenOver:
            continue
    alive = 0
    for publication in publications:
        try:
            publication.require()
            alive += 1
        except TakenOver:
            pass
    assert alive <= 1


def test_what_somebody_else_put_into_attempts_stays(folder: RunFolder) -> None:
    folder.write("attempts/notes.txt", b"mine")
    folder.write("attempts/of/mine.txt", b"mine")
    with publishing(folder) as publication:
        commit(publication, chunks()[0], encoded(chunks()[0]))
    assert folder.list("attempts") == ["attempts/notes.txt", "attempts/of/mine.txt"]


def test_what_a_worker_wrote_elsewhere_is_named(folder: RunFolder) -> None:
    with publishing(folder) as publication:
        staged = stage(folder, publication.run, chunks()[0], encoded(chunks()[0]))
        remove_tree(folder, f"attempts/{publication.run}/{staged.attempt}")
        with pytest.raises(StoreError, match=r"What host:1 wrote for chunk 0 .* shared folder \(out\)"):
            publication.publish(staged)
    assert_true(folder, 0)


def test_places_of_other_attempts_go_when_the_chunk_is_published(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    ZarrStore(folder).create(ROWS, ROWS_PER_CHUNK, ARRAYS, ATTRIBUTES)
    chunk = chunks()[0]
    with publishing(folder) as publication:
        for _ in range(3):
            staged = stage(folder, publication.run, chunk, encoded(chunk))
        publication.publish(staged)
        assert folder.list("attempts") == []


def test_a_queue_gives_chunks_back_in_their_order_and_bounds_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    rows = (WAITING + 4) * 4
    ZarrStore(folder).create(rows, 4, ARRAYS, ATTRIBUTES)
    given, back = [], []
    with publishing(folder) as publication:
        queue = PublishQueue(publication)
        for chunk in chunks(rows, 4):
            staged = stage(folder, publication.run, chunk, encoded(chunk))
            given.append(staged)
            queue.add(staged)
            back += [one for one, error in queue.done() if error is None]
            assert len(given) - len(back) <= WAITING
        back += [one for one, error in queue.rest() if error is None]
        queue.close()
    assert back == given
    assert_true(folder, WAITING + 4)


def test_only_one_creates_an_object_exclusively(folder: RunFolder) -> None:
    assert create_exclusively(folder, "a", b"1")
    assert not create_exclusively(folder, "a", b"2")
    assert folder.read("a") == b"1"
    assert [name for name in folder.list() if name.startswith(".")] == []


def test_a_receipt_in_the_place_of_an_attempt_is_not_read(folder: RunFolder) -> None:
    with publishing(folder) as publication:
        staged = stage(folder, publication.run, chunks()[0], encoded(chunks()[0]))
        place = f"attempts/{publication.run}/{staged.attempt}"
        assert Receipt.from_json(folder.read(f"{place}/{RECEIPT}")) == staged.receipt
        assert list(Receipts(folder).read()) == []
        assert Receipts(folder).count() == 0
