"""`rows.json`: which stores of a run folder count, and which of their rows are removed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders.workflows import fake_settings, finish

from daskt2i.errors import StoreError, StoreMissing
from daskt2i.store.parts.places import part_folder, part_name, parts_begun
from daskt2i.store.parts.rows_file import (
    RowsFile,
    count,
    is_in,
    members,
    numbers_of,
    ranges_of,
    read_rows,
    write_rows,
)
from daskt2i.store.run_folder import ROWS, RunFolder


def test_a_run_folder_without_the_object_has_one_store_and_all_of_its_rows(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert read_rows(folder) == RowsFile()
    (one,) = members(folder)
    assert (one.name, one.folder, one.offset, one.removed) == ("", folder, 0, ())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    rows = RowsFile().with_part("0001").without_rows("", [7, 3, 4]).without_rows("0001", [0]).without_rows("", [5])
    write_rows(folder, rows)
    assert read_rows(folder) == rows == RowsFile(("0001",), {"": ((3, 6), (7, 8)), "0001": ((0, 1),)})
    assert RowsFile().without_rows("", []) == RowsFile()


def test_the_rows_of_a_part_begin_after_the_chunks_of_the_stores_before_it(tmp_path: Path) -> None:
    """20 rows in chunks of 8 take 24 numbers, so a row that is appended never changes the number of another."""
    folder = RunFolder(tmp_path)
    finish(fake_settings(rows=20), tmp_path)
    for name in ("0001", "0002"):
        finish(fake_settings(rows=3), Path(part_folder(folder, name).root))
    write_rows(folder, RowsFile(("0001", "0002"), {"0001": ((1, 2),)}))
    assert [(one.name, one.offset, one.removed) for one in members(folder)] == [
        ("", 0, ()),
        ("0001", 24, ((1, 2),)),
        ("0002", 32, ()),
    ]
    assert members(folder)[1].kept(np.arange(3)).tolist() == [True, False, True]


def test_a_part_that_is_not_named_does_not_count(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    finish(fake_settings(rows=3), tmp_path)
    finish(fake_settings(rows=3), tmp_path / "parts" / "0001")
    (tmp_path / "parts" / "notes").mkdir()
    assert [one.name for one in members(folder)] == [""]
    assert parts_begun(folder) == ["0001"] == [part_name(1)]


def test_ranges_and_numbers_are_the_same_rows() -> None:
    some = np.flatnonzero(np.random.default_rng(0).random(200) < 0.5)
    ranges = ranges_of(some)
    assert numbers_of(ranges).tolist() == some.tolist()
    assert np.flatnonzero(is_in(np.arange(220), ranges)).tolist() == some.tolist()
    assert count(ranges) == len(some)
    assert ranges_of(numbers_of(())) == ()
    assert not is_in(np.arange(3), ()).any()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"version": 2, "parts": [], "removed": {}}',
        '{"version": 1, "parts": ["0001", "0001"], "removed": {}}',
        '{"version": 1, "parts": ["../x"], "removed": {}}',
        '{"version": 1, "parts": [], "removed": {"0001": []}}',
        '{"version": 1, "parts": [], "removed": {"": [[3, 3]]}}',
        '{"version": 1, "parts": [], "removed": {"": [[0, 4], [3, 5]]}}',
        '{"version": 1, "parts": [], "removed": {"": [[-1, 5]]}}',
        '{"version": 1, "parts": [], "removed": {"": [[0, 1.5]]}}',
        '{"version": 1, "parts": [], "removed": {"": [3]}}',
        '{"version": 1, "parts": [], "removed": {"": {"a": 1}}}',
    ],
)
def test_a_damaged_object_is_one_sentence_set_and_never_all_rows(text: str, tmp_path: Path) -> None:
    (tmp_path / ROWS).write_text(text)
    with pytest.raises(StoreError, match=r"rows\.json is damaged.* restore this file"):
        members(RunFolder(tmp_path))


def test_a_part_that_is_named_and_missing_is_told(tmp_path: Path) -> None:
    finish(fake_settings(rows=3), tmp_path)
    write_rows(RunFolder(tmp_path), RowsFile(("0001",)))
    with pytest.raises(StoreMissing, match=r"names the part 0001.* append its rows again"):
        members(RunFolder(tmp_path))


@pytest.mark.parametrize("stop", [4, 10**12, 10**30])
def test_removed_rows_that_the_store_does_not_have_are_told(stop: int, tmp_path: Path) -> None:
    finish(fake_settings(rows=3), tmp_path)
    (tmp_path / ROWS).write_text(f'{{"version": 1, "parts": [], "removed": {{"": [[0, {stop}]]}}}}')
    with pytest.raises(StoreError, match=r"removes rows up to .* restore this file"):
        members(RunFolder(tmp_path))
