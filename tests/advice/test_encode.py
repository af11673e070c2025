"""What `encode`, `store` and `plan` tell a user to do works."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.advice import covers, told
from builders.coco import coco_source, settings, write_coco
from builders.runs import arrays as stored
from builders.workflows import IMAGE, component, fake_data, fake_settings, with_parts

import daskt2i
from daskt2i.config.settings import Workflow
from daskt2i.encode.prepare import check_disk, preflight, prepare
from daskt2i.encode.verify import verify
from daskt2i.encoders.fake import FakeImageEncoder, FakeTextEncoder
from daskt2i.errors import StoreError
from daskt2i.model.denoisers.unet import PARAMETERS
from daskt2i.plan import MIB, divide_machine
from daskt2i.protocols import ExecutorInfo
from daskt2i.session.schedulers import Scheduler
from daskt2i.session.worker_layout import insights_layout, train_layout
from daskt2i.sources.fake import FakeSource
from daskt2i.store.manifest import write_manifest
from daskt2i.store.publishing import lock
from daskt2i.store.publishing.attempts import begin_attempt
from daskt2i.store.publishing.publication import begin, publishing
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Chunk, Encoded, Staged

GIB = 1024 * MIB


def run_of(out: Path | str, workflow: Workflow | None = None, **changes: Any) -> daskt2i.Run:
    return daskt2i.Run(workflow or fake_settings(**changes), out, scheduler="serial", progress=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of 20 rows in three chunks. Do not change it."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run_of(out).encode()
    return out


@pytest.fixture
def encoded(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small disk here (needs root)")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# Before a run.


class Empty(FakeSource):
    """A source without rows."""

    def __init__(self) -> None:
        super().__init__(rows=0)


def test_workers_that_are_asked_for_as_the_message_says_fit() -> None:
    machine: dict[str, Any] = {"cores": 8, "memory": 16 * GIB, "worker_memory": GIB, "chunks": 100}
    with told("plan.py:divide_machine PlanError"):
        divide_machine(**machine, workers=0)
    assert divide_machine(**machine, workers=1).workers == 1
    with told("plan.py:divide_machine PlanError") as error:
        divide_machine(**machine, workers=20)
    (number,) = [int(word) for word in str(error.value).split() if word.isdecimal() and int(word) not in (16, 20)]
    assert divide_machine(**machine, workers=number).workers == number


def test_each_stage_is_told_what_makes_its_own_workers_smaller() -> None:
    """Rows of a chunk change nothing for ranks, nor for workers that look at captions."""
    machine: dict[str, Any] = {"cores": 1, "memory": GIB, "worker_memory": GIB, "chunks": 1}
    with told("plan.py:divide_machine PlanError") as error:
        divide_machine(**machine, smaller="Choose a smaller train.model.preset")
    assert "train.model.preset" in str(error.value)
    assert PARAMETERS["demo"] < PARAMETERS["sd15"]
    many = Scheduler.parse("multiprocessing:10000")
    with told("plan.py:divide_machine PlanError") as error:
        train_layout(many, fake_settings())
    (number,) = re.findall(r"Ask for (\d+)", str(error.value))
    assert train_layout(Scheduler.parse(f"multiprocessing:{number}"), fake_settings()).workers == int(number)
    with told("plan.py:divide_machine PlanError"):
        insights_layout(many, tokens=True)
    assert insights_layout(Scheduler.parse("multiprocessing"), tokens=False).workers


def test_smaller_chunks_and_batches_take_less_memory_and_more_memory_helps(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"rows": 256, "resolution": 512, "image": {"channels": 64}}
    plan = run_of(tmp_path, rows_per_chunk=256, batch=64, **sizes).plan()
    need = plan.requirements.worker_memory
    half = ExecutorInfo(2, 1, need)
    with told("encode/prepare.py:preflight PlanError"):
        preflight(plan, half)
    preflight(plan, ExecutorInfo(1, 1, 2 * need))  # one worker instead of two, or more memory
    for smaller in ({"rows_per_chunk": 8, "batch": 64}, {"rows_per_chunk": 256, "batch": 1}):
        preflight(run_of(tmp_path, **smaller, **sizes).plan(), half)


def test_a_store_that_is_there_is_gone_on_with_a_smaller_batch(encoded: Path) -> None:
    """Another `rows_per_chunk` would be refused."""
    plan = run_of(encoded, batch=4).plan()
    with told("encode/prepare.py:preflight PlanError") as error:
        preflight(plan, ExecutorInfo(1, 1, plan.requirements.worker_memory))
    assert "run.batch" in str(error.value)
    assert "rows_per_chunk" not in str(error.value)
    assert run_of(encoded, batch=1).plan().requirements.worker_memory < plan.requirements.worker_memory
    assert run_of(encoded, batch=1).encode().skipped == 3


def test_what_a_full_disk_is_told_to_do_helps(small_disk: Path, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"rows": 60, "resolution": 128}
    (small_disk / "filler").write_bytes(b"x" * 150_000)
    plan = prepare(fake_settings(**sizes), small_disk / "run")
    with told("encode/prepare.py:check_disk PlanError"):
        check_disk(plan)
    assert run_of(tmp_path / "other", **sizes).encode().accepted == 60
    assert check_disk(prepare(fake_settings(**sizes, check_disk=False), small_disk / "run")) is None
    (small_disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert run_of(small_disk / "run", **sizes).encode().accepted == 60


def test_a_disk_that_filled_up_goes_on_when_there_is_room(small_disk: Path) -> None:
    run = run_of(small_disk / "run", rows=60, resolution=128, rows_per_chunk=8, check_disk=False)
    with told("store/run_folder.py:RunFolder.explaining StoreFull"):
        run.encode()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    result = run.encode()
    assert result.skipped > 0
    assert result.accepted == 60


def test_old_settings_and_another_folder_are_both_taken(encoded: Path, tmp_path: Path) -> None:
    with told("encode/prepare.py:refuse_other FingerprintMismatch"):
        run_of(encoded, resolution=64).encode()
    assert run_of(encoded).encode().skipped == 3
    assert run_of(tmp_path / "other", rows=4, resolution=64).encode().accepted == 4


def test_a_source_with_rows_is_encoded(tmp_path: Path) -> None:
    with told("encode/prepare.py:prepare SourceError"):
        run_of(tmp_path, with_parts(fake_settings(), source=component(f"{__name__}.Empty"))).encode()
    assert run_of(tmp_path, rows=1).encode().accepted == 1


def test_settings_of_another_version_are_gone_round_by_naming_the_workflow(encoded: Path) -> None:
    (encoded / "workflow.yaml").write_text("name: demo\nfuture: {a: 1}\n")
    with told("encode/saved_workflow.py:read_settings ConfigError"):
        daskt2i.open_run(encoded)
    run = run_of(encoded)
    assert run.encode().skipped == 3
    assert run.verify().ok


def test_images_with_captions_are_taken_where_scenes_cannot_be_drawn(tmp_path: Path) -> None:
    address = f"memory://{tmp_path.name}"
    demo = {"scenes": {"rows": 4, "seed": 0}}
    data = fake_data()
    data["dataset"].pop("source")
    path = tmp_path / "w.yaml"
    path.write_text(json.dumps({**data, **demo}))  # JSON is YAML
    given = coco_source(write_coco(tmp_path))
    with told("encode/saved_workflow.py:_with_scenes ConfigError") as error:
        daskt2i.Run(path, address, scheduler="serial", progress=False).encode()
    assert "(images, captions)" in str(error.value)
    both = {"images": given["images"], "captions": given["captions"]}
    assert daskt2i.Run(path, address, **both, scheduler="serial", progress=False).encode().accepted == 9


# While it runs.


class Hungry(FakeImageEncoder):
    """Its memory is too small for pictures of more than 32 pixels."""

    def encode(self, items: Any, batch: int) -> Any:
        if items.shape[1] > 32:
            raise MemoryError("of this fake")
        return super().encode(items, batch)


def test_a_smaller_resolution_takes_less_memory(tmp_path: Path) -> None:
    with told("encode/model_cache.py:_out_of_memory OutOfMemory"):
        run_of(tmp_path / "run", rows=4, resolution=64, image={"class": f"{__name__}.Hungry"}).encode()
    smaller = run_of(tmp_path / "other", rows=4, resolution=32, image={"class": f"{__name__}.Hungry"})
    assert smaller.encode().accepted == 4


def test_a_smaller_batch_is_found_without_a_user_and_said(tmp_path: Path) -> None:
    covers("encode/model_cache.py:retry_smaller_batch Note")
    heard: list[Any] = []
    workflow = fake_settings(rows=8, batch=8, image={"memory_limit_batch": 2})
    run = daskt2i.Run(workflow, tmp_path / "run", scheduler="serial", progress=heard.append)
    assert run.encode().accepted == 8
    assert [event for event in heard if "continues with" in getattr(event, "text", "")]


def test_the_right_pixel_range_passes_the_test_card(tmp_path: Path) -> None:
    with told("encode/gates.py:require_psnr GateError"):
        run_of(tmp_path, rows=4, image={"pixel_range": "unit"}).encode()
    assert run_of(tmp_path, rows=4, image={"pixel_range": "signed"}).encode().accepted == 4


class NoEmptyPrompt(FakeTextEncoder):
    """Its states of the empty prompt are not finite."""

    def encode(self, items: Any, batch: int) -> Any:
        made = super().encode(items, batch)
        made["text_states"][[not caption for caption in items]] = np.inf
        return made


def test_a_text_encoder_with_a_finite_empty_prompt_passes(tmp_path: Path) -> None:
    workflow = fake_settings(rows=4)
    with told("encode/gates.py:require_empty_prompt GateError"):
        run_of(tmp_path, with_parts(workflow, text=component(f"{__name__}.NoEmptyPrompt"))).encode()
    assert run_of(tmp_path, workflow).encode().accepted == 4


class Narrow(FakeImageEncoder):
    """It decodes to pictures of half the size."""

    def decode(self, arrays: Any) -> Any:
        return super().decode(arrays)[:, ::2, ::2]


def test_a_decode_of_the_same_shape_passes(tmp_path: Path) -> None:
    with told("encode/gates.py:require_psnr GateError"):
        run_of(tmp_path, rows=4, image={"class": f"{__name__}.Narrow"}).encode()
    assert run_of(tmp_path, rows=4, image={"class": IMAGE}).encode().accepted == 4


def test_a_lower_limit_lets_odd_pictures_pass(tmp_path: Path) -> None:
    folder = write_coco(tmp_path)
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for path in (folder / "images").iterdir():
        Image.fromarray(noise).save(path)
    workflow = settings(folder, None)
    failed = run_of(tmp_path / "run", workflow).with_settings({"run.min_psnr": 12.0, "run.retries": 0}).encode().failed
    covers("encode/gates.py:require_psnr LowPsnr")
    assert "min_psnr" in next(iter(failed.values()))
    lower = run_of(tmp_path / "run", workflow).with_settings({"run.min_psnr": 1.0})
    assert lower.encode().accepted == 9


class Boastful(FakeImageEncoder):
    """It makes one array less than it promises."""

    def encode(self, items: Any, batch: int) -> Any:
        made = super().encode(items, batch)
        del made["latent_std"]
        return made

    def decode(self, arrays: Any) -> Any:
        return None


def test_a_class_that_keeps_its_promise_passes_and_the_suite_that_is_named_finds_the_other(tmp_path: Path) -> None:
    import daskt2i.testing.encoder as suites

    with told("encode/gates.py:require_promised ModelError"):
        run_of(tmp_path, image={"class": f"{__name__}.Boastful"}).encode()

    class Suite(suites.ImageEncoderSuite):
        """For the class of this test."""

    with pytest.raises(AssertionError):
        Suite().test_arrays_are_as_info_says(Boastful())
    Suite().test_arrays_are_as_info_says(FakeImageEncoder())
    assert run_of(tmp_path / "other", rows=4, image={"class": IMAGE}).encode().accepted == 4


def test_images_in_their_place_and_a_setting_bring_a_chunk_without_images_on(tmp_path: Path) -> None:
    folder = write_coco(tmp_path)
    images, away = folder / "images", folder / "away"
    images.rename(away)
    (images / "others").mkdir(parents=True)
    workflow = settings(folder, None)
    result = run_of(tmp_path / "run", workflow).with_settings({"run.retries": 0}).encode()
    covers("encode/worker.py:_ChunkRun._require_images ImagesMissing")
    assert list(result.failed) == [0]
    believed = run_of(tmp_path / "believed", workflow).with_settings({"run.on_missing_chunk": "reject"}).encode()
    assert dict(believed.rejected) == {"missing-file": 9, "no-caption": 1}
    (images / "others").rmdir()
    images.rmdir()
    away.rename(images)
    # A last chunk of few images was believed to miss them.
    with told("encode/resume.py:_Pictures.refuse FingerprintMismatch"):
        run_of(tmp_path / "run", workflow).encode()
    again = run_of(tmp_path / "run", workflow).with_settings({"run.retry_rejected": ["missing-file"]})
    assert again.encode().accepted == 9


class Tired(FakeSource):
    """A source whose rows cannot be read while the file `tired` is there."""

    def __init__(self, rows: int, mark: str) -> None:
        super().__init__(rows)
        self.mark = Path(mark)

    def read(self, row: Any) -> bytes:
        if self.mark.exists() and (row.index >= 8 or self.mark.read_text() == "all"):
            raise OSError("the disk is tired")
        return super().read(row)


def test_encode_again_tries_the_chunks_that_failed_and_no_others(tmp_path: Path) -> None:
    mark = tmp_path / "tired"
    mark.touch()
    run = run_of(tmp_path / "run", source={"class": f"{__name__}.Tired", "mark": str(mark)}, retries=0)
    with told("encode/summary.py:EncodeResult.raise_for_failed StoreError"):
        run.encode().raise_for_failed()
    assert list((tmp_path / "run" / "errors").iterdir())
    mark.unlink()
    result = run.encode().raise_for_failed()
    assert (result.done, result.skipped) == (2, 1)


@pytest.mark.parametrize("wrong", ["images", "captions"])
def test_corrected_data_is_encoded_into_another_run_folder(wrong: str, tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "coco")
    captions, images = folder / "captions.json", sorted((folder / "images").iterdir())
    document, first = json.loads(captions.read_text()), images[0].read_bytes()
    if wrong == "images":
        for path in images:
            path.write_bytes(b"no picture")
    else:
        blank = [{**one, "caption": " "} for one in document["annotations"]]
        captions.write_text(json.dumps({**document, "annotations": blank}))
    result = daskt2i.Run(settings(folder, None), tmp_path / "run", scheduler="serial", progress=False).encode()
    with told("encode/summary.py:EncodeResult.raise_for_failed SourceError") as error:
        result.raise_for_failed()
    assert "Not one of 10 rows was accepted" in str(error.value)
    run = daskt2i.open_run(tmp_path / "run")
    assert run.verify().ok
    captions.write_text(json.dumps(document))
    for path in images:
        path.write_bytes(first)
    with daskt2i.Run(settings(folder, None), tmp_path / "other", scheduler="serial", progress=False) as again:
        assert again.encode().raise_for_failed().accepted


def test_a_run_that_accepted_almost_nothing_is_a_success_where_the_user_says_so(tmp_path: Path) -> None:
    workflow = fake_settings(rows=8, source={"missing": [*range(1, 8)]}, on_missing_chunk="reject")
    result = run_of(tmp_path, workflow).encode()
    with told("encode/summary.py:EncodeResult.raise_for_failed SourceError") as error:
        result.raise_for_failed()
    assert "Only 1 of 8 rows was accepted: 7 missing-file" in str(error.value)
    assert "Accepted rows: only 1 of 8." in verify(RunFolder(tmp_path), workflow).notes
    asked = fake_settings(rows=8, source={"missing": [*range(1, 8)]}, min_accepted=0)
    assert run_of(tmp_path, asked).encode().raise_for_failed().skipped == 1
    better = fake_settings(rows=8)
    assert run_of(tmp_path / "other", better).encode().raise_for_failed().accepted == 8


def test_the_same_command_goes_on_after_a_run_was_given_up(tmp_path: Path) -> None:
    mark = tmp_path / "tired"
    mark.write_text("all")
    source = {"class": f"{__name__}.Tired", "mark": str(mark)}
    run = run_of(tmp_path / "run", source=source, rows=40, rows_per_chunk=4)
    with told("encode/chunks/chunk_queue.py:_hopeless ExecutorError"):
        run.encode()
    mark.unlink()
    assert run.encode().accepted == 40


def test_the_same_command_goes_on_after_a_stop(tmp_path: Path) -> None:
    from daskt2i.events import ChunkDone

    def stop(event: Any) -> None:
        if isinstance(event, ChunkDone):
            raise KeyboardInterrupt

    stopped = daskt2i.Run(fake_settings(), tmp_path / "run", scheduler="serial", progress=stop)
    with told("encode/driver.py:_Run.go Interrupted"):
        stopped.encode()
    assert run_of(tmp_path / "run").encode().skipped == 1


def test_the_pictures_of_before_and_another_folder_are_both_taken(tmp_path: Path) -> None:
    folder = write_coco(tmp_path)
    workflow = settings(folder, None)
    run_of(tmp_path / "run", workflow).encode()
    (folder / "images").rename(folder / "before")
    write_coco(folder, same=dict.fromkeys(range(10), 3))
    with told("encode/resume.py:_Pictures.refuse FingerprintMismatch"):
        run_of(tmp_path / "run", workflow).encode()
    assert run_of(tmp_path / "other", workflow).encode().accepted == 9
    before = {"images": str(folder / "before"), "captions": str(folder / "captions.json")}
    run = daskt2i.Run(workflow, tmp_path / "run", **before, scheduler="serial", progress=False)
    assert run.encode().skipped == 3


def test_exchanged_pictures_are_encoded_again_where_the_user_says_so(tmp_path: Path) -> None:
    folder = write_coco(tmp_path)
    workflow = settings(folder, None)
    run_of(tmp_path / "run", workflow).encode()
    write_coco(folder, same={5: 3})
    with told("encode/resume.py:_Pictures.refuse FingerprintMismatch"):
        run_of(tmp_path / "run", workflow).encode()
    covers("encode/verify.py:VerifyResult.raise_for_problems StoreError")
    with pytest.raises(StoreError, match=r"005\.bmp.*run\.on_changed_images=encode"):
        run_of(tmp_path / "run", workflow).verify().raise_for_problems()
    again = run_of(tmp_path / "run", workflow).with_settings({"run.on_changed_images": "encode"})
    assert again.encode().done == 1
    assert again.verify().ok


def test_pictures_that_arrived_are_encoded_where_the_user_says_so(tmp_path: Path) -> None:
    folder = write_coco(tmp_path, missing=[5])
    workflow = settings(folder, None)
    run_of(tmp_path / "run", workflow).encode()
    write_coco(folder)
    covers("encode/resume.py:find_done Note")
    heard: list[Any] = []
    assert daskt2i.Run(workflow, tmp_path / "run", scheduler="serial", progress=heard.append).encode().skipped == 3
    assert [event for event in heard if "(005.bmp)" in getattr(event, "text", "")]
    again = run_of(tmp_path / "run", workflow).with_settings({"run.retry_rejected": ["missing-file"]})
    assert again.encode().accepted == 9


@pytest.mark.parametrize("case", ["missing", "missing, by an older version", "unreadable"])
def test_images_that_are_back_are_not_called_exchanged_and_the_setting_that_is_named_first_encodes_them(
    tmp_path: Path, case: str
) -> None:
    folder = write_coco(tmp_path, missing=[0, 9] if case.startswith("missing") else [])
    if case == "unreadable":
        (folder / "images" / "000.bmp").write_bytes(b"BM")
    workflow = settings(folder, None)
    run_of(tmp_path / "run", workflow).encode()
    if "older" in case:
        for path in (tmp_path / "run" / "receipts").iterdir():
            about = json.loads(path.read_text())
            path.write_text(json.dumps({key: about[key] for key in about if key not in ("stamps", "contents")}))
    write_coco(folder)
    with told("encode/resume.py:_Pictures.refuse FingerprintMismatch") as error:
        run_of(tmp_path / "run", workflow).encode()
    said = str(error.value)
    assert re.match(r"Images .* are there now.*\(000\.bmp", said)
    assert not re.search("exchanged|made from|original images|on_changed_images", said)
    if case == "unreadable":
        found = run_of(tmp_path / "run", workflow).verify()
        assert (found.ok, found.exchanged) == (True, ())
        assert [note for note in found.notes if "others now (000.bmp)" in note]
    key, reasons = re.findall(r"(run\.\w+)=\[([\w, -]+)\]", said)[0]
    again = run_of(tmp_path / "run", workflow).with_settings({key: reasons.split(", ")}).encode()
    assert (again.accepted, sum(again.rejected.values())) == (9, 1)


def test_encode_says_why_rows_are_rejected_that_cannot_be_estimated(tmp_path: Path) -> None:
    run = run_of(tmp_path, source={"unreadable": list(range(20))})
    with told("encode/calibration.py:_Run._summed PlanError"):
        run.estimate(rows=8)
    assert dict(run.encode().rejected) == {"unreadable-image": 20}


# A store that is there.


def damage(run: Path) -> None:
    """One byte of one shard is another."""
    path = next(iter(sorted((run / "latents.zarr" / "latent_mean").glob("c.*"))))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def test_encode_again_repairs_the_damaged_chunk_and_leaves_the_others(encoded: Path) -> None:
    damage(encoded)
    run = run_of(encoded)
    with told("encode/verify.py:VerifyResult.raise_for_problems StoreError"):
        run.verify().raise_for_problems()
    result = run.encode()
    assert (result.done, result.skipped) == (1, 2)
    assert run.verify().raise_for_problems().ok


def test_encode_again_finishes_the_chunks_that_an_encode_left_open(encoded: Path) -> None:
    Receipts(RunFolder(encoded)).delete(1)
    run = run_of(encoded)
    found = run.verify()
    assert (found.damaged, found.unfinished, found.problems) == (False, (1,), {})
    assert "not complete" in repr(found)
    for refused in (found.raise_for_problems, lambda: run.plan("train")):
        with told("encode/verify.py:unfinished StoreError"):
            refused()
    assert (run.encode().done, run.verify().ok) == (1, True)


def test_verify_names_the_chunk_that_cannot_be_read_and_encode_repairs_it(encoded: Path) -> None:
    damage(encoded)
    with told("store/zarr_store.py:ZarrStore.read StoreError"):
        ZarrStore(RunFolder(encoded)).read("latent_mean", 0, 20)
    run = run_of(encoded)
    assert len(run.verify().problems) == 1
    run.encode()
    assert ZarrStore(RunFolder(encoded)).read("latent_mean", 0, 20).shape[0] == 20


@pytest.mark.parametrize("where", ["verify", "layout", "status"])
def test_encode_makes_the_store_that_is_missing(where: str, tmp_path: Path) -> None:
    run, folder = run_of(tmp_path / "run"), RunFolder(tmp_path / "run")
    (tmp_path / "run").mkdir()
    if where == "verify":
        with told("encode/verify.py:verify StoreMissing"):
            verify(folder)
    elif where == "layout":
        with told("store/zarr_store.py:ZarrStore.layout StoreMissing"):
            ZarrStore(folder).layout()
    else:
        with told("store/status.py:status StoreMissing"):
            run.status()
    run.encode()
    assert run.verify().ok
    assert run.status().accepted == 20
    assert daskt2i.open_store(tmp_path / "run").sizes["row"] == 20


def test_a_restored_file_and_another_folder_help_where_metadata_are_damaged(encoded: Path, tmp_path: Path) -> None:
    metadata = encoded / "latents.zarr" / "zarr.json"
    kept = metadata.read_bytes()
    metadata.write_bytes(kept[:40])
    with told("store/zarr_store.py:ZarrStore._group StoreError"):
        run_of(encoded).encode()
    assert run_of(tmp_path / "other", rows=4).encode().accepted == 4
    metadata.write_bytes(kept)
    assert run_of(encoded).encode().skipped == 3


@pytest.mark.parametrize("gone", [True, False], ids=["missing", "damaged"])
def test_encode_restores_the_metadata_of_an_array(gone: bool, encoded: Path) -> None:
    metadata = encoded / "latents.zarr" / "latent_mean" / "zarr.json"
    before = metadata.read_bytes()
    metadata.unlink() if gone else metadata.write_bytes(before[:40])
    with told("store/zarr_store.py:ZarrStore._opened StoreError"):
        ZarrStore(RunFolder(encoded)).read("latent_mean", 0, 20)
    metadata.unlink(missing_ok=True)
    run_of(encoded).encode()
    assert ZarrStore(RunFolder(encoded)).read("latent_mean", 0, 20).shape[0] == 20
    assert metadata.read_bytes() == before


def test_another_folder_helps_where_the_layout_is_of_another_version(encoded: Path, tmp_path: Path) -> None:
    metadata = encoded / "latents.zarr" / "zarr.json"
    data = json.loads(metadata.read_text())
    (name,) = [key for key, value in data["attributes"].items() if isinstance(value, dict) and "version" in value]
    data["attributes"][name]["version"] = 99
    metadata.write_text(json.dumps(data))
    with told("store/zarr_store.py:ZarrStore.layout StoreError"):
        run_of(encoded).verify()
    assert run_of(tmp_path / "other", rows=4).encode().accepted == 4


def test_another_folder_helps_where_the_group_is_not_ours(tmp_path: Path) -> None:
    import zarr

    zarr.open_group(tmp_path / "run" / "latents.zarr", mode="w", attributes={"of": "somebody else"})
    arrays = FakeImageEncoder().info(32).arrays
    with told("store/zarr_store.py:ZarrStore.create StoreError"):
        ZarrStore(RunFolder(tmp_path / "run")).create(8, 8, arrays, {})
    ZarrStore(RunFolder(tmp_path / "other")).create(8, 8, arrays, {})


def test_attributes_of_other_names_are_taken(tmp_path: Path) -> None:
    arrays = FakeImageEncoder().info(32).arrays
    store = ZarrStore(RunFolder(tmp_path))
    with told("store/zarr_store.py:ZarrStore.create StoreError"):
        store.create(8, 8, arrays, {"daskt2i_layout": 1, **_clash()}, {})
    store.create(8, 8, arrays, {"mine": 1}, {})
    assert store.attributes() == {"mine": 1}


def _clash() -> dict[str, Any]:
    from daskt2i.store import zarr_store

    return {zarr_store.LAYOUT: 1}


def test_the_settings_of_before_and_another_folder_make_a_store(tmp_path: Path) -> None:
    store = ZarrStore(RunFolder(tmp_path / "run"))
    arrays, others = FakeImageEncoder().info(32).arrays, FakeImageEncoder(channels=5).info(32).arrays
    store.create(8, 8, arrays, {}, {})
    with told("store/zarr_store.py:ZarrStore.create FingerprintMismatch"):
        store.create(8, 8, others, {}, {})
    store.create(8, 8, arrays, {}, {})
    ZarrStore(RunFolder(tmp_path / "other")).create(8, 8, others, {}, {})


def test_the_captions_of_before_and_encode_after_verify_make_the_manifest(encoded: Path) -> None:
    folder = RunFolder(encoded)
    receipts = list(Receipts(folder).read())
    with told("store/manifest.py:_contradiction StoreError"):
        write_manifest(folder, FakeSource(20, captions=1).rows, receipts, 20)
    assert write_manifest(folder, FakeSource(20).rows, receipts, 20) == 20
    receipt = encoded / "receipts" / sorted(path.name for path in (encoded / "receipts").iterdir())[0]
    data = json.loads(receipt.read_text())
    receipt.write_text(json.dumps({**data, "captions": data["captions"] + 1}))
    with told("store/manifest.py:_contradiction StoreError"):
        write_manifest(folder, FakeSource(20).rows, list(Receipts(folder).read()), 20)
    receipt.unlink()
    assert run_of(encoded).encode().accepted == 20


def test_a_chunk_is_written_before_its_receipt(encoded: Path) -> None:
    receipts = Receipts(RunFolder(encoded))
    receipt = next(iter(receipts.read()))
    with told("store/receipts.py:Receipts.write StoreError"):
        receipts.write(dataclasses.replace(receipt, shards={}))
    receipts.write(receipt)  # its shards were written
    assert next(iter(receipts.read())) == receipt


def test_a_folder_that_is_held_is_free_when_the_other_ends(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with lock.hold(RunFolder(out), "encode"), told("store/publishing/lock.py:_busy StoreBusy"):
        run_of(out).encode()
    assert run_of(out).encode().accepted == 20


def test_a_run_that_was_taken_over_waits_for_the_other_and_encodes_what_is_open(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    former = begin(folder)
    with publishing(folder), told("store/publishing/attempts.py:taken_over TakenOver"):
        former.require()
    assert run_of(tmp_path).encode().accepted == 20


def test_workers_that_share_the_folder_publish(tmp_path: Path, encoded: Path) -> None:
    folder = RunFolder(encoded)
    there = stored(encoded).items()
    chunk, data = Chunk(0, 0, 8), {name: array[:8] for name, array in there if not name.startswith("empty_")}
    with publishing(folder) as publication:
        attempt = begin_attempt(folder, publication.run, 0)
        shards = ZarrStore(folder).write(chunk, Encoded(data), attempt)
        receipt = dataclasses.replace(next(iter(Receipts(folder).read())), shards=shards)
        Receipts(folder).write(receipt, attempt)
        here = folder.local_path(attempt.place)
        here.rename(tmp_path / "a disk of the worker")
        with told("store/publishing/publication.py:Publication.publish StoreError"):
            publication.publish(Staged(receipt, attempt.name))
        (tmp_path / "a disk of the worker").rename(here)  # the folder is shared now
        publication.publish(Staged(receipt, attempt.name))
    assert run_of(encoded).encode().skipped == 3


def test_another_folder_helps_where_a_part_of_the_path_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with told("store/run_folder.py:RunFolder.explaining StoreError"):
        RunFolder(tmp_path / "file" / "run").write("a", b"x")
    RunFolder(tmp_path / "run").write("a", b"x")
    assert RunFolder(tmp_path / "run").read("a") == b"x"


def test_a_path_and_an_address_name_a_folder(tmp_path: Path) -> None:
    with told("store/run_folder.py:RunFolder.__init__ ConfigError"):
        RunFolder("")
    for name in (tmp_path / "run", f"memory://{tmp_path.name}"):
        folder = RunFolder(name)
        folder.write("a", b"x")
        assert folder.read("a") == b"x"
