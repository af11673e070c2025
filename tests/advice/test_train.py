"""What `loader`, `train`, `launch` and `sample` tell a user to do works."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from builders.advice import covers, told
from builders.runs import tiny_workflow, trained_here
from builders.workflows import component, fake_settings, finish, with_parts
from rank_modules import fitting
from rank_modules.fitting import Toy

import daskt2i
from daskt2i.config.settings import Workflow
from daskt2i.encode.prepare import prepare
from daskt2i.encode.verify import verify
from daskt2i.encoders.fake import FakeImageEncoder, FakeTextEncoder
from daskt2i.errors import NonFiniteLoss
from daskt2i.evaluation.judging import by_judge
from daskt2i.events import Event, Note, ignore
from daskt2i.executors.serial import SerialExecutor
from daskt2i.images.read import Limits
from daskt2i.launch.launcher import launch
from daskt2i.launch.placement import WorkerNode, arrange
from daskt2i.launch.rank_spawners import LocalRankSpawner
from daskt2i.loader.dataset import LatentDataset
from daskt2i.loader.picture_dataset import STREAK, Pictures
from daskt2i.model import pipeline
from daskt2i.model.own_encoders import OwnEncoders, built, require_same_encoders
from daskt2i.sample.driver import read_prompts, requests_for, sample
from daskt2i.sample.painter import DrawnPicture, Painter, SampleRequest, SamplerSettings
from daskt2i.sources.fake import FakeSource
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.driver import check_store, train
from daskt2i.train.resume import identity_of, rate
from daskt2i.train.upkeep.checked_store import CheckedStore
from daskt2i.train.whole_run import check_whole_run
from daskt2i.types import EncoderInfo, Row

FAKE: dict[str, Any] = {"rows": 24, "rows_per_chunk": 8, "resolution": 32}
MODEL = {"config": {"block_out_channels": [16, 16, 16]}}
TRAIN = {"steps": 2, "batch": 4, "validation": 4, "warmup": 0, "model": MODEL}


def workflow(**changes: Any) -> Workflow:
    """Of fakes, with a training of two steps."""
    found = fake_settings(**FAKE)
    return found.model_copy(update={"train": type(found.train).model_validate({**TRAIN, **changes})})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of fakes. Do not change it."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(workflow(), out)
    return out


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A store of fakes, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def encode_again(store: Path) -> None:
    finish(workflow(), store)


class Begun(Exception):
    """Nothing stood in the way: ranks would be started now."""


class Counting(LocalRankSpawner):
    """It says that ranks would start, and starts none."""

    @contextmanager
    def opened(self, put: Any) -> Iterator[Any]:
        raise Begun
        yield


def begins(store: Path, settings: Workflow) -> None:
    """`train` gets as far as its ranks."""
    with pytest.raises(Begun):
        train(settings, RunFolder(store), Counting(1), 1, 1, ignore)


def refused(store: Path, settings: Workflow) -> None:
    train(settings, RunFolder(store), Counting(1), 1, 1, ignore)


def data(store: Path, **changes: Any) -> LatentDataset:
    return LatentDataset(RunFolder(store), **{"seed": 0, "batch": 4, "heldout": 4, **changes})


def reads(store: Path, **changes: Any) -> bool:
    """A batch can be read."""
    dataset = data(store, **changes)
    batch = next(dataset.batches(0))
    dataset.close()
    return len(batch.rows) > 0


# Samples of a store.


def test_a_multiple_of_the_ranks_and_other_ranks_share_a_batch(whole: Path) -> None:
    with told("loader/dataset.py:LatentDataset.__init__ ConfigError"):
        data(whole, batch=6, world=4)
    assert reads(whole, batch=8, world=4)
    assert reads(whole, batch=6, world=3)


def test_fewer_heldout_rows_and_more_rows_leave_some_to_train_on(whole: Path, tmp_path: Path) -> None:
    with told("loader/dataset.py:LatentDataset.__init__ ConfigError"):
        data(whole, heldout=24)
    assert reads(whole, heldout=23)
    finish(fake_settings(**{**FAKE, "rows": 25}), tmp_path / "more")
    assert reads(tmp_path / "more", heldout=24)


def _label(store: Path, **changes: Any) -> None:
    """What a store says of itself."""
    path = store / "latents.zarr" / "zarr.json"
    node = json.loads(path.read_text())
    node["attributes"]["daskt2i"].update(changes)
    path.write_text(json.dumps(node))


def test_a_store_of_trained_weights_can_be_trained_on(store: Path, whole: Path) -> None:
    _label(store, random_weights=True)
    with told("loader/dataset.py:LatentDataset.__init__ StoreError"):
        data(store)
    with told("train/driver.py:check_store StoreError"):
        refused(store, workflow())
    assert reads(whole)
    begins(whole, workflow())


@pytest.mark.parametrize("harm", ["damaged", "exchanged"])
def test_a_damaged_chunk_is_encoded_again_before_it_is_trained_on(harm: str, store: Path) -> None:
    place = store / "latents.zarr" / "text_states"
    shard, other = (next(place.glob(f"c.{chunk}.*")) for chunk in (1, 0))
    good = shard.read_bytes()
    shard.write_bytes(
        good[:-8] + bytes(8) if harm == "damaged" else other.read_bytes().ljust(len(good), b"0")[: len(good)]
    )
    with told("train/upkeep/checked_store.py:CheckedStore._compare StoreError"):
        epoch(store)
    encode_again(store)
    assert shard.read_bytes() == good
    epoch(store)


def epoch(store: Path) -> None:
    """Read as many samples as a rank reads in an epoch."""
    place = RunFolder(store)
    with closing(LatentDataset(place, seed=0, batch=4, heldout=4, open_as=CheckedStore)) as dataset:
        for _ in zip(range(dataset.rows // 4), dataset.batches(0), strict=False):
            pass


def test_a_run_folder_that_encode_made_is_read(tmp_path: Path, whole: Path) -> None:
    ZarrStore(RunFolder(tmp_path)).create(8, 8, FakeImageEncoder().info(32).arrays, {}, {})
    with told("loader/shards.py:Reader.__init__ StoreError"):
        data(tmp_path)
    assert reads(whole)


class Nameless(FakeImageEncoder):
    """Its arrays have names that no trainer knows."""

    def info(self, resolution: int) -> Any:
        import dataclasses

        found = super().info(resolution)
        arrays = tuple(dataclasses.replace(a, name=f"my_{a.name}") for a in found.arrays)
        return dataclasses.replace(found, arrays=arrays)

    def encode(self, items: Any, batch: int) -> Any:
        return {f"my_{name}": array for name, array in super().encode(items, batch).items()}

    def decode(self, arrays: Any) -> Any:
        return None


def test_encoders_that_make_what_training_needs_are_read(tmp_path: Path, whole: Path) -> None:
    finish(with_parts(workflow(), image=component(f"{__name__}.Nameless")), tmp_path / "run")
    with told("loader/shards.py:Reader.__init__ StoreError"):
        data(tmp_path / "run")
    assert reads(whole)


def test_encode_does_what_is_left_and_training_begins(store: Path) -> None:
    next(iter(sorted((store / "receipts").iterdir()))).unlink()
    with told("loader/shards.py:accepted_rows StoreError"):
        data(store)
    encode_again(store)
    assert reads(store)
    begins(store, workflow())


def test_verify_names_the_chunk_without_a_shard_and_encode_repairs_it(store: Path) -> None:
    (store / "latents.zarr" / "latent_mean" / "c.1.0.0.0").unlink()
    with told("loader/shards.py:Reader._gone StoreError"):
        dataset = data(store)
        try:
            for _, _ in zip(range(10), dataset.batches(0), strict=False):
                pass
        finally:
            dataset.close()
    assert list(verify(RunFolder(store)).problems) == [1]
    encode_again(store)
    assert reads(store)


@pytest.mark.parametrize("name", ["c/0/0", "zarr.json"])
def test_encode_makes_the_empty_prompt_anew(name: str, store: Path) -> None:
    lost = store / "latents.zarr" / "empty_text_states" / name
    before = lost.read_bytes()
    if name == "zarr.json":
        lost.unlink()
    else:
        lost.write_bytes(b"torn")
    with told("loader/forms/texts.py:read_constant StoreError"):
        data(store)
    encode_again(store)
    assert lost.read_bytes() == before
    assert reads(store)


# Pictures of a source.


def pictures(source: Any = None, **changes: Any) -> Pictures:
    given = {"seed": 0, "batch": 4, "heldout": 3, "crop": 16, "flip": True, "latent": (4, 2), "threads": 2, **changes}
    return Pictures(source or FakeSource(20), 32, Limits(min_side=8), **given)


def test_fewer_heldout_pictures_and_more_pictures_leave_some_to_train_on() -> None:
    with told("loader/picture_dataset.py:Pictures.__init__ ConfigError"):
        pictures(heldout=20)
    assert pictures(heldout=19).rows == 1
    assert pictures(FakeSource(21), heldout=20).rows == 1


def test_a_multiple_of_the_ranks_and_other_ranks_share_pictures() -> None:
    with told("loader/picture_dataset.py:Pictures._check ConfigError"):
        pictures(batch=5, world=2)
    assert pictures(batch=4, world=2)
    assert pictures(batch=5, world=5)


def test_crops_that_are_named_are_taken() -> None:
    with told("loader/picture_dataset.py:Pictures._check ConfigError") as error:
        pictures(crop=15)
    sides = [int(side) for side in str(error.value).rpartition("Set it to ")[2].rstrip(".").split(" or ")]
    assert sides
    assert all(pictures(crop=side) for side in sides)


def test_a_smaller_crop_and_whole_pictures_are_taken() -> None:
    with told("loader/picture_dataset.py:Pictures._check ConfigError"):
        pictures(crop=64)
    assert pictures(crop=32)
    assert pictures(crop=None)


class Away(FakeSource):
    """A source whose images can go away and come back."""

    def __init__(self, rows: int, how: str) -> None:
        super().__init__(rows)
        self.how, self.away = how, False

    def read(self, row: Row) -> bytes:
        if not self.away:
            return super().read(row)
        if self.how == "missing":
            return FakeSource(self.info().rows, missing=[row.index]).read(row)
        return b"no picture"


@pytest.mark.parametrize(
    ("how", "place"),
    [
        ("missing", "loader/picture_dataset.py:Pictures._report ImagesMissing"),
        ("no picture", "loader/picture_dataset.py:Pictures._report SourceError"),
    ],
)
def test_training_goes_on_when_the_images_are_where_they_were(how: str, place: str) -> None:
    source = Away(80, how)
    source.away = True
    found = pictures(source, cache_bytes=0)
    with told(place):
        for _, _ in zip(range(STREAK), found.batches(0), strict=False):
            pass
    found.close()
    source.away = False
    again = pictures(source, cache_bytes=0)
    assert next(again.batches(0)).weight.all()
    again.close()


# The beginning of a training.


def test_encode_gives_what_training_wants(tmp_path: Path) -> None:
    with told("train/driver.py:check_store StoreMissing"):
        check_store(RunFolder(tmp_path / "run"))
    finish(workflow(), tmp_path / "run")
    begins(tmp_path / "run", workflow())


def test_the_settings_that_made_the_store_are_taken(whole: Path) -> None:
    other = with_parts(workflow(), image=component("daskt2i.encoders.fake.FakeImageEncoder", channels=5))
    with told("model/own_encoders.py:require_same_encoders FingerprintMismatch"):
        refused(whole, other)
    begins(whole, workflow())


def test_the_engine_of_an_encode_does_not_matter_to_a_training(tmp_path: Path) -> None:
    chosen = workflow()
    stored = {"identity": {"encoders": _identities(chosen)}}
    stored["identity"]["encoders"]["image"]["engine"] = "ncnn"
    require_same_encoders(chosen.dataset, stored, RunFolder(tmp_path))


def _identities(settings: Workflow) -> dict[str, dict[str, Any]]:
    image, text = built(settings.dataset)
    encoders, side = settings.dataset.encoders, settings.dataset.image.side
    return {
        "image": {**encoders.image.identity(), "weights": image.info(side).weights},
        "text": {**encoders.text.identity(), "weights": text.info().weights},
    }


def _with_checkpoint(store: Path, settings: Workflow, step: int = 1, poisoned: str = "", older: bool = False) -> None:
    """As a training of these settings leaves it after some steps, or one of an older version."""
    import torch

    identity = identity_of(settings.train, check_store(RunFolder(store)))
    if older:
        identity = {key: identity[key] for key in ("store", "train")}
    about = {"identity": identity, "precision": "fp32", "device": "cpu"}
    checkpoints = Checkpoints(RunFolder(store))
    checkpoints.save(step, step * settings.train.batch, {"a": torch.zeros(1)}, about)
    if poisoned:
        checkpoints.mark_poisoned(step, poisoned)


def test_each_way_round_checkpoints_of_another_training_is_open(store: Path, tmp_path: Path) -> None:
    before, other = workflow(), workflow(seed=1)
    _with_checkpoint(store, before)
    with told("train/resume.py:check FingerprintMismatch"):
        refused(store, other)
    begins(store, before)
    finish(other, tmp_path / "another")
    begins(tmp_path / "another", other)
    shutil.rmtree(store / "train" / "checkpoints")
    begins(store, other)


@pytest.mark.parametrize("changes", [{}, {"objective": "v"}])
def test_checkpoints_of_an_older_objective_are_refused_and_a_new_start_is_open(
    changes: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    """They have no word about the pooled prompt, nor about the weights of v."""
    newer = workflow(**changes)
    _with_checkpoint(store, newer, older=True)
    text = "padding of captions" if not changes else r"padding of captions .* weighted the loss of v"
    with told("train/resume.py:refuse_older FingerprintMismatch") as error:
        refused(store, newer)
    assert re.search(text, str(error.value))
    finish(newer, tmp_path / "another")
    begins(tmp_path / "another", newer)
    shutil.rmtree(store / "train" / "checkpoints")
    begins(store, newer)


def test_as_many_steps_as_are_done_or_another_run_folder_is_taken(store: Path, tmp_path: Path) -> None:
    _with_checkpoint(store, workflow(steps=3), step=2)
    with told("train/resume.py:check ConfigError") as error:
        refused(store, workflow(steps=1))
    assert "Set steps to 2 or more" in str(error.value)
    assert f'daskt2i.open_run("{store}").train()' in str(error.value)
    begins(store, daskt2i.open_run(store).workflow)
    for steps in (2, 3, 4):
        begins(store, workflow(steps=steps))
    finish(workflow(steps=1), tmp_path / "another")
    begins(tmp_path / "another", workflow(steps=1))


def test_without_its_poisoned_checkpoints_a_training_begins_with_a_lower_rate(store: Path) -> None:
    _with_checkpoint(store, workflow(), poisoned="its weights are not finite")
    with told("train/resume.py:refuse_all_poisoned StoreError") as error:
        refused(store, workflow())
    place = store / "train" / "checkpoints"
    assert str(place) in str(error.value)
    shutil.rmtree(place)
    begins(store, workflow(learning_rate=1e-5, warmup=1))


def test_a_lower_warmup_and_more_steps_reach_the_peak(store: Path) -> None:
    covers("train/driver.py:_done Note")

    def notes(settings: Workflow) -> list[str]:
        heard: list[Event] = []
        with pytest.raises(Begun):
            train(settings, RunFolder(store), Counting(1), 1, 1, heard.append)
        return [event.text for event in heard if isinstance(event, Note)]

    (note,) = notes(workflow(steps=5, warmup=100))
    assert "rises to 5e-06, 5.0% of the learning_rate 0.0001. Set train.warmup lower, or train.steps higher" in note
    for settings in (workflow(steps=5, warmup=5), workflow(steps=100, warmup=100)):
        assert notes(settings) == []
        assert max(rate(settings.train, step) for step in range(settings.train.steps)) == settings.train.learning_rate


def test_without_the_result_a_training_begins_from_the_start(store: Path) -> None:
    covers("train/driver.py:_done Note")
    trained_here(workflow(), store)
    shutil.rmtree(store / "train" / "checkpoints")
    (note,) = train(workflow(), RunFolder(store), Counting(1), 1, 1, ignore).notes
    assert f"Remove {store / 'pipeline'}" in note
    shutil.rmtree(store / "pipeline")
    begins(store, workflow())


def test_a_rank_goes_on_from_checkpoints_of_its_own_settings_and_begins_without_any(tmp_path: Path) -> None:
    with pytest.raises(StopIteration):
        fitting.fit(tmp_path / "run", Toy(spoil={6: "end"}))
    other = {"train": {"seed": 1, "learning_rate": 0.01}}
    with told("train/resume.py:check FingerprintMismatch"):
        fitting.fit(tmp_path / "run", identity=other)
    with told("train/loop.py:_Run._restore FingerprintMismatch"):
        fitting.fit(tmp_path / "run", batch=16)
    with told("train/loop.py:_Run._restore StoreError"):
        fitting.fit(tmp_path / "run", Toy(width=8))
    assert fitting.fit(tmp_path / "run")
    assert fitting.fit(tmp_path / "another", identity=other)
    shutil.rmtree(tmp_path / "run" / "train" / "checkpoints")
    assert fitting.fit(tmp_path / "run", Toy(width=8), identity=other)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_loss_that_is_no_number_is_told_to_do_goes_on(precision: str, tmp_path: Path) -> None:
    with told("train/figures/not_finite.py:NotFinite.stop NonFiniteLoss") as error:
        fitting.fit_with(tmp_path / "run", Toy(spoil={7: "loss"}), precision=precision)
    said = str(error.value)
    assert ("launch.precision=fp32" in said) == (precision != "fp32")
    if precision != "fp32":
        again = Path(shutil.copytree(tmp_path / "run", tmp_path / "in-fp32"))
        fitting.fit_with(again, precision="fp32")
        assert len(fitting.losses(again)) == fitting.STEPS
    assert "a warmup of more than 4 steps; then it continues from there" in said
    for number, changes in enumerate(({"learning_rate": 0.001}, {"warmup": 6})):
        again = Path(shutil.copytree(tmp_path / "run", tmp_path / f"again-{number}"))
        fitting.fit_with(again, precision=precision, **changes)
        found = fitting.losses(again, "rate")
        assert found[:4] == fitting.losses(tmp_path / "run", "rate")[:4]
        assert found[4] < rate(fitting.settings(), 4)
        assert len(found) == fitting.STEPS


def test_without_a_poisoned_checkpoint_a_lower_rate_goes_on(tmp_path: Path) -> None:
    with told("train/figures/not_finite.py:NotFinite.stop NonFiniteLoss") as error:
        fitting.fit(tmp_path, Toy(spoil={5: "loss"}), keep_checkpoints=1)
    place = tmp_path / "train" / "checkpoints"
    assert f"Remove {place}" in str(error.value)
    shutil.rmtree(place)
    fitting.fit_with(tmp_path, learning_rate=0.001)
    assert len(fitting.losses(tmp_path)) == fitting.STEPS


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_lower_rate_goes_on_when_there_was_no_checkpoint_yet(precision: str, tmp_path: Path) -> None:
    covers("train/figures/not_finite.py:NotFinite.stop NonFiniteLoss")
    with pytest.raises(NonFiniteLoss, match="There is no checkpoint yet"):
        fitting.fit(tmp_path, Toy(spoil={3: "loss"}), precision=precision)
    fitting.fit_with(tmp_path, precision=precision, learning_rate=0.001)
    assert len(fitting.losses(tmp_path)) == fitting.STEPS


@pytest.mark.slow
def test_smaller_states_train_where_large_ones_gave_no_number_at_the_first_step(tmp_path: Path) -> None:
    large = with_parts(workflow(), text=component("advice.test_train.Large", factor=1e30))
    finish(large, tmp_path / "large")
    with told("train/figures/not_finite.py:NotFinite.stop NonFiniteLoss") as error:
        trained_here(large, tmp_path / "large")
    assert "no other rate helps. Encode with encoders whose values are smaller into another run" in str(error.value)
    small = with_parts(workflow(), text=component("advice.test_train.Large", factor=1.0))
    finish(small, tmp_path / "small")
    trained_here(small, tmp_path / "small")


class Large(FakeTextEncoder):
    """Its states are float32, and a factor larger."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def info(self) -> EncoderInfo:
        found = super().info()
        arrays = [replace(one, dtype="float32") if one.name == "text_states" else one for one in found.arrays]
        return replace(found, arrays=tuple(arrays))

    def encode(self, items: Sequence[str], batch: int) -> dict[str, Any]:
        made = super().encode(items, batch)
        return {**made, "text_states": made["text_states"].astype(np.float32) * np.float32(self.factor)}


