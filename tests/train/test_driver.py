"""Training needs a complete store and its own checkpoints, and ends with a pipeline; otherwise an error says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from builders.runs import HereSpawner, HereVaeSpawner, encoded, tiny_workflow, trained
from builders.workflows import fake_settings, finish

from daskt2i.encode.saved_workflow import settings_of
from daskt2i.errors import (
    ConfigError,
    FingerprintMismatch,
    Interrupted,
    ModelError,
    StoreBusy,
    StoreError,
    StoreMissing,
)
from daskt2i.events import Event, LaunchEvent, Note, Progress
from daskt2i.executors.serial import SerialExecutor
from daskt2i.launch.placement import WorkerNode
from daskt2i.launch.rank_spawners import Ended, LocalRankSpawner, Message
from daskt2i.launch.supervisor import RankSpec
from daskt2i.loader.inner_chunks import ShardedArray
from daskt2i.model.pipeline import about, exists, load
from daskt2i.sample.driver import draw, requests_for
from daskt2i.sample.painter import SamplerSettings
from daskt2i.session.worker_layout import ranks_for
from daskt2i.store.artifacts.finished import VAE_FOLDER, progress
from daskt2i.store.publishing.lock import hold
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.status import RunStatus, status
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.driver import check_store, train, train_vae
from daskt2i.train.metrics import read_metrics
from daskt2i.train.upkeep.checked_store import CheckedStore

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


class Nothing(LocalRankSpawner):
    """A spawner whose rank ends at once and does nothing."""

    def start(self, node: WorkerNode, spec: RankSpec, launch: str) -> None:
        assert self._put is not None
        self._put(Message(launch, spec.rank, Ended("finished")))


class Counting(RunFolder):
    """A run folder that counts the bytes of shards that are hashed."""

    hashed = 0

    def sha256(self, name: str) -> str:
        if "/c" in name and "empty_" not in name:
            Counting.hashed += self.size(name) or 0
        return super().sha256(name)


def test_before_ranks_start_sizes_and_receipts_are_compared_and_no_shard_is_read(store: Path) -> None:
    seen: list[Event] = []
    assert check_store(Counting(store), seen.append)["random_weights"] is False
    assert seen[-1] == Progress("chunks checked", 3, 3)
    assert Counting.hashed == 0


def test_a_rank_hashes_each_shard_once_and_before_it_uses_it(store: Path) -> None:
    place, read = Counting(store), CheckedStore(Counting(store))
    Counting.hashed = 0
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda row: read.read("latent_mean", row, row + 1), range(8, 16)):
            pass
    shard = next((store / "latents.zarr" / "latent_mean").glob("c.1.*")).stat().st_size
    assert Counting.hashed == shard
    read.read("latent_mean", 4, 20)
    whole = sum(path.stat().st_size for path in (store / "latents.zarr" / "latent_mean").glob("c.*"))
    assert Counting.hashed == whole
    assert place.root == read.folder.root
    Counting.hashed = 0
    assert list(ShardedArray(CheckedStore(place), "latent_mean").blocks(8, 16, [8]))  # as the loader reads
    assert Counting.hashed == shard


def test_the_error_says_what_to_do_if_a_store_cannot_be_trained_on(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match=r"nothing to train on\. Encode first"):
        check_store(RunFolder(tmp_path / "nowhere"))
    Receipts(RunFolder(store)).delete(1)
    with pytest.raises(StoreError, match=r"1 of 3 chunks is not finished.*encode again"):
        check_store(RunFolder(store))
    shard = next((store / "latents.zarr" / "latent_mean").glob("c.2.*"))
    shard.write_bytes(shard.read_bytes() + b"more")
    with pytest.raises(StoreError, match=r"chunk 2: .*repairs damaged chunks"):
        check_store(RunFolder(store))


def test_a_training_whose_walltime_is_over_says_so(store: Path) -> None:
    workflow = tiny_workflow("launch.walltime_minutes=0.0001")
    workflow = workflow.model_copy(update={"dataset": fake_settings(**FAKE_RUN).dataset})
    with pytest.raises(Interrupted, match=r"0\.0001 minutes are over.*No checkpoint was saved; earlier ones are kept"):
        train(workflow, RunFolder(store), Nothing(1), 1, 1)


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


VAE = (
    *("scenes.rows=12", "vae.batch=4", "vae.validation=4", "vae.warmup=0", "vae.ema=0", "vae.steps=1"),
    *("vae.config={block_out_channels: [8, 8], layers_per_block: 1, norm_num_groups: 4}",),
)


def test_an_older_autoencoder_is_not_taken_for_the_result_of_a_new_training(tmp_path: Path) -> None:
    folder, heard = RunFolder(tmp_path), []

    def train_on(seed: int, spawner: LocalRankSpawner, steps: int = 1) -> Any:
        workflow = tiny_workflow(*VAE, f"vae.seed={seed}", f"vae.steps={steps}")
        return train_vae(workflow, folder, spawner, 1, 1, heard.append)

    train_on(0, HereVaeSpawner(1))
    old = shutil.copytree(tmp_path / "vae", tmp_path / "kept")
    shutil.rmtree(tmp_path / "train-vae")
    train_on(1, HereVaeSpawner(1))
    right = {path.name: path.read_bytes() for path in (tmp_path / "vae").iterdir()}
    assert train_on(1, NoHands(1)).ranks == 0
    for without in ((), ("daskt2i.json",)):  # as a killed training left it; and one of an older version
        shutil.rmtree(tmp_path / "vae")
        shutil.copytree(old, tmp_path / "vae")
        for name in without:
            (tmp_path / "vae" / name).unlink()
        assert train_on(1, HereVaeSpawner(1)).ranks == 1
        assert {path.name: path.read_bytes() for path in (tmp_path / "vae").iterdir()} == right
    notes = [event.text for event in heard if isinstance(event, Note)]
    by_row = [text for text in notes if "chosen by row" in text]
    assert len(by_row) == 2  # once for each training that begins
    notes = [text for text in notes if text not in by_row]
    assert "of another training: vae.seed: 0 there, 1 now. It is written again from the checkpoint" in notes[0]
    assert "its weights are not those of the checkpoint of step 1. It is written again" in notes[1]
    (tmp_path / "vae" / "daskt2i.json").unlink()
    assert train_on(1, NoHands(1)).notes == (
        "vae/ is of an older version, which kept no sizes: only the form of its files was checked.",
    )
    assert train_on(1, HereVaeSpawner(1), steps=2).ranks == 1  # it gets more steps
    assert status_of(folder) == "step 2 of 2; finished"


def status_of(folder: RunFolder) -> str:
    found = progress(folder, VAE_FOLDER)
    assert found is not None
    return found.said


@pytest.mark.parametrize("harm", ["no index", "altered weights"])
def test_a_missing_or_damaged_pipeline_is_written_again_without_training(
    harm: str, demo_run: Path, tmp_path: Path
) -> None:
    """As a process leaves it that is killed while it publishes; and as a disk does that fails."""
    out = Path(shutil.copytree(demo_run, tmp_path / "run"))
    whole = {path: path.read_bytes() for path in (out / "pipeline").rglob("*") if path.is_file()}
    figures = read_metrics(RunFolder(out))
    if harm == "no index":
        (out / "pipeline" / "model_index.json").unlink()
    else:
        path = out / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelError, match=r"is damaged: .*train again, which writes it from the newest checkpoint"):
        load(RunFolder(out), "cpu")
    heard: list[Event] = []
    assert train(tiny_workflow(), RunFolder(out), HereSpawner(1), 1, 1, heard.append).ranks == 1
    assert "It is written again from the checkpoint of step 3" in next(e.text for e in heard if isinstance(e, Note))
    assert {path: path.read_bytes() for path in (out / "pipeline").rglob("*") if path.is_file()} == whole
    assert read_metrics(RunFolder(out)) == figures


def test_a_note_says_that_the_pipeline_is_not_that_of_the_newest_checkpoint(demo_run: Path, tmp_path: Path) -> None:
    for name in ("pipeline", "train"):
        shutil.copytree(demo_run / name, tmp_path / name)
    folder, heard = RunFolder(tmp_path), []
    newest = Checkpoints(folder).newest()
    assert newest is not None

    def draw_one() -> list[str]:
        requests, look = requests_for(["a red circle"], 0), SamplerSettings(1, 1.0, "euler", 1)
        draw(folder, requests, look, SerialExecutor(), listener=heard.append)
        return [event.text for event in heard if isinstance(event, Note)]

    assert draw_one() == []
    longer = {**newest.about["identity"], "train": {**newest.about["identity"]["train"], "steps": 9}}
    Checkpoints(folder).save(5, 20, newest.tensors, {**newest.about, "identity": longer})
    assert draw_one() == [
        "These pictures are not drawn by the newest checkpoint: the pipeline differs (train.steps: 3 there, 9 now)."
    ]


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


class Looking(LocalRankSpawner):
    """A spawner that asks for the status when ranks are to start, and then is interrupted."""

    seen: RunStatus

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(1)
        self._folder = folder

    @contextmanager
    def opened(self, put: Any) -> Iterator[Any]:
        self.seen = status(self._folder)
        raise KeyboardInterrupt
        yield


def test_while_a_finished_model_gets_more_steps_the_status_shows_the_new_goal(demo_run: Path, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(demo_run, tmp_path / "run"))
    spawner = Looking(folder)
    with pytest.raises(Interrupted, match="The checkpoint of step 3 is kept"):
        train(tiny_workflow("train.steps=9"), folder, spawner, 1, 1)
    shown = dict(spawner.seen.view().rows)
    assert shown["running"].startswith("train (pid ")
    assert (
        shown["pipeline"]
        == "checkpoint at step 3 of 9; a training runs; the model is still the one before (it is of step 3)"
    )
    assert dict(status(folder).view().rows)["pipeline"] == "step 3 of 3; finished"


def test_a_second_command_in_a_run_folder_is_refused(demo_run: Path) -> None:
    with hold(RunFolder(demo_run), "encode"), pytest.raises(StoreBusy, match="encode"):
        refused(demo_run, tiny_workflow())


def test_encoders_that_do_not_fit_a_pipeline_leave_the_denoiser_and_a_note(store: Path) -> None:
    settings = {"steps": 2, "batch": 4, "validation": 4, "model": {"config": {"block_out_channels": [16, 16, 16]}}}
    data = fake_settings(**FAKE_RUN)
    workflow = data.model_copy(update={"train": type(data.train).model_validate(settings)})
    events: list[LaunchEvent] = []
    found = trained(workflow, store, events.append)
    assert "holds the denoiser without encoders, because the image encoder is a FakeImageEncoder" in found.notes[0]
    assert (store / "pipeline" / "unet" / "config.json").is_file()
    assert not exists(RunFolder(store))
    kinds = {event.kind for event in events}
    assert kinds >= {"attempt", "started", "step", "checkpoint", "heldout", "done"}
    assert json.loads((store / "train" / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
