"""The index of sources in parts: kept in the run folder, read in parts, made anew where a file changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from builders.tars import as_json, picture, sample, two_tars, write_tar
from builders.workflows import fake_settings

import daskt2i
from daskt2i.errors import FingerprintMismatch, Reason, SourceError
from daskt2i.sources.index import build, repeats, row_index
from daskt2i.sources.index.lines import Part
from daskt2i.sources.index.shelf import remove_unused
from daskt2i.sources.webdataset import WebDatasetSource
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Row


def opened(place: Path, folder: Path | None = None, write: bool = True) -> WebDatasetSource:
    source = WebDatasetSource(str(place))
    if folder is not None:
        source.keep_index(RunFolder(folder), write)
    return source


def rows(source: WebDatasetSource) -> list[Row]:
    return list(source.rows(0, source.info().rows))


def objects(folder: Path) -> dict[str, int]:
    """Name of each object of the index -> when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "index").glob("*")}


def ten_tars(folder: Path) -> Path:
    for n in range(10):
        write_tar(folder / f"{n:05d}.tar", [one for k in range(4) for one in sample(f"{k}", 4 * n + k, f"{n} {k}")])
    return folder


def test_the_next_command_reads_the_index_and_no_tar(tmp_path: Path) -> None:
    first = opened(ten_tars(tmp_path / "set"), tmp_path / "run")
    before, written = rows(first), objects(tmp_path / "run")
    second = opened(tmp_path / "set", tmp_path / "run")
    second._rows._scan = None  # type: ignore[assignment]  # it would fail if a tar were read
    assert rows(second) == before
    assert objects(tmp_path / "run") == written
    assert len(written) == 11


def test_only_files_that_changed_are_read_again_and_that_is_told(tmp_path: Path) -> None:
    before = rows(opened(ten_tars(tmp_path / "set"), tmp_path / "run"))
    written = objects(tmp_path / "run")
    write_tar(tmp_path / "set" / "00003.tar", sample("new", 99, "new"))
    (tmp_path / "set" / "00009.tar").unlink()
    source = opened(tmp_path / "set", tmp_path / "run")
    assert source.info().notes == ("The index of 2 files that changed was made anew: 00003.tar, 00009.tar.",)
    after = rows(source)
    assert [row.file_name for row in after[:13]] == [*(row.file_name for row in before[:12]), "00003.tar/new.bmp"]
    assert [row.index for row in after] == list(range(33))
    assert source.read(after[13]) == picture(16)
    new = {name for name, time in objects(tmp_path / "run").items() if written.get(name) != time}
    assert len(new) == 2
    assert opened(tmp_path / "set", tmp_path / "run").info().notes == ()


def test_a_plan_reads_an_index_and_writes_none(tmp_path: Path) -> None:
    two_tars(tmp_path / "set")
    plan = opened(tmp_path / "set", tmp_path / "run", write=False)
    assert plan.info().rows == 11
    assert not (tmp_path / "run").exists()
    opened(tmp_path / "set", tmp_path / "run").info()
    written = objects(tmp_path / "run")
    assert rows(opened(tmp_path / "set", tmp_path / "run", write=False)) == rows(plan)
    assert objects(tmp_path / "run") == written


@pytest.mark.parametrize("damage", ["lines", "version", "table", "key"])
def test_an_index_that_is_damaged_or_of_something_else_is_made_anew(damage: str, tmp_path: Path) -> None:
    two_tars(tmp_path / "set")
    before = rows(opened(tmp_path / "set", tmp_path / "run"))
    lines = tmp_path / "run" / "index" / "files.json"
    if damage == "lines":
        lines.write_bytes(lines.read_bytes()[:100])
    elif damage == "version":
        other = json.loads(lines.read_text())
        other["files"][0]["parts"] = other["files"][1]["parts"]  # whatever another version means by it
        lines.write_text(json.dumps({**other, "version": 99}))
    elif damage == "table":
        next((tmp_path / "run" / "index").glob("rows-*")).unlink()
    else:
        other = WebDatasetSource(str(tmp_path / "set"), caption_key="nothing")
        other.keep_index(RunFolder(tmp_path / "run"), True)
        assert other.info().captions == 13
    assert rows(opened(tmp_path / "set", tmp_path / "run")) == before


def test_a_table_that_is_removed_in_use_is_one_sentence(tmp_path: Path) -> None:
    source = opened(two_tars(tmp_path / "set"), tmp_path / "run")
    source.info()
    for path in (tmp_path / "run" / "index").glob("rows-*"):
        path.unlink()
    with pytest.raises(SourceError, match=r"was removed while it was in use.*run the command again"):
        source.rows(0, 1)
    assert len(opened(tmp_path / "set", tmp_path / "run").rows(0, 3)) == 3


