"""Receipts are the only proof that a chunk is done, so a doubtful file does not count."""

from __future__ import annotations

import itertools
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from daskt2i.errors import Reason, StoreError
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.testing.store import receipt_for
from daskt2i.types import Chunk, Receipt, Rejection, Shard

SHARDS = (Shard("latent_mean/c.0.0.0.0", "a" * 64, 10), Shard("captions/c.0.0", "b" * 64, 20))


def a_receipt(chunk: int = 0, rows: int = 4) -> Receipt:
    start = chunk * rows
    rejected = (Rejection(start + 1, 77, Reason.UNREADABLE_IMAGE, 'é 中 "quoted" \udce9'),)
    return receipt_for(Chunk(chunk, start, start + rows), SHARDS, rejected)


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path if request.param == "disk" else f"memory://{uuid.uuid4().hex}")


def test_receipts_are_read_back_unchanged_in_the_order_of_chunks(folder: RunFolder) -> None:
    receipts = Receipts(folder)
    wanted = [a_receipt(chunk) for chunk in (0, 2, 9, 10, 1_234_567, 10_000_000, 100_000_000)]
    for receipt in wanted[::-1]:
        receipts.write(receipt)
    assert list(receipts.read()) == wanted
    assert folder.exists("receipts/chunk-0000010.json")


def test_a_missing_folder_has_no_receipts(tmp_path: Path) -> None:
    assert list(Receipts(RunFolder(tmp_path / "nowhere")).read()) == []


def test_the_last_receipt_of_a_chunk_replaces_the_one_before_and_delete_removes_it(folder: RunFolder) -> None:
    receipts = Receipts(folder)
    receipts.write(a_receipt(3))
    other = receipt_for(Chunk(3, 12, 16), SHARDS)
    receipts.write(other)
    assert list(receipts.read()) == [other]
    receipts.delete(3)
    receipts.delete(3)
    assert list(receipts.read()) == []


def test_a_receipt_without_shards_is_not_written(folder: RunFolder) -> None:
    with pytest.raises(StoreError, match="no shard"):
        Receipts(folder).write(receipt_for(Chunk(0, 0, 4), ()))


def edited(**changes: Any) -> bytes:
    return json.dumps({**json.loads(a_receipt(1).to_json()), **changes}).encode()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(edited()[:-20], id="torn"),
        pytest.param(b"\x00" * 500, id="zeros, as a power cut leaves"),
        pytest.param(b"\xff\xfe\xfa", id="not text"),
        pytest.param(b"[1, 2]", id="a list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"text"', id="a string"),
        pytest.param(b"[" * 100_000, id="very deep"),
        pytest.param(edited(chunk=2), id="another chunk's"),
        pytest.param(edited(accepted=4), id="counts that do not add up"),
        pytest.param(edited(accepted="3"), id="a count in quotes"),
        pytest.param(edited(chunk=1.0), id="a fraction"),
        pytest.param(edited(start=8, stop=8, accepted=0, rejected=[]), id="no rows"),
        pytest.param(edited(start=-4, stop=0), id="rows before the first"),
        pytest.param(edited(rejected=[{"row": 5, "image_id": 1, "reason": "bad mood", "detail": ""}]), id="reason"),
        pytest.param(edited(rejected=[{"row": 99, "image_id": 1, "reason": "no-caption"}]), id="another chunk's row"),
        pytest.param(edited(accepted=2, rejected=[{"row": 5, "image_id": 1, "reason": "no-caption"}] * 2), id="twice"),
        pytest.param(edited(shards=[]), id="no shards"),
        pytest.param(edited(shards=[{"key": "../../x", "sha256": "a", "size": 1}]), id="a shard outside"),
        pytest.param(edited(shards=[{"key": "x", "sha256": "a", "size": "1"}]), id="a size in quotes"),
        pytest.param(edited(surprise=1), id="an unknown field"),
        pytest.param(edited(warnings=None), id="null for a list"),
    ],
)
def test_a_doubtful_receipt_does_not_count_and_is_reported(folder: RunFolder, data: bytes) -> None:
    receipts = Receipts(folder)
    receipts.write(a_receipt(0))
    receipts.write(a_receipt(2))
    folder.write("receipts/chunk-0000001.json", data)
    problems: dict[str, str] = {}
    assert [receipt.chunk for receipt in receipts.read(on_problem=problems.__setitem__)] == [0, 2]
    assert list(problems) == ["receipts/chunk-0000001.json"]
    assert [receipt.chunk for receipt in receipts.read()] == [0, 2]


def test_foreign_files_are_reported_and_not_changed(folder: RunFolder) -> None:
    receipts = Receipts(folder)
    receipts.write(a_receipt(0))
    for name in ("receipts/notes.txt", "receipts/chunk-0000000.json~", "receipts/chunk-٠٠٠٠٠٠١.json"):
        folder.write(name, b"mine")
    problems: dict[str, str] = {}
    assert len(list(receipts.read(on_problem=problems.__setitem__))) == 1
    assert len(problems) == 3
    assert folder.exists("receipts/notes.txt")


def test_receipts_are_read_one_at_a_time(folder: RunFolder) -> None:
    receipts = Receipts(folder)
    for chunk in range(3):
        receipts.write(a_receipt(chunk))
    found = receipts.read()
    assert next(found).chunk == 0
    receipts.delete(2)
    assert [receipt.chunk for receipt in found] in ([1], [1, 2])  # a remote store is read in groups


def test_read_chunks_reads_each_receipt_only_when_it_is_needed(folder: RunFolder) -> None:
    receipts = Receipts(folder)
    receipts.write(a_receipt(3))
    assert next(receipts.read_chunks(itertools.count())) == a_receipt(3)