def test_the_same_command_goes_on_after_a_stop(store: Path) -> None:
    class Stopping(LocalRankSpawner):
        @contextmanager
        def opened(self, put: Any) -> Iterator[Any]:
            raise KeyboardInterrupt
            yield

    with told("train/driver.py:_stage Interrupted"):
        train(workflow(), RunFolder(store), Stopping(1), 1, 1, ignore)
    begins(store, workflow())


@pytest.mark.parametrize("how", ["space", "TMPDIR"])
def test_space_for_temporary_files_or_another_folder_for_them_is_enough(
    how: str, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(f"memory://{uuid4().hex}")
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    (small_disk / "filler").write_bytes(bytes(8192))
    with (
        told("store/artifacts/full_disk.py:explaining_full_disk StoreFull") as error,
        folder.writing("object") as file,
    ):
        file.write(bytes(60_000))
    assert str(small_disk) in str(error.value)
    assert not folder.exists("object")
    if how == "space":
        (small_disk / "filler").unlink()
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with folder.writing("object") as file:
        file.write(bytes(60_000))
    assert folder.size("object") == 60_000


# A whole run.


@pytest.mark.parametrize(
    ("settings", "right"),
    [
        (["sample.prompts=[]", "train.validation=0"], ["sample.prompts=[a red circle]", "train.validation=0"]),
        (["sample.prompts=[]", "train.validation=0"], ["sample.prompts=[]", "train.validation=4"]),
        (["dataset.encoders.image.weights=random"], ["dataset.encoders.image.weights=pretrained"]),
    ],
    ids=["prompts", "validation", "pretrained encoders"],
)  # fmt: skip
def test_a_whole_run_with_what_it_was_told_to_have_is_not_refused(
    settings: list[str], right: list[str], tmp_path: Path
) -> None:
    with told("train/whole_run.py:check_whole_run ConfigError"):
        check_whole_run(prepare(tiny_workflow(*settings), tmp_path, draw=False))
    check_whole_run(prepare(tiny_workflow(*right), tmp_path, draw=False))


class OneWay(FakeImageEncoder):
    """It cannot decode."""

    def decode(self, arrays: Any) -> Any:
        return None


def one_way() -> Workflow:
    return with_parts(workflow(), image=component("advice.test_train.OneWay"))


def test_encode_and_train_alone_do_what_a_whole_run_cannot(tmp_path: Path) -> None:
    for place in ("train/whole_run.py:check_whole_run ConfigError", "train/whole_run.py:check_whole_run ConfigError"):
        covers(place)
    run = daskt2i.Run(one_way(), tmp_path / "run", scheduler="serial", progress=False)
    with told("train/whole_run.py:check_whole_run ConfigError"):
        run.with_settings({"sample.prompts": ["a dog"]}).run_all()
    assert run.encode().accepted == 24
    begins(tmp_path / "run", one_way())
    other = daskt2i.Run(workflow(), tmp_path / "other", scheduler="serial", progress=False)
    assert other.with_settings({"sample.prompts": ["a dog"]}).plan("run").view()  # other encoders: it could draw


# Drawing.


def test_training_makes_the_pipeline_that_is_missing(demo_run: Path, tmp_path: Path) -> None:
    with told("model/pipeline.py:require ModelMissing"), pipeline.local(RunFolder(tmp_path)):
        pass
    with pipeline.local(RunFolder(demo_run)) as place:  # `train` made it
        assert (place / "model_index.json").is_file()


def test_a_denoiser_without_encoders_draws_by_sample_with_the_workflow_of_its_training(store: Path) -> None:
    trained_here(workflow(), store)
    with told("model/pipeline.py:load ModelMissing"):
        pipeline.load(RunFolder(store))
    look = SamplerSettings(1, 2.0, "dpm++", 1)
    with told("sample/driver.py:_own_dataset ModelMissing"):
        sample(RunFolder(store), [SampleRequest("a dog", 0)], look, SerialExecutor())
    dataset = workflow().dataset
    assert sample(RunFolder(store), [SampleRequest("a dog", 0)], look, SerialExecutor(), dataset=dataset).pictures == 1


def test_a_decoder_that_returns_pictures_draws(tmp_path: Path) -> None:
    finish(one_way(), tmp_path / "run")
    dataset = one_way().dataset
    with told("model/own_encoders.py:OwnEncoders.pictures ModelError"):
        OwnEncoders(dataset, "cpu", 1).pictures(np.zeros((1, 4, 4, 4), np.float32))
    assert OwnEncoders(workflow().dataset, "cpu", 1).pictures(np.zeros((1, 4, 4, 4), np.float32)).shape == (
        1,
        32,
        32,
        3,
    )


def test_a_damaged_pipeline_is_written_anew_from_the_checkpoint(demo_run: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(demo_run, tmp_path / "run"))
    weights = out / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(b"no tensors")
    with told("sample/painter.py:Painter.__init__ ModelError"):
        Painter(out / "pipeline")
    with told("model/pipeline.py:require ModelError"):
        pipeline.load(RunFolder(out), "cpu")
    trained_here(tiny_workflow(), out)
    assert weights.read_bytes() == before
    Painter(out / "pipeline")
    assert pipeline.load(RunFolder(out), "cpu").unet is not None


def test_a_pipeline_that_cannot_be_loaded_is_written_anew(demo_run: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(demo_run, tmp_path / "run"))
    label, config = out / "pipeline" / "daskt2i.json", out / "pipeline" / "unet" / "config.json"
    older = json.loads(label.read_bytes())
    del older["files"]
    label.write_text(json.dumps(older))  # as an older version left it: only the form of files is checked
    config.write_text(config.read_text().replace('"block_out_channels"', '"channels"'))
    with told("model/pipeline.py:load ModelError"):
        pipeline.load(RunFolder(out), "cpu")
    shutil.rmtree(out / "pipeline")
    trained_here(tiny_workflow(), out)
    assert pipeline.load(RunFolder(out), "cpu").unet is not None


def test_a_damaged_label_of_a_pipeline_is_written_again_by_another_training(demo_run: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(demo_run, tmp_path / "run"))
    label = out / "pipeline" / "daskt2i.json"
    right = json.loads(label.read_bytes())
    for damage in ("", "[]", "null", "[" * 5000):
        label.write_text(damage)
        with told("model/pipeline.py:about ModelError"):
            pipeline.about(RunFolder(out))
    trained_here(tiny_workflow(), out)
    assert json.loads(label.read_bytes())["fingerprint"] == right["fingerprint"]


def test_each_way_to_give_prompts_gives_some(tmp_path: Path) -> None:
    with told("sample/driver.py:requests_for ConfigError"):
        requests_for([], 0)
    assert requests_for(["a dog"], 0)
    assert requests_for(tiny_workflow("sample.prompts=[a dog]").sample.prompts, 0)
    path = tmp_path / "prompts.txt"
    with told("sample/driver.py:read_prompts SourceMissing"):
        read_prompts(str(path))
    path.write_bytes(b"\xff\xfe\xfa")
    with told("sample/driver.py:read_prompts ConfigError"):
        read_prompts(str(path))
    path.write_text("a dog\na cat\n", encoding="utf-8")
    assert requests_for(read_prompts(str(path)), 0)


def test_a_file_with_one_prompt_on_each_line_is_taken_after_an_empty_one_was_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("# nothing yet\n", encoding="utf-8")
    with told("sample/driver.py:read_prompts ConfigError"):
        read_prompts(str(path))
    path.write_text("a dog\n", encoding="utf-8")
    assert read_prompts(str(path)) == ["a dog"]


def test_drawing_again_gives_all_pictures_after_a_stop(demo_run: Path, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(demo_run / "pipeline", tmp_path / "run" / "pipeline").parent)
    two, look = requests_for(["a dog", "a cat"], 0), SamplerSettings(1, 1.0, "euler", batch=1)

    def stop(event: Any) -> None:
        raise KeyboardInterrupt

    with told("sample/driver.py:_drawn Interrupted"):
        sample(folder, two, look, SerialExecutor(), listener=stop)
    assert not folder.exists("samples")
    drawn = sample(folder, two, look, SerialExecutor())
    assert len(drawn.images) == 2


def test_prompts_that_are_given_are_evaluated(demo_run: Path, tmp_path: Path) -> None:
    for name in ("pipeline", "latents.zarr"):
        shutil.copytree(demo_run / name, tmp_path / name)
    label = tmp_path / "pipeline" / pipeline.ABOUT
    label.write_text(json.dumps({**json.loads(label.read_text()), "identity": {"train": {"validation": 0, "seed": 0}}}))
    changes = {"evaluate.seeds": 1, "sample.steps": 1}
    data: Mapping[str, Any] = {
        **changes,
        "scenes": None,
        "dataset.source": {"class": "daskt2i.sources.fake.FakeSource"},
    }
    run = daskt2i.Run(tiny_workflow(), tmp_path, scheduler="serial", progress=False, settings=data)
    with told("evaluation/requests.py:_unseen ConfigError"):
        run.evaluate()
    prompt = requests_for(tiny_workflow().sample.prompts, 0)[0].prompt
    assert run.evaluate([prompt]).to_json()["count"] == 1


def test_prompts_about_scenes_are_judged() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    with told("evaluation/judging.py:expectation ConfigError"):
        by_judge([DrawnPicture(SampleRequest("a man on a bike", 0), black)])
    assert by_judge([DrawnPicture(SampleRequest("a red circle on a blue background", 0), black)]).right == [False]


def test_captions_that_were_encoded_in_full_length_need_no_mask(whole: Path, demo_run: Path) -> None:
    covers("train/denoiser_rank.py:Denoiser.finish Note")
    masked, full = data(whole), data(demo_run)
    assert (masked.masked, full.masked) == (True, False)  # dataset.encoders.text.pad: length, and full
    masked.close()
    full.close()


# Ranks.


def test_a_launch_of_one_and_more_begins() -> None:
    for counts in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with told("launch/launcher.py:launch ConfigError"):
            launch("rank_modules.toy", {}, Counting(1), *counts[:2], ignore, counts[2])
    with pytest.raises(Begun):
        launch("rank_modules.toy", {}, Counting(1), 1, 1, ignore, 1)


def test_fewer_ranks_and_more_workers_are_arranged() -> None:
    def nodes(count: int) -> list[WorkerNode]:
        return LocalRankSpawner(count).nodes(count)

    with told("launch/placement.py:arrange PlanError"):
        arrange(nodes(2), 3)
    assert arrange(nodes(2), 2)
    assert arrange(nodes(3), 3)
