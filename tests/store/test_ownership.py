"""Whose a folder is: what is taken, what is refused, and that nothing of others is touched."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import TESTS
from builders.workflows import fake_data, small_settings

import daskt2i
from daskt2i.errors import StoreError
from daskt2i.store.ownership import claim, refuse_foreign
from daskt2i.store.run_folder import FILES, MARKER, RunFolder

HEX = "0123456789abcdef" * 2


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run" if request.param == "disk" else f"memory://{uuid.uuid4().hex}/run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_folder_is_marked_before_anything_else_is_written(folder: RunFolder) -> None:
    assert not refuse_foreign(folder)
    claim(folder)
    assert folder.list() == [MARKER]
    marker = json.loads(folder.read(MARKER))
    assert marker["format"] == 1
    assert len(marker["run"]) == 32
    claim(folder)
    assert json.loads(folder.read(MARKER)) == marker
    assert refuse_foreign(folder)


FOREIGN: dict[str, bytes] = {
    "workflow.yaml": json.dumps(fake_data()).encode(),
    "manifest.parquet": b"my table",
    "receipts/chunk-0000000.json": b'{"shop": 1}',
    "receipts/march.json": b"{}",
    "latents.zarr/zarr.json": b'{"zarr_format": 3, "node_type": "group", "attributes": {}}',
    "latents.zarr/latent_mean/zarr.json": b'{"zarr_format": 3, "node_type": "array", "dimension_names": ["time"]}',
    "scenes/captions.json": b'{"info": {}, "images": []}',
    "pipeline/model_index.json": b"{}",
    "pipeline/daskt2i.json": b"[]",
    "samples/samples.json": b'{"files": 3}',
    "reports/estimate.json": b'{"content": "x"}',
    "train/checkpoints/step-1.json": b'{"step": 1}',
    "encode.lock": b"locked",
    ".photos.partial": b"x",
    f".photos.jpg.{HEX}.partial": b"x",
    "daskt2i-run.json": b"{",
    "receipts": b"a file",
    "deep/er/photo.jpg": b"x",
}


def test_a_folder_is_taken_that_another_thread_claims_in_between(tmp_path: Path) -> None:
    class Claimed(RunFolder):
        """It is claimed after the first look at it, before its entries are listed."""

        def entries(self) -> Any:
            claim(RunFolder(self.root))
            return super().entries()

    claim(Claimed(tmp_path / "run"))
    assert refuse_foreign(RunFolder(tmp_path / "run"))


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_with_a_file_of_somebody_else_is_refused_and_names_it(folder: RunFolder, name: str) -> None:
    folder.write(name, FOREIGN[name])
    before = folder.list(), folder.entries()
    for use in (refuse_foreign, claim):
        with pytest.raises(StoreError) as info:
            use(folder)
        assert name.partition("/")[0][:30] in str(info.value)
    assert (folder.list(), folder.entries()) == before
    assert folder.read(name) == FOREIGN[name]


JUNK = [".DS_Store", "desktop.ini", "Thumbs.db", ".gitignore", "._x", f".{MARKER}.{HEX}.partial", "encode.lock"]


@pytest.mark.parametrize("name", JUNK)
def test_what_systems_and_killed_runs_leave_does_not_make_a_folder_foreign(folder: RunFolder, name: str) -> None:
    folder.write(name, b"")
    assert not refuse_foreign(folder)
    claim(folder)
    assert folder.read(name) == b""


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    assert not refuse_foreign(RunFolder(tmp_path))


# Run folders of versions without a marker.


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("old") / "run"
    shutil.unpack_archive(TESTS / "data" / "run-0.1.zip", place)
    return place


@pytest.mark.parametrize("kept", ["latents.zarr/zarr.json", "latents.zarr/latent_mean/zarr.json", "receipts"])
def test_a_folder_of_an_older_version_is_ours_by_what_only_we_write(kept: str, old: Path, tmp_path: Path) -> None:
    (tmp_path / "workflow.yaml").write_bytes((old / "workflow.yaml").read_bytes())
    (tmp_path / kept).parent.mkdir(parents=True, exist_ok=True)
    if (old / kept).is_dir():
        shutil.copytree(old / kept, tmp_path / kept)
    else:
        shutil.copy(old / kept, tmp_path / kept)
    assert refuse_foreign(RunFolder(tmp_path))
    assert not (tmp_path / MARKER).exists()
    claim(RunFolder(tmp_path))
    assert (tmp_path / MARKER).exists()


OURS: dict[str, Any] = {
    "encode.lock": {"label": "encode", "pid": 1, "host": "a", "user": "b", "since": "2026-01-01", "command": "c"},
    "scenes/captions.json": {"info": {"daskt2i": {"scenes": {"rows": 1}}}, "images": [], "annotations": []},
    "scenes/images/scene-0-00000000.jpg": None,
    "reports/bench-read.json": {"report": "bench-read", "machine": {}, "versions": {}, "cells": []},
    "reports/estimate.json": {"content": "a", "calibrations": [], "checked": []},
    "train-vae/checkpoints/step-2.json": {"step": 2, "position": 0, "size": 1, "sha256": "a", "about": {}},
    "samples/samples.json": {"made_from": {}, "files": []},
    "pipeline/daskt2i.json": {"fingerprint": "a"},
}


@pytest.mark.parametrize("name", OURS)
def test_each_command_of_an_older_version_left_a_folder_that_is_ours(folder: RunFolder, name: str) -> None:
    folder.write(name, json.dumps(OURS[name]).encode())
    assert refuse_foreign(folder)


def test_an_old_run_folder_gets_its_marker_at_its_next_write(old: Path, tmp_path: Path) -> None:
    shutil.copytree(old, tmp_path / "run")
    run = daskt2i.open_run(tmp_path / "run", scheduler="serial", progress=False)
    assert run.status().complete
    assert run.verify().ok
    assert not (tmp_path / "run" / MARKER).exists()
    assert run.encode().skipped == 3
    assert (tmp_path / "run" / MARKER).exists()


# What is done with a folder that is not ours.


def foreign(folder: Path) -> Path:
    for name in ("workflow.yaml", "manifest.parquet", "receipts/chunk-0000000.json", ".photos.partial"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FOREIGN[name])
        os.utime(path, (1, 1))
    return folder


def doors(out: Path) -> Iterator[Any]:
    from daskt2i.encode.prepare import prepare
    from daskt2i.insights.suggest import Suggestions

    yield lambda: daskt2i.Run(None, out)
    yield lambda: daskt2i.Run(small_settings(), out)
    yield lambda: daskt2i.open_run(out)
    yield lambda: prepare(small_settings(), out)
    yield lambda: Suggestions.of_store(str(out))


def test_nobody_reads_sweeps_or_writes_in_a_foreign_folder(tmp_path: Path) -> None:
    out = foreign(tmp_path / "mine")
    before = contents(out)
    for door in doors(out):
        with pytest.raises(StoreError):
            door()
    assert contents(out) == before


def test_an_encode_takes_a_folder_away_from_nobody_who_filled_it_after_the_plan(tmp_path: Path) -> None:
    from daskt2i.encode.driver import encode
    from daskt2i.encode.prepare import prepare
    from daskt2i.executors.serial import SerialExecutor

    plan = prepare(small_settings(), tmp_path / "run")
    out = foreign(tmp_path / "run")
    before = contents(out)
    with pytest.raises(StoreError, match="not a run folder"):
        encode(plan, SerialExecutor())
    assert contents(out) == before


def test_in_the_current_folder_a_foreign_workflow_is_not_taken_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(tmp_path)
    (tmp_path / "latents.zarr").mkdir()
    monkeypatch.chdir(tmp_path)
    assert daskt2i.Run(progress=False).out == str(tmp_path / "runs" / "demo")


def test_only_partial_files_of_ours_are_swept_and_no_link_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = RunFolder(tmp_path / "run")
    claim(folder)
    ours = [f".workflow.yaml.{HEX}.partial", f"receipts/.chunk-0000000.json.{HEX}.partial"]
    theirs = [
        ".photos.partial",
        f".photos.{HEX}.partial",
        f"mine/.workflow.yaml.{HEX}.partial",
        f"scenes/.x.{HEX}.partial",
        "receipts/.download.partial",
        f"receipts/x.{HEX}.partial",
        f"receipts/.x.{HEX[:-1]}.partial",
        f"receipts/.x.{HEX.upper()}.partial",
    ]
    for name in (*ours, *theirs):
        path = folder.local_path(name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (1, 1))
    (outside / f".a.{HEX}.partial").touch()
    folder.local_path("samples").symlink_to(outside)
    (folder.local_path("receipts") / "link").symlink_to(outside)
    assert folder.sweep(older_than=time.time() - 3600) == len(ours)
    assert not any(folder.local_path(name).exists() for name in ours)
    assert all(folder.local_path(name).exists() for name in theirs)
    assert (outside / f".a.{HEX}.partial").exists()


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    for name in FILES:
        os.mkfifo(tmp_path / name)
    with pytest.raises(StoreError, match="not a run folder"):
        refuse_foreign(RunFolder(tmp_path))
