"""The manifest has one line for every row, or it is not written at all."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import daskt2i.store.manifest
from daskt2i.errors import Reason, StoreError
from daskt2i.plan import ChunkGrid
from daskt2i.store.manifest import write_manifest
from daskt2i.store.run_folder import RunFolder
from daskt2i.testing.store import receipt_for
from daskt2i.types import Chunk, Receipt, Rejection, Row, Shard

SHARDS = (Shard("image_id/c.0", "a" * 64, 10),)


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path if request.param == "disk" else f"memory://{uuid.uuid4().hex}")


def rows_of(start: int, stop: int) -> Sequence[Row]:
    return [Row(i, 1000 + i, f"folder/é {i}.jpg", ("a cat", "a dog")) for i in range(start, stop)]


def receipts(rows: int = 22, per_chunk: int = 8, rejected: dict[int, Rejection] | None = None) -> list[Receipt]:
    made = []
    for index, start in enumerate(range(0, rows, per_chunk)):
        stop = min(start + per_chunk, rows)
        bad = tuple(r for row, r in (rejected or {}).items() if start <= row < stop)
        made.append(receipt_for(Chunk(index, start, stop), SHARDS, bad))
    return made


def table(folder: RunFolder) -> list[dict[str, Any]]:
    return pq.read_table(pa.BufferReader(folder.read("manifest.parquet"))).to_pylist()


def test_every_row_has_one_line(folder: RunFolder) -> None:
    rejected = {
        0: Rejection(0, 1000, Reason.NO_CAPTION),
        9: Rejection(9, 1009, Reason.UNREADABLE_IMAGE, "cut off \udce9"),
        21: Rejection(21, 1021, Reason.NOT_FINITE, "latent_mean"),
    }
    assert write_manifest(folder, rows_of, receipts(rejected=rejected), rows=22) == 22
    lines = table(folder)
    assert [line["row"] for line in lines] == list(range(22))
    assert [line["image_id"] for line in lines] == list(range(1000, 1022))
    assert [line["chunk"] for line in lines] == [0] * 8 + [1] * 8 + [2] * 6
    assert {line["row"]: line["reason"] for line in lines if line["status"] == "rejected"} == {
        0: "no-caption",
        9: "unreadable-image",
        21: "not-finite",
    }
    assert lines[9]["detail"] == "cut off \\udce9"
    assert {line["captions"] for line in lines} == {2}
    accepted = [line for line in lines if line["status"] == "accepted"]
    assert len(accepted) == 19
    assert all(line["reason"] is None and line["detail"] is None for line in accepted)
    assert lines[3]["file_name"] == "folder/é 3.jpg"


def test_row_numbers_that_short_chunks_leave_out_have_no_line(folder: RunFolder) -> None:
    grid = ChunkGrid(15, 4, {1: 2})
    made = [receipt_for(chunk, SHARDS) for chunk in grid]
    assert write_manifest(folder, rows_of, made, 13, grid) == 13
    assert [line["row"] for line in table(folder)] == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14]


def test_a_chunk_that_lacks_rows_of_the_plan_is_a_gap(folder: RunFolder) -> None:
    made = [receipt_for(chunk, SHARDS) for chunk in ChunkGrid(15, 4, {1: 2})]
    with pytest.raises(StoreError, match="chunk 2 starts at row 8 instead of 6"):
        write_manifest(folder, rows_of, made, 13, ChunkGrid(15, 4))


def test_rows_are_read_in_bounded_groups(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daskt2i.store.manifest, "_GROUP_ROWS", 5)
    write_manifest(folder, rows_of, receipts())
    file = pq.ParquetFile(pa.BufferReader(folder.read("manifest.parquet")))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [5, 5, 5, 5, 2]
    assert len(table(folder)) == 22


def test_no_receipts_give_an_empty_table(folder: RunFolder) -> None:
    assert write_manifest(folder, rows_of, []) == 0
    assert table(folder) == []


def test_receipts_are_taken_one_at_a_time(folder: RunFolder) -> None:
    drawn: list[int] = []

    def watched() -> Any:
        for receipt in receipts():
            drawn.append(receipt.chunk)
            yield receipt

    def rows_when_drawn(start: int, stop: int) -> Sequence[Row]:
        assert drawn[-1] == start // 8, "receipts are drawn ahead of their rows"
        return rows_of(start, stop)

    assert write_manifest(folder, rows_when_drawn, watched()) == 22


def test_writing_a_manifest_does_not_import_pandas(tmp_path: Path) -> None:
    script = f"""
import sys
from daskt2i.store.run_folder import RunFolder
from daskt2i.plan import ChunkGrid
from daskt2i.store.manifest import write_manifest
from daskt2i.testing.store import receipt_for
from daskt2i.types import Chunk, Row, Shard

receipt = receipt_for(Chunk(0, 0, 1), (Shard("image_id/c.0", "a" * 64, 10),), ())
write_manifest(RunFolder({str(tmp_path)!r}), lambda start, stop: [Row(0, 7, "x.jpg", ("a", "b"))], [receipt])
print("pandas" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
    assert table(RunFolder(tmp_path))[0]["file_name"] == "x.jpg"


def changed(index: int, **changes: Any) -> list[Receipt]:
    made = receipts()
    made[index] = dataclasses.replace(made[index], **changes)
    return made


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param(receipts()[:1] + receipts()[2:], "starts at row 16 instead of 8", id="a gap"),
        pytest.param(receipts()[1:], "starts at row 8 instead of 0", id="no first chunk"),
        pytest.param(receipts()[:1] * 2, "starts at row 0 instead of 8", id="a chunk twice"),
        pytest.param(receipts()[:2], "cover 16 rows, but the source has 22", id="no last chunk"),
        pytest.param(changed(1, captions=15), "16 captions in the source, but 15", id="captions lost"),
        pytest.param(
            changed(1, accepted=7, captions=14, rejected=(Rejection(8, 5, Reason.NO_CAPTION),)),
            "row 8 is image 1008",
            id="another image",
        ),
        pytest.param(
            changed(1, accepted=7, captions=16, rejected=(Rejection(3, 1003, Reason.NO_CAPTION),)),
            r"rejects rows that it does not have: \[3\]",
            id="another chunk's row",
        ),
    ],
)
def test_contradicting_receipts_are_refused_and_the_old_manifest_stays(
    folder: RunFolder, given: list[Receipt], said: str
) -> None:
    folder.write("manifest.parquet", b"the old one")
    with pytest.raises(StoreError, match=said):
        write_manifest(folder, rows_of, given, rows=22)
    assert folder.read("manifest.parquet") == b"the old one"
    assert folder.list() == ["manifest.parquet"]


def test_a_source_that_changed_is_refused(folder: RunFolder) -> None:
    with pytest.raises(StoreError, match="other rows"):
        write_manifest(folder, lambda start, stop: rows_of(start, stop)[1:], receipts())
    assert folder.list() == []


@pytest.mark.parametrize("number", [2**70, 1.5, "7"])
def test_an_image_number_that_no_column_can_hold_is_refused(folder: RunFolder, number: Any) -> None:
    def huge(start: int, stop: int) -> Sequence[Row]:
        return [dataclasses.replace(row, image_id=number) for row in rows_of(start, stop)]

    with pytest.raises(StoreError):
        write_manifest(folder, huge, receipts())
