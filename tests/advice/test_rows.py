"""What commands about the rows of a store tell a user to do works."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders.advice import covers, told
from builders.workflows import TEXT, fake_settings, finish

import daskt2i
from daskt2i.encode.parts.new_rows import rows_named
from daskt2i.errors import StoreError
from daskt2i.events import Event, Note
from daskt2i.facts.selection import open_source
from daskt2i.session.rows.names import names_of
from daskt2i.sources.fake import FakeSource
from daskt2i.store.parts.row_ids import row_ids
from daskt2i.store.parts.rows_file import RowsFile, members, write_rows
from daskt2i.store.run_folder import ROWS, RunFolder
from daskt2i.types import Row

LIVE = {"rows": 20, "away": False}
"""How many rows the source has now, and whether its disk is away. All of it runs in this process."""


class Living(FakeSource):
    """A source that changes without a change of its settings."""

    def __init__(self, rows: int = 0) -> None:
        super().__init__(LIVE["rows"])

    def read(self, row: Row) -> bytes:
        if LIVE["away"]:
            raise OSError("the disk is gone")
        return super().read(row)


def run_of(out: Path, rows: int = 20, told: list[Event] | None = None, **settings: object) -> daskt2i.Run:
    return daskt2i.Run(
        fake_settings(rows=rows, **settings), out, scheduler="serial", progress=False if told is None else told.append
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 20 rows. Do not change it."""
    out = tmp_path_factory.mktemp("first") / "run"
    finish(fake_settings(), out)
    return out


@pytest.fixture
def out(first: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(first, tmp_path / "run"))


def test_a_damaged_list_of_rows_is_restored(out: Path) -> None:
    folder, place = RunFolder(out), out / ROWS
    write_rows(folder, RowsFile().without_rows("", [3]))
    kept = place.read_bytes()
    place.write_bytes(kept[:-4])
    with told("store/parts/rows_file.py:read_rows StoreError"):
        members(folder)
    place.write_bytes(kept)
    assert members(folder)[0].removed == ((3, 4),)


def test_a_list_that_removes_rows_that_are_not_there_is_restored(out: Path) -> None:
    folder, place = RunFolder(out), out / ROWS
    write_rows(folder, RowsFile().without_rows("", [3]))
    kept = place.read_bytes()
    write_rows(folder, RowsFile().without_rows("", [300]))
    with told("store/parts/rows_file.py:members StoreError"):
        members(folder)
    place.write_bytes(kept)
    assert members(folder)[0].removed == ((3, 4),)


def test_a_part_whose_folder_is_gone_is_put_back(out: Path, tmp_path: Path) -> None:
    finish(fake_settings(rows=4), out / "parts" / "0001")
    write_rows(RunFolder(out), RowsFile(("0001",)))
    shutil.move(out / "parts" / "0001", tmp_path / "away")
    with told("store/parts/rows_file.py:members StoreMissing"):
        members(RunFolder(out))
    shutil.move(tmp_path / "away", out / "parts" / "0001")
    assert [one.name for one in members(RunFolder(out))] == ["", "0001"]


def test_rows_are_changed_after_the_encode_has_ended(tmp_path: Path) -> None:
    with run_of(tmp_path / "run") as run:
        with told("encode/parts/workflow.py:part_workflow StoreMissing"):
            run.append()
        run.encode()
        (tmp_path / "run" / "manifest.parquet").unlink()
        with told("store/parts/row_ids.py:row_ids StoreMissing"):
            run.remove([3])
        run.encode()
        assert run.remove([3]).removed == 1


def test_a_damaged_manifest_is_written_again_by_encode(out: Path) -> None:
    covers("store/parts/row_ids.py:_damaged StoreError")
    (out / "manifest.parquet").write_bytes(b"PAR1")
    with run_of(out) as run:
        with pytest.raises(StoreError, match="run encode in its folder"):
            run.remove([3])
        run.encode()
        assert run.remove([3]).removed == 1


