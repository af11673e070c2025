"""Training on latents of several sizes and on stores with parts: what the model gets, and when it is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.shaped import bucketed
from builders.workflows import fake_settings, finish

from daskt2i.config.settings import TrainSettings, Workflow
from daskt2i.errors import ConfigError, FingerprintMismatch
from daskt2i.store.layout import about_store
from daskt2i.store.parts.rows_file import RowsFile, write_rows
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.denoiser_rank import Denoiser, DenoiserJob
from daskt2i.train.driver import identity_of, trained_steps
from daskt2i.train.resume import plain
from daskt2i.train.samples import ROWS, as_begun, check_sizes, rows_of_training

MODEL = {"config": {"block_out_channels": [16, 16], "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}}
MODEL["config"] |= {"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 8}  # type: ignore[dict-item]
SIZES = {(64, 32): 13, (48, 48): 22, (32, 64): 9}


def settings(**changes: Any) -> TrainSettings:
    given = {"steps": 4, "batch": 6, "validation": 6, "warmup": 0, "model": MODEL, "posterior": "mean", **changes}
    return TrainSettings.model_validate(given)


def workflow(**changes: Any) -> Workflow:
    return fake_settings(rows_per_chunk=4).model_copy(update={"train": settings(**changes)})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bucketed(tmp_path_factory.mktemp("sizes") / "run", SIZES)


def task(out: Path, monkeypatch: pytest.MonkeyPatch, rank: int = 0, world: int = 1, **changes: Any) -> Denoiser:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    train, whole = settings(**changes), workflow()
    stored = about_store(ZarrStore(RunFolder(out)))
    assert stored is not None
    return Denoiser(
        DenoiserJob(
            folder=str(out),
            storage_options=None,
            train=plain(train),
            launch=plain(whole.launch),
            identity=json.loads(json.dumps(identity_of(train, stored))),
            cache_bytes=2**24,
            vae=plain(whole.dataset.encoders.image),
            text=plain(whole.dataset.encoders.text),
            sample=plain(whole.sample),
            batch=train.batch,
        )
    )


def test_one_model_learns_from_all_sizes_and_two_ranks_have_the_losses_of_one(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = task(store, monkeypatch)
    model = one.build("cpu")
    ranks = [task(store, monkeypatch, number, 2) for number in range(2)]
    shapes = set()
    with torch.no_grad():
        for whole, *parts in itertools.islice(zip(*(each.batches(0) for each in (one, *ranks)), strict=False), 10):
            shapes.add(whole.latents.shape[1:])
            together = sum(float(each.loss(model, part)[0]) for each, part in zip(ranks, parts, strict=True)) / 2
            assert together == pytest.approx(float(one.loss(model, whole)[0]), rel=1e-5)
        assert len(shapes) == 3
        total, count, _ = one.heldout(model)
        shares = [each.heldout(model)[:2] for each in ranks]
    assert count == len(one.dataset.heldout)
    assert sum(share[0] for share in shares) == pytest.approx(total, rel=1e-5)
    assert model.config.sample_size == 6  # that of most rows
    for each in (one, *ranks):
        each.close()


def test_sizes_that_a_model_cannot_halve_are_refused_before_a_rank_starts(tmp_path: Path) -> None:
    folder = RunFolder(bucketed(tmp_path / "run", {(64, 32): 4, (64, 40): 4}))
    with pytest.raises(ConfigError, match=r"latents are 5 x 8.*sizes of pictures \(dataset\.image\)"):
        check_sizes(settings(), folder)
    check_sizes(settings(view="64x32"), folder)
    with pytest.raises(ConfigError, match="its views are 64x32, 64x40"):
        check_sizes(settings(view="8x8"), folder)


def test_a_training_is_not_continued_after_rows_were_appended_or_removed(tmp_path: Path) -> None:
    folder, train = RunFolder(tmp_path), workflow()
    finish(fake_settings(rows=8, rows_per_chunk=4), tmp_path)
    stored = about_store(ZarrStore(folder))
    assert stored is not None
    begun = as_begun(identity_of(train.train, stored), folder)
    assert ROWS not in begun
    Checkpoints(folder).save(1, 6, {"model.a": torch.zeros(1)}, {"identity": begun})
    assert trained_steps(train, folder) == 1
    finish(fake_settings(rows=3, rows_per_chunk=4), tmp_path / "parts" / "0001")
    for change in (RowsFile(("0001",)), RowsFile((), {"": ((2, 3),)})):
        write_rows(folder, change)
        with pytest.raises(FingerprintMismatch, match=r"since its training began \(then: one store"):
            trained_steps(train, folder)
    with_part = as_begun(identity_of(train.train, stored), folder)
    Checkpoints(folder).save(2, 12, {"model.a": torch.zeros(1)}, {"identity": with_part})
    assert trained_steps(train, folder) == 2
    write_rows(folder, RowsFile((), {"": ((2, 4),)}))
    with pytest.raises(FingerprintMismatch, match=r"then: 7 rows of 1 store, \w+; now: 6 rows of 1 store"):
        trained_steps(train, folder)
    assert len(rows_of_training(folder, None)) == 6


SDXL = {**MODEL["config"], "addition_embed_type": "text_time", "addition_time_embed_dim": 8}


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two buckets with mirrored latents and pooled text."""
    return bucketed(tmp_path_factory.mktemp("sized") / "run", {(64, 32): 8, (48, 48): 9}, mirrored=True, pooled=True)


def test_a_model_as_sdxls_is_told_sizes_crops_and_pooled_text_of_each_sample(
    sized: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = task(sized, monkeypatch, model={"config": SDXL}, validation=2)
    model = one.build("cpu")
    heard: list[dict[str, torch.Tensor]] = []
    forward = model.forward

    def hear(*args: Any, **kwargs: Any) -> Any:
        heard.append(kwargs["added_cond_kwargs"])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", hear)
    mirrored = 0
    for batch in itertools.islice(one.batches(0), 6):
        assert torch.isfinite(one.loss(model, batch)[0])
        ids = heard[-1]["time_ids"].tolist()
        height, width = (8 * side for side in batch.latents.shape[2:])
        for row, slot, found, pooled in zip(
            batch.rows.tolist(), batch.slots.tolist(), ids, heard[-1]["text_embeds"], strict=True
        ):
            # The builder writes sizes (row + 640, row + 480) and boxes (row, row + 1, row + 400, row + 300).
            left = found[3] * 400 / width
            mirrored += left > 200
            assert found[:2] == [row + 480, row + 640]
            assert found[2] == round((row + 1) * width / 400)
            assert left == pytest.approx(row + 640 - (row + 400) if left > 200 else row, abs=400 / width)
            assert found[4:] == [height, width]
            assert float(pooled[0]) == (row if slot >= 0 else float(one.dataset._reader.empty_pooled[0]))
    assert 0 < mirrored < 36
    part = batch[2:4]
    assert part.sized is not None
    assert part.sized.time_ids().tolist() == ids[2:4]
    one.close()


def test_a_model_without_size_conditions_reads_none(sized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = task(sized, monkeypatch)
    assert next(one.batches(0)).sized is None
    one.close()


def test_a_store_without_pooled_text_is_refused_for_such_a_model(store: Path) -> None:
    with pytest.raises(ConfigError, match="the store has no text_pooled"):
        check_sizes(settings(model={"config": SDXL}), RunFolder(store))