def test_a_table_with_other_bytes_is_one_sentence_and_made_anew_without_it(tmp_path: Path) -> None:
    before = rows(opened(two_tars(tmp_path / "set"), tmp_path / "run"))
    path = min((tmp_path / "run" / "index").glob("rows-*"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 255
    for damaged in (bytes(raw), path.read_bytes()[:100]):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match=rf"index/{path.name}.*is damaged.*remove this file"):
            rows(opened(tmp_path / "set", tmp_path / "run"))
    path.unlink()
    assert rows(opened(tmp_path / "set", tmp_path / "run")) == before


def test_a_tar_without_images_has_no_rows(tmp_path: Path) -> None:
    write_tar(tmp_path / "set" / "0.tar", [])
    assert opened(tmp_path / "set").info().rows == 0
    write_tar(tmp_path / "set" / "1.tar", sample("one", 1, "one"))
    assert [row.file_name for row in rows(opened(tmp_path / "set"))] == ["1.tar/one.bmp"]


def test_parts_are_cut_and_dropped_and_content_does_not_depend_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = opened(ten_tars(tmp_path / "set"))
    monkeypatch.setattr(build, "ROWS", 3)
    monkeypatch.setattr(row_index, "MOST_BYTES", 1)
    cut = opened(tmp_path / "set")
    assert cut.info() == whole.info()
    assert rows(cut) == rows(whole)
    index = cut._rows.index()
    assert len(index._parts) == 20
    assert len(index._tables) == 1


def test_an_id_that_another_tar_has_is_rejected_and_free_again_when_that_one_goes(tmp_path: Path) -> None:
    def tar(name: str, *ids: int) -> None:
        members = [(f"{n}.{end}", data) for n in ids for end, data in _told(n)]
        write_tar(tmp_path / "set" / name, members)

    tar("a.tar", 5, 6)
    tar("b.tar", 7, 8)
    tar("c.tar", 6, 8, 9)
    found = rows(opened(tmp_path / "set", tmp_path / "run"))
    assert [row.image_id for row in found if row.reason is Reason.DUPLICATE_ID] == [6, 8]
    assert [row.image_id for row in found if row.reason is None] == [5, 6, 7, 8, 9]
    assert found[4].detail == "an earlier row already has id 6"
    tar("a.tar", 4)
    found = rows(opened(tmp_path / "set", tmp_path / "run"))
    assert [row.image_id for row in found if row.reason is None] == [4, 7, 8, 6, 9]


def _told(number: int) -> list[tuple[str, bytes]]:
    return [("bmp", picture(number)), ("json", as_json(caption=f"n {number}", id=number))]


@pytest.mark.parametrize("most", [4_000_000, 7])
def test_repeats_are_found_in_one_pass_and_in_many(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MOST", most)
    luck = np.random.default_rng(3)
    parts = [luck.integers(-20, 20, size).astype(np.int64) for size in (9, 1, 30, 4)]
    seen, wanted = set[int](), dict[int, list[int]]()
    for number, ids in enumerate(parts):
        for place, one in enumerate(ids.tolist()):
            if one in seen:
                wanted.setdefault(number, []).append(place)
            seen.add(one)
    found = repeats.repeated([len(ids) for ids in parts], lambda number: parts[number])
    assert {number: places.tolist() for number, places in found.items()} == wanted


def test_only_parts_whose_ids_can_meet_are_compared() -> None:
    ranges = [(0, 9), (10, 19), (15, 30), (28, 40), (50, 60), (None, None)]
    parts = [Part(1, 1, 1, 1, "t", low, high) for low, high in ranges]
    assert repeats.may_meet(enumerate(parts)) == [[1, 2, 3]]


def workflow(place: Path) -> daskt2i.Workflow:
    settings = fake_settings()
    return settings.model_copy(
        update={
            "dataset": settings.dataset.model_copy(
                update={"source": type(settings.dataset.source).model_validate({"class": CLASS, "images": str(place)})}
            )
        }
    )


CLASS = f"{WebDatasetSource.__module__}.{WebDatasetSource.__name__}"


def test_an_encode_keeps_its_index_and_a_changed_tar_is_refused(tmp_path: Path) -> None:
    two_tars(tmp_path / "set", rows=4)
    run = daskt2i.Run(workflow(tmp_path / "set"), tmp_path / "run", scheduler="serial", progress=False)
    first = run.encode()
    assert (first.accepted, dict(first.rejected)) == (6, {"no-caption": 2, "duplicate-id": 1})
    assert (tmp_path / "run" / "index" / "files.json").exists()
    assert run.manifest["file_name"].iloc[0] == "00000.tar/00000.bmp"
    assert run.verify().ok
    assert run.encode().skipped
    write_tar(tmp_path / "set" / "00000.tar", sample("00000", 1, "other words"))
    with pytest.raises(FingerprintMismatch, match="rows_sha256"):
        run.encode()


def test_where_and_insights_use_the_kept_index(tmp_path: Path) -> None:
    two_tars(tmp_path / "set", rows=4)
    settings = {"dataset.where": "captions > 1"}
    run = daskt2i.Run(
        workflow(tmp_path / "set"), tmp_path / "run", scheduler="serial", progress=False, settings=settings
    )
    assert run.encode().accepted == 4
    assert run.insights(tokens=False).rows == 4
    assert len(objects(tmp_path / "run")) == 3


def test_tables_that_the_index_no_longer_uses_are_removed_by_the_next_encode(tmp_path: Path) -> None:
    two_tars(tmp_path / "set", rows=4)
    run = daskt2i.Run(workflow(tmp_path / "set"), tmp_path / "run", scheduler="serial", progress=False)
    run.encode()
    used = objects(tmp_path / "run")
    (tmp_path / "run" / "index" / "rows-000000000000000000000000.arrow").write_bytes(b"of a file that is gone")
    run.plan()
    assert len(objects(tmp_path / "run")) == len(used) + 1
    run.encode()
    assert objects(tmp_path / "run") == used
    (tmp_path / "run" / "index" / "files.json").write_bytes(b"{}")
    assert remove_unused(RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run").delete) == 0


def test_an_encode_without_data_makes_no_run_folder(tmp_path: Path) -> None:
    run = daskt2i.Run(workflow(tmp_path / "nothing"), tmp_path / "run", scheduler="serial", progress=False)
    with pytest.raises(SourceError, match="There is nothing at"):
        run.encode()
    write_tar(tmp_path / "nothing" / "0.tar", [("read.me", b"no picture")])
    with pytest.raises(SourceError, match="has no rows"):
        run.encode()
    assert not (tmp_path / "run").exists()
