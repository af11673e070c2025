"""What commands about the rows of a store tell a user to do works."""

from __future__ import annotations

from pathlib import Path

from builders.advice import told
from builders.workflows import fake_settings, finish

from daskt2i.store.parts.rows_file import RowsFile, members, write_rows
from daskt2i.store.run_folder import ROWS, RunFolder


def test_a_damaged_list_of_rows_is_restored(tmp_path: Path) -> None:
    folder, place = RunFolder(tmp_path), tmp_path / ROWS
    finish(fake_settings(), tmp_path)
    write_rows(folder, RowsFile().without_rows("", [3]))
    kept = place.read_bytes()
    place.write_bytes(kept[:-4])
    with told("store/parts/rows_file.py:read_rows StoreError"):
        members(folder)
    place.write_bytes(kept)
    assert members(folder)[0].removed == ((3, 4),)
