"""Columns: another encoder's arrays for the rows of a store, without touching the store."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import TESTS
from builders.coco import WITH_PEOPLE, write_coco
from builders.coco import settings as coco_settings
from builders.waiting import wait_for
from builders.workflows import IMAGE, TEXT, child_environment, fake_settings, write_workflow

import daskt2i
from daskt2i.config.settings import Workflow
from daskt2i.encode.columns.workflow import ENCODERS
from daskt2i.errors import ConfigError, FingerprintMismatch, StoreError, StoreMissing
from daskt2i.events import Event, Note, PlanReady
from daskt2i.store.columns.places import column_folder, columns_of
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import ArraySpec, EncoderInfo, Pixels, Runtime

BRIGHT = f"{__name__}.Brightness"
SOURCE = {"unreadable": [3], "uncaptioned": [9]}


class Brightness:
    """Scores a picture by its mean pixel value: an image encoder with one number a row, and no decoder."""

    def info(self, resolution: int) -> EncoderInfo:
        arrays = (ArraySpec("score", (), (), "float32", "nan", "mean pixel value, 0 to 255"),)
        return EncoderInfo(arrays, "none", {"class": "Brightness"}, False, 0, resolution**2)

    def load(self, runtime: Runtime) -> None:
        pass

    def encode(self, items: Pixels, batch: int) -> dict[str, np.ndarray]:
        return {"score": items.reshape(len(items), -1).mean(axis=1).astype(np.float32)}

    def decode(self, arrays: object) -> None:
        return None


class Named(Brightness):
    """Gives the same score under several names."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def info(self, resolution: int) -> EncoderInfo:
        arrays = tuple(ArraySpec(name, (), (), "float32", "nan", "mean pixel value") for name in self.names)
        return EncoderInfo(arrays, "none", {"class": "Named"}, False, 0, resolution**2)

    def encode(self, items: Pixels, batch: int) -> dict[str, np.ndarray]:
        return {name: super(Named, self).encode(items, batch)["score"] + i for i, name in enumerate(self.names)}


def run_of(out: Path, told: list[Event] | None = None, **settings: object) -> daskt2i.Run:
    return daskt2i.Run(
        fake_settings(**settings), out, scheduler="serial", progress=False if told is None else told.append
    )


def bits(folder: Path) -> dict[str, str]:
    """Hashes of all files of a store and its receipts."""
    files = [*folder.glob("latents.zarr/**/*"), *folder.glob("receipts/*"), folder / "manifest.parquet"]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


def of_files(folder: Path, where: str | None = None) -> tuple[Workflow, Path]:
    """A workflow over ten image files, of which nine have captions, and the folder of the images."""
    coco = write_coco(folder / "coco")
    return coco_settings(coco, where), coco / "images"


