"""What messages about folders and paths tell a user to do works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders.advice import told
from builders.workflows import small_settings

import daskt2i
from daskt2i.facts.captions.rules import OURS, load_rules
from daskt2i.store.run_folder import MANIFEST, MARKER, RunFolder


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
        ("", "addresses.py:expanded ConfigError"),
        ("a\0b.yaml", "addresses.py:expanded ConfigError"),
        ("~nosuchuser/rules.yaml", "addresses.py:expanded ConfigError"),
        ("https://example.org/rules.yaml", "addresses.py:expanded ConfigError"),
    ],
    ids=["empty", "null", "no user", "address"],
)
def test_a_path_that_is_given_is_read(wrong: str, place: str) -> None:
    with told(place):
        load_rules(wrong)
    assert load_rules(str(OURS.absolute()))


def test_a_damaged_manifest_is_written_again_by_another_encode(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.encode()
    right = (tmp_path / MANIFEST).read_bytes()
    (tmp_path / MANIFEST).write_bytes(right[:-9])
    with told("session/run_reader.py:RunReader.manifest StoreError"):
        _ = run.manifest
    assert run.encode().skipped == 1
    assert (tmp_path / MANIFEST).read_bytes() == right
    assert len(run.manifest) == 4


DAMAGED: list[dict[str, Any]] = [
    {"daskt2i": []},
    {"daskt2i": {}},
    {"daskt2i": {"fingerprint": 3, "identity": {}}},
    {"layout": {"version": 1, "arrays": {}}},
    {"layout": {"version": 1, "rows": "4", "rows_per_chunk": 4, "arrays": {}}},
    {"layout": {"version": 1, "rows": 4, "rows_per_chunk": 0, "arrays": []}},
]


def test_damaged_attributes_of_a_store_are_restored_or_another_folder_is_taken(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    run.encode()
    place = tmp_path / "run" / "latents.zarr" / "zarr.json"
    right = place.read_bytes()
    for damage in DAMAGED:
        node = json.loads(right)
        node["attributes"] |= damage
        place.write_text(json.dumps(node))
        layout = [lambda: run.store, lambda: run.suggest("a")] if "layout" in damage else []
        for use in (run.status, run.verify, run.encode, lambda: run.plan("train"), *layout):
            with told("store/layout.py:_damaged StoreError"):
                use()
    assert run_of(tmp_path / "other").encode().accepted == 4
    place.write_bytes(right)
    assert run.verify().ok


class ParamValidationError(Exception):
    """As botocore raises it for a bucket that no bucket can be."""


def test_an_address_that_can_be_written_is_taken(tmp_path: Path) -> None:
    folder = RunFolder("memory://no bucket")
    with told("store/run_folder.py:RunFolder.explaining ConfigError"), folder.explaining("write a"):
        raise ParamValidationError("Invalid bucket name")
    for out in (tmp_path / "run", "memory://a-bucket/run"):
        RunFolder(out).write("a", b"x")
        assert RunFolder(out).read("a") == b"x"