def test_rows_are_appended_with_the_settings_of_the_store_or_encoded_elsewhere(out: Path, tmp_path: Path) -> None:
    with run_of(out, 24, resolution=64) as other, told("encode/parts/workflow.py:part_workflow FingerprintMismatch"):
        other.append()
    with run_of(out, 24) as run:
        assert run.append().accepted == 4
    with run_of(tmp_path / "other", 24, resolution=64) as run:
        assert run.encode().accepted == 24


def test_a_source_gets_its_rows_back(out: Path) -> None:
    with run_of(out, 24) as run:
        run.append()
    part = RunFolder(out / "parts" / "0001")
    dataset = fake_settings(rows=24).dataset.model_copy(update={"part": "0001"})
    less = fake_settings(rows=22).dataset.model_copy(update={"part": "0001"})
    with told("facts/part_rows.py:places_of SourceError"):
        open_source(less, part)
    assert open_source(dataset, part).info().rows == 4


def test_a_part_without_its_list_of_rows_is_made_again(out: Path) -> None:
    with run_of(out, 24) as run:
        run.append()
        (out / "parts" / "0001" / "rows.parquet").unlink()
        write_rows(RunFolder(out), RowsFile())
        dataset = run.workflow.dataset.model_copy(update={"part": "0001"})
        with told("facts/selection.py:_of_part StoreMissing"):
            open_source(dataset, RunFolder(out / "parts" / "0001"))
        shutil.rmtree(out / "parts" / "0001")
        assert run.append().accepted == 4


def test_a_change_that_was_stopped_is_ended_or_given_up(out: Path) -> None:
    with run_of(out, 24) as run:
        run.append()
        write_rows(RunFolder(out), RowsFile())  # as if it had been stopped before its last step
        with told("session/rows/change.py:_begun StoreError"):
            run.replace([3])
        assert run.append().rows == 24
        write_rows(RunFolder(out), RowsFile())
        shutil.rmtree(out / "parts" / "0001")
        assert run.replace([3]).accepted == 1


def test_a_part_that_is_lost_is_put_back_or_appended_again(out: Path) -> None:
    with run_of(out, 24) as run:
        run.append()
        (out / "parts" / "0001").rename(out / "away")
        with told("store/parts/rows_file.py:members StoreMissing"):
            run.status()
        (out / "away").rename(out / "parts" / "0001")
        assert run.status().rows == 24
        shutil.rmtree(out / "parts" / "0001")
        shutil.copy(out / "rows.before.json", out / ROWS)
        assert run.append().rows == 24
        shutil.rmtree(out / "parts" / "0001")
        write_rows(RunFolder(out), RowsFile())
        assert run.append().rows == 24


def test_a_list_of_rows_that_does_not_fit_the_store_is_undone(out: Path) -> None:
    with run_of(out) as run:
        run.remove([3])
        (out / ROWS).write_text('{"version": 1, "parts": [], "removed": {"": [[0, 100]]}}')
        with told("store/parts/rows_file.py:members StoreError"):
            run.status()
        shutil.copy(out / "rows.before.json", out / ROWS)
        assert run.status().accepted == 20


def test_rows_are_named_by_ids_or_by_an_expression(out: Path, tmp_path: Path) -> None:
    with run_of(out) as run:
        with told("session/rows/methods.py:RunRows.remove ConfigError"):
            run.remove([3], where="words > 1")
        assert run.remove(where="image_id < 3").removed == 2
    with told("session/rows/names.py:names_of ConfigError"):
        names_of([" "])
    with told("session/rows/names.py:names_of ConfigError"):
        names_of(5)  # type: ignore[arg-type]
    assert names_of([5]) == ("5",)
    with told("session/rows/names.py:_lines ConfigError"):
        names_of(tmp_path / "none.txt")
    (tmp_path / "ids.txt").write_text("\ufeff5\n\n 00000007.bmp \n5\n", encoding="utf-8")
    names = names_of(tmp_path / "ids.txt")
    assert names == ("5", "00000007.bmp")
    assert {name: rows.tolist() for name, rows in rows_named(row_ids(RunFolder(out)), names).items()} == {
        "5": [4],
        "00000007.bmp": [7],
    }


