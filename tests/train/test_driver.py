"""Training needs a complete store and its own checkpoints, and ends with a pipeline; otherwise an error says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from builders.runs import encoded, tiny_workflow, trained
from builders.workflows import fake_settings, finish

from daskt2i.encode.saved_workflow import settings_of
from daskt2i.errors import ConfigError, FingerprintMismatch, StoreBusy, StoreError, StoreMissing
from daskt2i.events import Event, LaunchEvent, Progress
from daskt2i.launch.rank_spawners import LocalRankSpawner
from daskt2i.model.pipeline import about, exists
from daskt2i.session.worker_layout import ranks_for
from daskt2i.store.publishing.lock import hold
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.driver import check_store, train
from daskt2i.train.metrics import read_metrics

FAKE_RUN = {"rows": 24, "rows_per_chunk": 8, "resolution": 32}


@pytest.fixture(scope="module")
def fake_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fake") / "run"
    finish(fake_settings(**FAKE_RUN), out)
    return out


@pytest.fixture
def store(fake_store: Path, tmp_path: Path) -> Path:
    """A complete store of fake encoders, for tests that damage it."""
    return Path(shutil.copytree(fake_store, tmp_path / "run"))


class NoHands(LocalRankSpawner):
    """A spawner for tests that must not start a rank."""

    @contextmanager
    def opened(self, put: Any) -> Iterator[Any]:
        raise AssertionError("ranks were started")
        yield


def refused(folder: Path, workflow: Any) -> None:
    train(workflow, RunFolder(folder), NoHands(1), 1, 1, lambda event: None)


def test_a_complete_store_is_accepted_after_every_shard_was_hashed(store: Path) -> None:
    seen: list[Event] = []
    assert check_store(RunFolder(store), seen.append)["random_weights"] is False
    assert seen[-1] == Progress("chunks checked", 3, 3)


def test_the_error_says_what_to_do_if_a_store_cannot_be_trained_on(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match=r"nothing to train on\. Encode first"):
        check_store(RunFolder(tmp_path / "nowhere"))
    Receipts(RunFolder(store)).delete(1)
    with pytest.raises(StoreError, match=r"1 of 3 chunks are not finished.*encode again"):
        check_store(RunFolder(store))
    shard = next((store / "latents.zarr" / "latent_mean").glob("c.2.*"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"chunk 2: .*repairs damaged chunks"):
        check_store(RunFolder(store))


def test_latents_of_random_weights_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    encoded(out, "dataset.encoders.image.weights=random", "scenes.rows=8")
    with pytest.raises(StoreError, match=r"random weights, which are for speed tests.*draws only noise"):
        refused(out, tiny_workflow("dataset.encoders.image.weights=random", "scenes.rows=8"))


def test_the_number_of_ranks_divides_the_batch() -> None:
    assert [ranks_for(batch, "auto", workers) for batch, workers in ((64, 4), (6, 4), (7, 4), (2, 8))] == [4, 3, 1, 2]
    assert ranks_for(12, 6, 2) == 6
    with pytest.raises(ConfigError, match=r"launch\.ranks is 5, which does not divide the batch of 12"):
        ranks_for(12, 5, 8)


def test_a_training_writes_checkpoints_figures_settings_and_a_pipeline(demo_run: Path) -> None:
    folder = RunFolder(demo_run)
    newest = Checkpoints(folder).newest()
    assert newest is not None
    assert (newest.step, newest.position) == (3, 12)
    lines = read_metrics(folder)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert [line["step"] for line in lines if "heldout_loss" in line] == [3]
    assert list((demo_run / "train" / "events").iterdir())
    assert exists(folder)
    assert about(folder)["identity"] == newest.about["identity"]
    settings = settings_of(folder)
    assert settings is not None
    assert settings.train.steps == 3
    assert settings.dataset.source.class_path.endswith(
        "CocoSource"
    )  # the source that was encoded, not the source of the scenes


def test_the_same_command_again_has_nothing_to_do(demo_run: Path) -> None:
    found = train(tiny_workflow(), RunFolder(demo_run), NoHands(1), 1, 1, lambda event: None)
    assert (found.steps, found.ranks, found.attempts) == (3, 0, 0)
    said = found.to_json()
    assert set(said) >= {"steps", "loss", "heldout_loss", "samples_per_second", "ranks", "attempts", "pipeline"}
    assert said["loss"] > 0
    assert said["pipeline"] == str(demo_run / "pipeline")


def test_checkpoints_of_other_settings_are_refused_and_the_error_names_the_difference(demo_run: Path) -> None:
    with pytest.raises(FingerprintMismatch, match=r"train\.learning_rate: 0\.\d+ there, 0\.5 now.*not touched"):
        refused(demo_run, tiny_workflow("train.learning_rate=0.5"))


def test_a_training_that_did_not_start_leaves_the_settings_of_the_folder(store: Path) -> None:
    before = (store / "workflow.yaml").read_bytes()
    workflow = settings_of(RunFolder(store))
    assert workflow is not None
    launch_settings = workflow.launch.model_copy(update={"device": "cuda:7"})
    train_settings = workflow.train.model_copy(update={"validation": 4})
    with pytest.raises(AssertionError, match="ranks were started"):
        refused(store, workflow.model_copy(update={"launch": launch_settings, "train": train_settings}))
    assert (store / "workflow.yaml").read_bytes() == before


def test_encoders_that_did_not_make_the_latents_are_refused(demo_run: Path) -> None:
    with pytest.raises(FingerprintMismatch, match=r"other encoders.*encoders\.text\.pad: full there, length now"):
        refused(demo_run, tiny_workflow("dataset.encoders.text.pad=length"))


def test_a_second_command_in_a_run_folder_is_refused(demo_run: Path) -> None:
    with hold(RunFolder(demo_run), "encode"), pytest.raises(StoreBusy, match="encode"):
        refused(demo_run, tiny_workflow())


def test_encoders_that_do_not_fit_a_pipeline_give_only_the_denoiser_and_a_note(store: Path) -> None:
    settings = {"steps": 2, "batch": 4, "validation": 4, "model": {"config": {"block_out_channels": [16, 16, 16]}}}
    data = fake_settings(**FAKE_RUN)
    workflow = data.model_copy(update={"train": type(data.train).model_validate(settings)})
    events: list[LaunchEvent] = []
    found = trained(workflow, store, events.append)
    assert "holds only the denoiser: the image encoder is a FakeImageEncoder" in found.notes[0]
    assert (store / "pipeline" / "unet" / "config.json").is_file()
    assert not exists(RunFolder(store))
    kinds = {event.kind for event in events}
    assert kinds >= {"attempt", "started", "step", "checkpoint", "heldout", "done"}
    assert json.loads((store / "train" / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
