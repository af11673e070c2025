"""Checkpoints are written completely or not at all, the newest intact one is found, and no partial file is left."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch

from daskt2i.errors import StoreError, StoreFull
from daskt2i.store.run_folder import RunFolder
from daskt2i.train import checkpoint
from daskt2i.train.checkpoint import CHECKPOINTS, Checkpoints


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path if request.param == "local" else f"memory://{uuid4().hex}")


@pytest.fixture
def here(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def state(number: float) -> dict[str, torch.Tensor]:
    image = torch.arange(24.0).reshape(1, 2, 3, 4) + number
    return {"weight": image.to(memory_format=torch.channels_last), "step": torch.tensor(number)}


def save(folder: RunFolder, *steps: int, keep: int = 2) -> Checkpoints:
    found = Checkpoints(folder, keep=keep)
    for step in steps:
        found.save(step, step * 8, state(step), {"identity": {"a": 1}})
    return found


def names(folder: RunFolder) -> list[str]:
    return [name.rpartition("/")[2] for name in folder.list(CHECKPOINTS)]


def test_a_saved_checkpoint_is_loaded_unchanged(folder: RunFolder) -> None:
    tensors = {
        **state(3.0),
        "bf16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "fp16": torch.tensor([[0.25]], dtype=torch.float16),
        "flags": torch.tensor([True, False, True]),
        "count": torch.tensor(2**40),
        "empty": torch.empty(0, 4),
        "part": torch.arange(6)[1:4],
    }
    tensors["tied"] = tensors["weight"]  # the writer of safetensors refuses shared memory
    Checkpoints(folder).save(3, 24, tensors, {"identity": {"a": [1, None]}})
    found = Checkpoints(folder).newest()
    assert found is not None
    assert (found.step, found.position, found.about) == (3, 24, {"identity": {"a": [1, None]}})
    assert found.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found.tensors[name].dtype == value.dtype
        assert torch.equal(found.tensors[name], value), name


def test_any_reader_of_safetensors_reads_a_checkpoint(here: RunFolder) -> None:
    from safetensors.numpy import load_file

    save(here, 1)
    found = load_file(here.local_path(f"{CHECKPOINTS}/step-0000001.safetensors"))
    assert found["weight"].tolist() == state(1)["weight"].tolist()


def test_the_newest_few_checkpoints_are_kept(folder: RunFolder) -> None:
    save(folder, 1, 2, 3, keep=2)
    assert names(folder) == [f"step-000000{n}.{end}" for n in (2, 3) for end in ("json", "safetensors")]
    found = Checkpoints(folder).newest(tensors=False)
    assert found is not None
    assert found.step == 3
    assert not found.tensors


def test_without_checkpoints_newest_returns_none(folder: RunFolder) -> None:
    assert Checkpoints(folder).newest() is None
    Checkpoints(folder).sweep()
    save(folder, 1).clear()
    assert Checkpoints(folder).newest() is None


def cut(path: Path) -> None:
    os.truncate(path.with_suffix(".safetensors"), path.with_suffix(".safetensors").stat().st_size - 9)


def alter(path: Path) -> None:
    with path.with_suffix(".safetensors").open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\x55")


def cut_label(path: Path) -> None:
    os.truncate(path.with_suffix(".json"), 20)


def other_label(path: Path) -> None:
    path.with_suffix(".json").write_text("[1]")


def deepen_label(path: Path) -> None:
    path.with_suffix(".json").write_text("[" * 100_000 + "]" * 100_000)


def rename(path: Path) -> None:
    """As if the checkpoint of another step were copied to this name."""
    path.write_text(path.read_text().replace('"step": 2,', '"step": 1,', 1))


def overflow(path: Path) -> None:
    path.write_text(path.read_text().replace('"step": 2,', '"step": 1e999,', 1))


def misplace(path: Path) -> None:
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "position": float("inf")}))


def lose(path: Path) -> None:
    path.with_suffix(".safetensors").unlink()


@pytest.mark.parametrize("harm", [cut, alter, cut_label, other_label, deepen_label, rename, overflow, misplace, lose])
def test_a_damaged_checkpoint_is_skipped_and_the_one_before_is_loaded(here: RunFolder, harm: Any) -> None:
    save(here, 1, 2)
    harm(here.local_path(f"{CHECKPOINTS}/step-0000002.json"))
    told: list[str] = []
    found = Checkpoints(here).newest(told.append)
    assert found is not None
    assert found.step == 1
    assert len(told) == 1
    assert told[0].startswith("The checkpoint of step 2 is skipped: ")


def test_a_skipped_checkpoint_does_not_displace_a_good_one(here: RunFolder) -> None:
    save(here, 4, keep=1)
    cut(here.local_path(f"{CHECKPOINTS}/step-0000004.json"))
    save(here, 2, keep=1)
    found = Checkpoints(here).newest()
    assert found is not None
    assert found.step == 2
    assert names(here) == ["step-0000002.json", "step-0000002.safetensors"]


def test_partial_files_of_a_killed_process_are_removed(folder: RunFolder) -> None:
    save(folder, 1)
    folder.write(f"{CHECKPOINTS}/step-0000002.safetensors", b"its label was never written")
    if folder.is_local:
        (folder.local_path(CHECKPOINTS) / ".step-0000003.safetensors.abc.partial").write_bytes(b"half")
    Checkpoints(folder).sweep()
    assert names(folder) == ["step-0000001.json", "step-0000001.safetensors"]
    if folder.is_local:
        assert len(list(folder.local_path(CHECKPOINTS).iterdir())) == 2


KILLED = """
import os, sys, torch
from daskt2i.train import checkpoint
from daskt2i.store.run_folder import RunFolder
write = checkpoint._write
class Dying:
    def __init__(self, file): self.file, self.left = file, 2
    def write(self, data):
        self.file.write(data); self.file.flush()
        self.left -= 1
        self.left or os.kill(os.getpid(), 9)