def until(column: Path, receipts: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a column has so many receipts."""
    wait_for(lambda: len(list(column.glob("receipts/*.json"))) >= receipts or process.poll() is not None, every=0.005)


@pytest.fixture
def encoded(tmp_path: Path) -> Path:
    """A store of 20 rows in 3 chunks, two of which were rejected."""
    out = tmp_path / "run"
    with run_of(out, source=SOURCE) as run:
        run.encode().raise_for_failed()
    return out


def test_a_column_has_the_rows_of_its_store_and_the_store_stays_bit_for_bit(encoded: Path) -> None:
    before = bits(encoded)
    with run_of(encoded, source=SOURCE) as run:
        added = run.add("bright", BRIGHT)
        assert (added.accepted, sum(added.rejected.values())) == (18, 2)
        store = run.store
    assert bits(encoded) == before
    assert np.array_equal(np.isfinite(store.bright.values), store.valid.values)
    assert np.array_equal(store.bright_valid.values, store.valid.values)
    mean = store.latent_mean.values[:, :3].astype(np.float32).mean(axis=(1, 2, 3))
    kept = store.valid.values
    assert np.allclose(store.bright.values[kept], (mean[kept] + 1) * 127.5, atol=0.5)


def test_rows_are_rejected_in_a_column_for_the_reason_that_the_store_has(encoded: Path) -> None:
    """Also where its own encoder would take the row: a text encoder needs no picture, so it would not miss one."""
    with run_of(encoded, source=SOURCE) as run:
        run.add("words", TEXT)
        column = daskt2i.open_run(encoded / "columns" / "words").manifest
        columns = ["row", "reason"]
        assert column[columns].equals(run.manifest[columns])
        assert column.reason[3] == "unreadable-image"


def test_a_column_of_captions_reads_no_picture(tmp_path: Path) -> None:
    settings, images = of_files(tmp_path)
    with daskt2i.Run(settings, tmp_path / "run", scheduler="serial", progress=False) as run:
        run.encode().raise_for_failed()
        for image in images.iterdir():
            image.unlink()
        added = run.add("words", TEXT, arguments={"features": 4})
        store = run.store
    assert (added.accepted, dict(added.failed)) == (9, {})
    assert store.words_text_states.shape[-1] == 4
    assert np.array_equal(store.words_text_mask.values, store.text_mask.values)


def test_a_column_of_some_rows_has_the_rows_that_where_kept(tmp_path: Path) -> None:
    settings, _ = of_files(tmp_path, "people")
    with daskt2i.Run(settings, tmp_path / "run", scheduler="serial", progress=False) as run:
        run.encode().raise_for_failed()
        run.add("bright", BRIGHT)
        column = daskt2i.open_store(tmp_path / "run" / "columns" / "bright")
        assert run.store.sizes["row"] == len(WITH_PEOPLE)
        assert column.file_name.values.tolist() == run.store.file_name.values.tolist()


def test_a_column_of_a_second_vae_has_its_own_resolution_and_names(encoded: Path) -> None:
    with run_of(encoded, source=SOURCE) as run, run.with_settings({"dataset.image.resolution": 64}) as larger:
        larger.add("large", IMAGE, arguments={"channels": 8})
        store = run.store
    assert store.large_latent_mean.shape[1:] == (8, 8, 8)
    assert store.latent_mean.shape[1:] == (4, 4, 4)


def test_arrays_of_columns_never_take_the_name_of_another_array(encoded: Path) -> None:
    with run_of(encoded, source=SOURCE) as run:
        latents = run.store.latent_mean.values
        run.add("latent", f"{__name__}.Named", arguments={"names": ["mean", "other"]})
        run.add("a", f"{__name__}.Named", arguments={"names": ["b_c", "x"]})
        run.add("a_b", f"{__name__}.Named", arguments={"names": ["y", "c"]})
        store = run.store
    assert np.array_equal(store.latent_mean.values, latents, equal_nan=True)
    assert np.array_equal(store.latent__mean.values + 1, store.latent_other.values, equal_nan=True)
    assert np.array_equal(store.a_b_c.values + 1, store.a_b__c.values, equal_nan=True)


def test_a_column_that_is_not_complete_is_not_shown(encoded: Path) -> None:
    with run_of(encoded, source=SOURCE) as run:
        run.add("bright", BRIGHT)
        (encoded / "columns" / "bright" / "manifest.parquet").unlink()
        assert "bright" not in run.store
        assert run.status().columns == {"bright": False}
        assert "bright, not complete" in str(run.status().view())
        assert run.add("bright", BRIGHT).skipped == 3
        assert "bright" in run.store


def test_a_column_of_a_store_that_was_made_again_is_not_shown(encoded: Path) -> None:
    with run_of(encoded, source=SOURCE) as run:
        run.add("bright", BRIGHT)
    moved = encoded.parent / "other"
    with run_of(moved, source=SOURCE, rows=20, resolution=64) as other:
        other.encode()
    (encoded / "columns").rename(moved / "columns")
    assert "bright" not in daskt2i.open_store(moved)
    assert columns_of(RunFolder(moved)) == ["bright"]


def test_a_column_is_a_run_folder_that_verify_and_its_own_settings_work_on(encoded: Path) -> None:
    with run_of(encoded, source=SOURCE) as run:
        run.add("words", TEXT)
    column = encoded / "columns" / "words"
    with daskt2i.open_run(column, scheduler="serial", progress=False) as own:
        assert own.verify().ok
        assert own.encode().skipped == 3
    shard = next(column.glob("latents.zarr/text_states/c.0*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with daskt2i.open_run(column, scheduler="serial", progress=False) as own:
        assert not own.verify().ok


def test_the_plan_of_a_column_says_that_the_other_encoder_is_none(encoded: Path) -> None:
    told: list[Event] = []
    with run_of(encoded, told, source=SOURCE) as run:
        run.add("bright", BRIGHT)
    (plan,) = [event.plan for event in told if isinstance(event, PlanReady)]
    rows = dict(plan.view().rows)
    assert rows["text encoder"] == "none"
    assert rows["image encoder"].endswith("px -> score, one number a row")
    assert rows["run folder"] == str(encoded / "columns" / "bright")


def test_a_picture_that_changed_since_the_store_was_made_is_told(tmp_path: Path) -> None:
    settings, images = of_files(tmp_path)
    told: list[Event] = []
    with daskt2i.Run(settings, tmp_path / "run", scheduler="serial", progress=told.append) as run:
        run.encode().raise_for_failed()
        first, second = sorted(images.iterdir())[1:3]
        first.write_bytes(second.read_bytes())
        run.add("bright", BRIGHT)
    (note,) = [event.text for event in told if isinstance(event, Note) and "picture" in event.text]
    assert note.startswith("The picture of 1 row is not the one that the store was encoded from: rows 1.")
    assert "run.on_changed_images=encode" in note


@pytest.mark.parametrize(
    ("name", "encoder", "words"),
    [
        ("Bright!", BRIGHT, "'Bright!' cannot be the name of a column"),
        ("../x", BRIGHT, "cannot be the name of a column"),
        ("caption", BRIGHT, "the store has an array or a dimension of this name"),
        ("latent_mean", BRIGHT, "the store has an array or a dimension of this name"),
        ("row", BRIGHT, "the store has an array or a dimension of this name"),
        ("bright", "dinosaur", f"There is no encoder named dinosaur. Nothing was started; give {', '.join(ENCODERS)}"),
        ("bright", "no.such.Class", "cannot be imported"),
        ("bright", "collections.OrderedDict", "does not fit"),
    ],
    ids=["letters", "a path", "an array", "an array of an encoder", "a dimension", "a name", "a module", "no encoder"],
)
def test_a_wrong_name_or_encoder_is_refused_before_anything_is_made(
    name: str, encoder: str, words: str, encoded: Path
) -> None:
    with run_of(encoded, source=SOURCE) as run, pytest.raises(ConfigError) as info:
        run.add(name, encoder)
    assert words in str(info.value)
    assert not (encoded / "columns").exists()


def test_a_store_that_is_missing_or_not_complete_gets_no_column(encoded: Path, tmp_path: Path) -> None:
    with run_of(tmp_path / "none") as run, pytest.raises(StoreMissing, match=r"nothing to add to\. .*run encode first"):
        run.add("bright", BRIGHT)
    (encoded / "receipts" / "chunk-0000001.json").unlink()
    with run_of(encoded, source=SOURCE) as run, pytest.raises(StoreError, match="run encode to its end first") as info:
        run.add("bright", BRIGHT)
    assert str(info.value).startswith("1 chunk of the store in ")


def test_another_source_than_that_of_the_store_is_refused(encoded: Path) -> None:
    with run_of(encoded, source=SOURCE, rows=24) as run, pytest.raises(FingerprintMismatch) as info:
        run.add("bright", BRIGHT)
    assert "The source has changed since the store" in str(info.value)
    assert "go back to the data of the store" in str(info.value)


def test_the_plan_of_a_column_names_the_bytes_that_it_makes(encoded: Path) -> None:
    told: list[Event] = []
    with run_of(encoded, told, source=SOURCE) as run:
        run.add("bright", BRIGHT)
        run.add("words", TEXT)
    bright, words = (repr(one.plan) for one in told if isinstance(one, PlanReady))
    assert " latents)" in bright
    assert " text" not in bright.partition("disk")[2].partition("\n")[0]
    assert " latents" not in words.partition("disk")[2].partition("\n")[0]


def test_a_column_that_was_moved_out_of_its_run_folder_says_where_it_belongs(encoded: Path) -> None:
    with run_of(encoded, source=SOURCE) as run:
        run.add("bright", BRIGHT)
    moved = encoded.parent / "alone"
    (encoded / "columns" / "bright").rename(moved)
    settings = daskt2i.load_workflow(moved / "workflow.yaml")
    with daskt2i.Run(settings, moved, scheduler="serial", progress=False) as run, pytest.raises(ConfigError) as info:
        run.encode()
    assert "move it back to columns/bright of its run folder" in str(info.value)


@pytest.mark.slow
def test_a_killed_add_goes_on_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Kills at three moments: what is there afterwards equals an add that nobody disturbed."""
    workflow = write_workflow(tmp_path / "w.yaml", rows=24, rows_per_chunk=2)
    command = [sys.executable, "-m", "daskt2i.workflow", "add", "-w", str(workflow), "-s", "serial", "--column", "slow"]
    command += ["--encoder", IMAGE, "--arg", "seconds=0.02", "--arg", "channels=3", "--json"]
    environment = {**child_environment(), "PYTHONPATH": str(TESTS.parent)}
    for out in ("calm", "killed"):
        with daskt2i.Run(workflow, tmp_path / out, scheduler="serial", progress=False) as run:
            run.encode().raise_for_failed()
    before = bits(tmp_path / "killed")
    calm = subprocess.run([*command, "--out", str(tmp_path / "calm")], env=environment, capture_output=True, text=True)
    assert calm.returncode == 0, calm.stderr
    column = tmp_path / "killed" / "columns" / "slow"
    disturbed = [*command, "--out", str(tmp_path / "killed")]
    for receipts in (0, 5, 11):
        with subprocess.Popen(disturbed, env=environment, stdout=subprocess.DEVNULL) as one:
            until(column, receipts, one)
            os.kill(one.pid, signal.SIGKILL)
    ended = subprocess.run(disturbed, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert bits(tmp_path / "killed") == before
    arrays = [daskt2i.open_store(tmp_path / out).slow_latent_mean.values for out in ("calm", "killed")]
    assert np.array_equal(*arrays)
    assert column_folder(RunFolder(tmp_path / "killed"), "slow").list("attempts") == []