def test_failed_chunks_of_an_append_are_tried_again_by_the_same_command(out: Path) -> None:
    LIVE.update(rows=24, away=True)
    with run_of(out, source={"class": f"{__name__}.Living"}) as run:
        result = run.append()
        with told("encode/parts/result.py:RowsResult.raise_for_failed StoreError"):
            result.raise_for_failed()
        assert run.status().rows == 20, "readers see the rows of before"
        LIVE.update(away=False)
        again = run.append().raise_for_failed()
    assert (again.accepted, again.rows) == (4, 24)


def test_a_column_of_another_number_of_rows_is_removed_and_added_again(out: Path) -> None:
    with run_of(out) as run:
        run.add("words", TEXT)
        column = out / "columns" / "words"
        metadata = column / "latents.zarr" / "zarr.json"
        metadata.write_text(metadata.read_text().replace('"rows": 20', '"rows": 16'))
        with told("store/columns/arrays.py:_require_rows StoreError"):
            daskt2i.open_store(out)
        shutil.rmtree(column)
        run.add("words", TEXT)
    assert daskt2i.open_store(out).words_valid.values.sum() == 20


def test_a_column_that_a_part_lacks_is_added_again_before_an_export(out: Path, tmp_path: Path) -> None:
    with run_of(out) as run:
        run.add("words", TEXT)
    with run_of(out, 24) as run:
        run.append()
        with told("export/columns.py:require_same_columns StoreError"):
            run.export(tmp_path / "none", "npy")
        run.add("words", TEXT)
        assert run.export(tmp_path / "all", "npy").rows == 24


def test_a_part_of_a_strange_source_gets_a_column_when_the_user_names_the_source(out: Path) -> None:
    LIVE.update(rows=24, away=False)
    with run_of(out, source={"class": f"{__name__}.Living"}) as run:
        run.append()
        with run_of(out) as other, told("encode/parts/workflow.py:member_workflow ConfigError"):
            other.add("words", TEXT)
        assert run.add("words", TEXT).rows == 24


def test_a_column_of_other_dimensions_in_a_part_is_removed_and_added_again(out: Path) -> None:
    with run_of(out) as run:
        run.add("words", TEXT, arguments={"features": 4})
    with run_of(out, 24) as run:
        run.append()
    column = out / "parts" / "0001" / "columns" / "words"
    with daskt2i.open_run(column.parent.parent, scheduler="serial", progress=False) as part:
        part.add("words", TEXT, arguments={"features": 8})
        with told("store/parts/joined.py:_kinds StoreError"):
            daskt2i.open_store(out)
        shutil.rmtree(column)
        part.add("words", TEXT, arguments={"features": 4})
    assert daskt2i.open_store(out).words_valid.values.sum() == 24


def test_new_rows_that_were_all_rejected_are_corrected_or_taken_as_they_are(out: Path) -> None:
    with run_of(out, 24, source={"unreadable": [20, 21, 22, 23]}) as run:
        result = run.append()
        with told("encode/parts/result.py:RowsResult.raise_for_failed SourceError"):
            result.raise_for_failed()
    shutil.rmtree(out / "parts" / "0001")
    with run_of(out, 24) as run:
        assert run.append().raise_for_failed().accepted == 4


def test_rows_that_came_while_an_append_was_stopped_are_appended_by_the_next(out: Path) -> None:
    LIVE.update(rows=24, away=False)
    heard: list[Event] = []
    with run_of(out, told=heard, source={"class": f"{__name__}.Living"}) as run:
        run.append()
        write_rows(RunFolder(out), RowsFile())  # as if it had been stopped before its last step
        LIVE.update(rows=26)
        assert run.append().rows == 24
        (note,) = [one.text for one in heard if isinstance(one, Note) and "Run append again" in one.text]
        assert note.startswith("The source has 2 new rows more by now.")
        assert run.append().rows == 26