checkpoint._write = lambda file, tensors: write(Dying(file), tensors)
checkpoint.Checkpoints(RunFolder(sys.argv[1])).save(2, 16, {"a": torch.ones(9), "b": torch.ones(9)}, {})
"""


def test_a_kill_during_the_write_keeps_the_checkpoint_before(here: RunFolder) -> None:
    save(here, 1)
    done = subprocess.run([sys.executable, "-c", KILLED, str(here)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    left = list(here.local_path(CHECKPOINTS).glob(".step-0000002*"))
    assert len(left) == 1
    assert left[0].stat().st_size > 0
    found = Checkpoints(here).newest()
    assert found is not None
    assert found.step == 1
    save(here, 2).sweep()
    assert not left[0].exists()


@pytest.mark.parametrize("name", ["safetensors", "json"])
def test_a_full_disk_is_reported_and_the_checkpoint_before_is_kept(
    folder: RunFolder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, 1)

    def full(*_: Any) -> Any:
        with folder.explaining("write a checkpoint"):
            raise OSError(errno.ENOSPC, "No space left on device")

    if name == "safetensors":
        monkeypatch.setattr(checkpoint, "_write", full)
    else:
        monkeypatch.setattr(RunFolder, "write", full)
    with pytest.raises(StoreFull, match="free some space and run it again"):
        save(folder, 2)
    monkeypatch.undo()
    assert names(folder) == ["step-0000001.json", "step-0000001.safetensors"]
    found = Checkpoints(folder).newest()
    assert found is not None
    assert found.step == 1


@pytest.fixture
def small(small_disk: Path) -> RunFolder:
    """A run folder on a disk of 64 KiB."""
    return RunFolder(small_disk / "run")


def test_a_disk_that_becomes_full_during_the_write_keeps_the_checkpoint_before(small: RunFolder) -> None:
    save(small, 1)
    with pytest.raises(StoreFull):
        Checkpoints(small).save(2, 16, {"a": torch.ones(20_000)}, {})
    found = Checkpoints(small).newest()
    assert found is not None
    assert torch.equal(found.tensors["weight"], state(1)["weight"])
    save(small, 2)
    assert len(list(small.local_path(CHECKPOINTS).iterdir())) == 4


def test_the_json_file_holds_the_hash_of_the_tensors(here: RunFolder) -> None:
    save(here, 7)
    label = json.loads(here.read(f"{CHECKPOINTS}/step-0000007.json"))
    assert label["sha256"] == here.sha256(f"{CHECKPOINTS}/step-0000007.safetensors")
    assert label["size"] == here.size(f"{CHECKPOINTS}/step-0000007.safetensors")


def test_a_folder_that_cannot_be_listed_is_not_a_fresh_start(here: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a listing it is unknown whether there are checkpoints, and a fresh start would remove them."""

    def denied(self: RunFolder, prefix: str = "") -> list[str]:
        raise StoreError("permission denied")

    save(here, 1)
    monkeypatch.setattr(RunFolder, "list", denied)
    with pytest.raises(StoreError):
        Checkpoints(here).newest()
