"""A model folder becomes visible in one step, and one place says whether it is finished, missing or damaged."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from safetensors.numpy import save_file

from daskt2i.errors import StoreError, StoreFull
from daskt2i.store import status
from daskt2i.store.artifacts.checkpoint_labels import CheckpointLabel
from daskt2i.store.artifacts.finished import PIPELINE_FOLDER, VAE_FOLDER, State, look, progress
from daskt2i.store.artifacts.publish import publishing
from daskt2i.store.partial_files import partial_of
from daskt2i.store.publishing.lock import Holder
from daskt2i.store.run_folder import RunFolder

IDENTITY = {"store": "s", "train": {"seed": 0, "steps": 12}}
OTHER = {"store": "s", "train": {"seed": 1, "steps": 12}}
INDEX = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet"], "safety_checker": [None, None]}
UNET = "unet/diffusion_pytorch_model.safetensors"


def fill(place: Path, seed: int = 0) -> None:
    """Files as those of a pipeline."""
    (place / "unet").mkdir()
    (place / "model_index.json").write_text(json.dumps(INDEX))
    (place / "unet" / "config.json").write_text("{}")
    save_file({"weight": np.random.default_rng(seed).normal(size=(8, 8))}, place / UNET)


def publish(folder: RunFolder, identity: dict[str, Any] = IDENTITY, seed: int = 0, **label: Any) -> None:
    with publishing(folder, PIPELINE_FOLDER) as new:
        fill(new.place, seed)
        new.label.update({"identity": identity, "step": 12, **label})


def _publish_then(folder: RunFolder, then: Callable[[Path], Any]) -> None:
    with publishing(folder, PIPELINE_FOLDER) as new:
        fill(new.place, 1)
        then(new.place)


def files(folder: RunFolder) -> dict[str, bytes]:
    return {name: folder.read(name) for name in folder.list("pipeline")}


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run" if request.param == "local" else f"memory://{uuid4().hex}")


@pytest.fixture
def here(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


# --- what is finished -------------------------------------------------------------------------------------------------


def test_a_published_model_is_finished_and_that_of_its_training(folder: RunFolder) -> None:
    assert look(folder, PIPELINE_FOLDER).state is State.MISSING
    publish(folder)
    assert look(folder, PIPELINE_FOLDER, IDENTITY, []).finished
    assert look(folder, PIPELINE_FOLDER).label["files"].keys() == {"model_index.json", "unet/config.json", UNET}
    other = look(folder, PIPELINE_FOLDER, OTHER)
    assert (other.state, other.why) == (State.OTHER, "train.seed: 0 there, 1 now")
    changed = look(folder, PIPELINE_FOLDER, IDENTITY, [{"step": 4, "learning_rate": [1, 2]}])
    assert (changed.state, changed.why) == (State.OTHER, "its settings changed at other steps")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def replace(path: Path) -> None:
    path.write_text("[]")


HARMS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no index": (Path.unlink, "model_index.json", "model_index.json is missing"),
    "cut weights": (cut, UNET, "bytes instead of"),
    "altered weights": (alter, UNET, "the bytes of unet/.* have changed"),
    "altered config": (alter, "unet/config.json", "the bytes of unet/config.json have changed"),
    "a part is lost": (lambda path: shutil.rmtree(path.parent), UNET, "unet/.* is missing"),
    "a cut label": (lambda path: os.truncate(path, 50), "daskt2i.json", "daskt2i.json is not a JSON object"),
    "another label": (replace, "daskt2i.json", "daskt2i.json is not a JSON object"),
    "an empty label": (lambda path: os.truncate(path, 0), "daskt2i.json", "daskt2i.json is not a JSON object"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_damage_is_found_and_named_and_publishing_again_mends_it(harm: str, here: RunFolder) -> None:
    publish(here)
    whole = files(here)
    damage, name, says = HARMS[harm]
    damage(here.local_path(f"pipeline/{name}"))
    for identity in (None, IDENTITY):
        found = look(here, PIPELINE_FOLDER, identity)
        assert found.state is State.DAMAGED
        assert re.search(says, found.why)
    publish(here)
    assert files(here) == whole
    assert look(here, PIPELINE_FOLDER, IDENTITY).finished


@pytest.mark.parametrize("names", [{"../x": {"size": 1, "sha256": ""}}, {"/etc/passwd": {}}, [], {"a": 1}])
def test_a_label_that_names_something_else_is_damaged(names: Any, here: RunFolder) -> None:
    publish(here)
    label = here.local_path("pipeline/daskt2i.json")
    listed = {**json.loads(label.read_text())["files"], **names} if isinstance(names, dict) else names
    label.write_text(json.dumps({"identity": IDENTITY, "files": listed}))
    assert look(here, PIPELINE_FOLDER).state is State.DAMAGED


# --- folders of older versions ----------------------------------------------------------------------------------------


def older(folder: RunFolder, label: dict[str, Any] | None) -> None:
    """A pipeline as an older version left it."""
    place = folder.local_path("pipeline")
    place.mkdir(parents=True)
    fill(place)
    if label is not None:
        (place / "daskt2i.json").write_text(json.dumps(label))


def test_an_older_pipeline_is_finished_if_its_files_have_the_right_form_and_says_so(here: RunFolder) -> None:
    older(here, {"identity": IDENTITY})
    found = look(here, PIPELINE_FOLDER, IDENTITY, [])
    assert found.finished
    assert "older version, which kept no sizes" in found.checked
    assert look(here, PIPELINE_FOLDER, OTHER).state is State.OTHER


@pytest.mark.parametrize("harm", ["no index", "cut weights", "a part is lost"])
def test_damage_of_an_older_pipeline_is_found_by_form(harm: str, here: RunFolder) -> None:
    older(here, {"identity": IDENTITY})
    damage, name, _ = HARMS[harm]
    damage(here.local_path(f"pipeline/{name}"))
    assert look(here, PIPELINE_FOLDER, IDENTITY).state is State.DAMAGED


def test_a_pipeline_that_a_user_put_there_draws_but_is_of_no_training(here: RunFolder) -> None:
    older(here, None)
    assert look(here, PIPELINE_FOLDER).finished
    found = look(here, PIPELINE_FOLDER, IDENTITY)
    assert (found.state, found.why) == (State.OTHER, "it has no daskt2i.json, which would tell")


@pytest.mark.parametrize("same", [True, False])
def test_an_older_autoencoder_is_that_of_the_checkpoint_if_its_tensors_are(same: bool, here: RunFolder) -> None:
    weights = {"encoder.weight": np.arange(6, dtype=np.float32), "decoder.bias": np.ones(2, np.float32)}
    place = here.local_path("vae")
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    save_file(weights, place / "diffusion_pytorch_model.safetensors")
    trained = {"ema/00000": weights["encoder.weight"] + (not same), "ema/00001": weights["decoder.bias"]}
    tensors = here.local_path("train-vae/checkpoints/step-0000002.safetensors")
    tensors.parent.mkdir(parents=True)
    save_file({**trained, "model/x": np.zeros(1, np.float32)}, tensors)
    about = {"identity": {"vae": {"steps": 2}}}
    label = CheckpointLabel(2, 8, tensors.stat().st_size, "", about)
    here.write("train-vae/checkpoints/step-0000002.json", label.to_json())
    found = look(here, VAE_FOLDER, about["identity"])
    assert found.state is (State.FINISHED if same else State.OTHER)
    assert found.why == ("" if same else found.why)
    assert same or "not those of the checkpoint of step 2" in found.why


# --- publishing -------------------------------------------------------------------------------------------------------


def test_an_error_on_the_way_keeps_the_former_model_and_leaves_nothing(folder: RunFolder) -> None:
    publish(folder)
    before = files(folder)
    with pytest.raises(ZeroDivisionError):
        _publish_then(folder, lambda place: 1 / 0)
    assert files(folder) == before
    if folder.is_local:
        assert [path.name for path in folder.local_path().iterdir()] == ["pipeline"]


def test_the_files_of_the_former_model_go_and_those_of_a_user_stay(folder: RunFolder) -> None:
    with publishing(folder, PIPELINE_FOLDER) as new:
        fill(new.place)
        (new.place / "vae").mkdir()
        (new.place / "vae" / "config.json").write_text("{}")
        new.label["identity"] = OTHER
    folder.write("pipeline/unet/notes.txt", b"mine")
    folder.write("pipeline/README.md", b"mine too")
    publish(folder)
    assert files(folder).keys() == {
        *(f"pipeline/{name}" for name in ("README.md", "daskt2i.json", "model_index.json", UNET, "unet/config.json")),
        "pipeline/unet/notes.txt",
    }
    assert folder.read("pipeline/unet/notes.txt") == b"mine"
    assert look(folder, PIPELINE_FOLDER, IDENTITY).finished


def test_the_files_of_a_model_of_an_older_version_go_too(here: RunFolder) -> None:
    older(here, {"identity": OTHER})
    here.write("pipeline/vae/config.json", b"{}")
    here.write("pipeline/README.md", b"mine")
    publish(here)
    assert not here.exists("pipeline/vae")
    assert here.exists("pipeline/README.md")


@pytest.mark.parametrize("moment", ["while it was written", "between the renames", "after the renames"])
def test_what_a_killed_process_left_is_tidied_and_the_model_is_whole(moment: str, here: RunFolder) -> None:
    publish(here, OTHER, 1)
    here.write("pipeline/README.md", b"mine")
    root, target = here.local_path(), here.local_path("pipeline")
    new, former = partial_of(target), partial_of(target.with_name("pipeline.former"))
    shutil.copytree(target, new)
    if moment != "while it was written":
        target.rename(former)
    if moment == "after the renames":
        new.rename(target)
        (target / "README.md").unlink()
    state = look(here, PIPELINE_FOLDER).state
    assert state is (State.MISSING if moment == "between the renames" else State.FINISHED)
    publish(here)
    assert look(here, PIPELINE_FOLDER, IDENTITY).finished
    assert here.read("pipeline/README.md") == b"mine"
    assert [path.name for path in root.iterdir()] == ["pipeline"]


def test_a_folder_that_a_link_keeps_on_another_disk_stays_there(here: RunFolder, tmp_path: Path) -> None:
    here.local_path().mkdir()
    (tmp_path / "large" / "pipeline").mkdir(parents=True)
    here.local_path("pipeline").symlink_to(tmp_path / "large" / "pipeline")
    publish(here)
    assert here.local_path("pipeline").is_symlink()
    assert look(here, PIPELINE_FOLDER, IDENTITY).finished
    assert [path.name for path in (tmp_path / "large").iterdir()] == ["pipeline"]


def test_other_users_can_read_the_files(here: RunFolder) -> None:
    publish(here)
    modes = {path.stat().st_mode for path in here.local_path("pipeline").rglob("*") if path.is_file()}
    assert len(modes) == 1


@pytest.mark.parametrize("rows", [100, 5_000], ids=["beside the former model", "at once"])
def test_a_full_disk_keeps_the_former_model_and_is_named_with_its_folder(rows: int, small_disk: Path) -> None:
    folder = RunFolder(small_disk / "run")
    publish(folder)
    before = files(folder)

    def much(place: Path) -> None:
        for number in range(9):
            save_file({"weight": np.zeros((rows, 10))}, place / f"{number}.safetensors")

    with pytest.raises(StoreFull, match="free some space and run it again") as caught:
        _publish_then(folder, much)
    assert str(small_disk / "run") in str(caught.value)
    assert files(folder) == before
    assert [path.name for path in (small_disk / "run").iterdir()] == ["pipeline"]
    publish(folder, OTHER)
    assert look(folder, PIPELINE_FOLDER, OTHER).finished


def test_a_full_disk_of_temporary_files_does_not_matter_for_a_folder_on_this_machine(
    here: RunFolder, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    (small_disk / "filler").write_bytes(bytes(65536))
    publish(here)
    assert look(here, PIPELINE_FOLDER, IDENTITY).finished
    with pytest.raises(StoreFull, match=str(small_disk)):
        publish(RunFolder(f"memory://{uuid4().hex}"))


def test_a_file_with_the_name_of_the_folder_is_not_touched(here: RunFolder) -> None:
    here.write("pipeline", b"mine")
    assert look(here, PIPELINE_FOLDER).state is State.DAMAGED
    with pytest.raises(StoreError, match="a part of this path is a file"):
        publish(here)
    assert [path.name for path in here.local_path().iterdir()] == ["pipeline"]


# --- how far a training has come --------------------------------------------------------------------------------------


def test_progress_compares_the_model_with_the_newest_checkpoint(folder: RunFolder) -> None:
    def checkpoint(step: int, identity: dict[str, Any] = IDENTITY) -> None:
        folder.write(f"train/checkpoints/step-{step:07d}.safetensors", b"12345")
        label = CheckpointLabel(step, step, 5, "", {"identity": identity})
        folder.write(f"train/checkpoints/step-{step:07d}.json", label.to_json())

    assert progress(folder, PIPELINE_FOLDER) is None
    checkpoint(6)
    assert _said(folder) == "checkpoint at step 6 of 12; missing (it is written after the last step)"
    checkpoint(12)
    assert _said(folder) == "checkpoint at step 12 of 12; missing (it is written again from the newest checkpoint)"
    publish(folder)
    assert _said(folder) == "step 12 of 12; finished"
    longer = {**IDENTITY, "train": {"seed": 0, "steps": 24}}
    checkpoint(18, longer)
    assert _said(folder) == "checkpoint at step 18 of 24; of another training (train.steps: 12 there, 24 now)"
    folder.delete(f"pipeline/{UNET}")
    assert _said(folder) == f"checkpoint at step 18 of 24; damaged ({UNET} is missing)"


def test_progress_of_a_training_that_runs_is_towards_its_own_last_step(folder: RunFolder) -> None:
    begun = "step 0 of 12; a training runs; the model is missing (it is written after the last step)"
    assert _said(folder, 12) == begun
    if folder.is_local:  # an object store would send all figures
        folder.write("train/metrics.jsonl", b'{"step": 3, "loss": 1.0}\n{"step": 4, "loss": 0.9}\n{"step": 5, "lo')
        assert _said(folder, 12) == begun.replace("step 0 of 12", "step 4 of 12, no checkpoint yet")
        folder.delete("train/metrics.jsonl")
    publish(folder)
    assert _said(folder, 12) == "step 12 of 12; finished"
    assert _said(folder, 60) == "step 12 of 60; a training runs; the model is still the one before (it is of step 12)"
    assert _said(folder, 6) == "step 12 of 12; finished", "a training to an earlier step ends at once, with an error"
    found = progress(folder, PIPELINE_FOLDER, 60)
    assert found is not None
    assert found.to_json() == {
        "step": 12,
        "steps": 60,
        "model": "of another training",
        "why": "it is of step 12",
        "running": True,
    }
    folder.delete(f"pipeline/{UNET}")
    assert _said(folder, 60) == f"step 12 of 60; a training runs; the model is damaged ({UNET} is missing)"


def test_a_training_whose_process_may_be_dead_is_not_said_to_run(folder: RunFolder) -> None:
    publish(folder)
    for known, said in ((True, "step 12 of 60; a training runs"), (False, "step 12 of 12; finished")):
        found = status._progress(folder, PIPELINE_FOLDER, Holder("a training", "train", 60, known))
        assert found is not None
        assert found.said.startswith(said)


def _said(folder: RunFolder, goal: int | None = None) -> str:
    found = progress(folder, PIPELINE_FOLDER, goal)
    assert found is not None
    return found.said
