"""What messages about folders and paths tell a user to do works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders.advice import told
from builders.workflows import small_settings

import daskt2i
from daskt2i.facts.captions.rules import OURS, load_rules
from daskt2i.store.run_folder import MARKER


def run_of(out: Path | str) -> daskt2i.Run:
    return daskt2i.Run(small_settings(), out, scheduler="serial", progress=False)


def test_a_folder_that_does_not_exist_yet_is_taken_where_a_foreign_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with told("store/ownership.py:refuse_foreign StoreError"):
        run_of(tmp_path)
    assert run_of(tmp_path / "new").encode().accepted == 4


def test_another_folder_is_taken_where_a_newer_version_made_one(tmp_path: Path) -> None:
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / MARKER).write_text(json.dumps({"format": 2, "run": "a"}))
    with told("store/ownership.py:_has_marker StoreError"):
        run_of(tmp_path / "newer")
    assert run_of(tmp_path / "other").encode().accepted == 4


def test_another_folder_is_taken_where_a_file_lies(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with told("store/run_folder.py:RunFolder.entries StoreError"):
        run_of(tmp_path / "file")
    assert run_of(tmp_path / "other").encode().accepted == 4


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ("", "paths.py:expanded ConfigError"),
        ("a\0b.yaml", "paths.py:expanded ConfigError"),
        ("~nosuchuser/rules.yaml", "paths.py:expanded ConfigError"),
    ],
    ids=["empty", "null", "no user"],
)
def test_a_path_that_is_given_is_read(wrong: str, place: str) -> None:
    with told(place):
        load_rules(wrong)
    assert load_rules(str(OURS.absolute()))
