"""Training an autoencoder: the choice of pictures, the same losses for any number of ranks, the final folder."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
import pytest
from PIL import Image

from daskt2i.config.settings import LaunchSettings, VaeSettings
from daskt2i.config.workflow_file import load_defaults
from daskt2i.encode import gates
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.errors import ConfigError, ImagesMissing, ModelError, Reason, SourceError
from daskt2i.images.read import Limits
from daskt2i.launch import rank
from daskt2i.loader.picture_dataset import PictureBatch, Pictures
from daskt2i.model import autoencoder_loss as vae_loss
from daskt2i.model.autoencoder import new_config
from daskt2i.protocols import Source
from daskt2i.sources.fake import FakeSource
from daskt2i.sources.scenes import ScenesSource
from daskt2i.store.run_folder import RunFolder
from daskt2i.train import autoencoder_rank, loop
from daskt2i.train.autoencoder_rank import Autoencoder, AutoencoderJob
from daskt2i.train.loop import cut
from daskt2i.train.metrics import read_metrics
from daskt2i.train.upkeep import requests
from daskt2i.types import Rejection, Row, Runtime, SourceInfo

SIDE = 32
SCENES = {"class": "daskt2i.sources.scenes.ScenesSource", "rows": 48}
FAKE = {"class": "daskt2i.sources.fake.FakeSource", "rows": 24}
TINY = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4}


def job_of(folder: Path, source: dict[str, Any] | None = None, **vae: Any) -> AutoencoderJob:
    load_defaults()
    settings = {"config": TINY, "batch": 8, "validation": 4, "steps": 4, "warmup": 2, "ema": 0.0, **vae}
    return AutoencoderJob(
        folder=str(folder),
        storage_options=None,
        source=source or SCENES,
        image={"resolution": SIDE},
        vae=json.loads(VaeSettings.model_validate(settings).model_dump_json()),
        launch={**dask.config.get("daskt2i.launch"), "precision": "fp32", "device": "cpu"},
        identity={},
        cache_bytes=2**26,
        batch=settings["batch"],
        readers=2,
    )


def place(number: int = 0, world: int = 1) -> rank.Rank:
    return rank.Rank(number, world, number, 1)


def fit(job: AutoencoderJob, **launch: Any) -> dict[str, Any]:
    """Do all steps on one rank in this process."""
    task = Autoencoder(job, place())
    settings, how = VaeSettings.model_validate(job.vae), LaunchSettings.model_validate({**job.launch, **launch})
    return loop.fit(task, settings, how, RunFolder(job.folder), job.identity, autoencoder_rank.PREFIX)


def pictures_of(source: Source, *, number: int = 0, world: int = 1, **changes: Any) -> Pictures:
    settings: dict[str, Any] = {
        "seed": 0, "batch": 4, "heldout": 3, "crop": 16, "flip": True, "latent": (4, 2), "threads": 2, **changes,
    }  # fmt: skip
    return Pictures(source, SIDE, Limits(min_side=8), rank=number, world=world, **settings)


def take(pictures: Pictures, count: int, position: int = 0) -> list[PictureBatch]:
    try:
        return list(itertools.islice(pictures.batches(position), count))
    finally:
        pictures.close()


def samples(batches: list[PictureBatch]) -> list[dict[int, bytes]]:
    """For each batch and row, all values that decide the loss."""
    return [
        {int(row): b"".join(a[i].tobytes() for a in (b.pixels, b.noise, b.weight)) for i, row in enumerate(b.rows)}
        for b in batches
    ]


class Gradients:
    """Pictures that differ at every pixel. `away` may change while pictures are read."""

    def __init__(self, rows: int = 20) -> None:
        self.count, self.away, self.reads = rows, set[int](), 0

    def info(self) -> SourceInfo:
        return SourceInfo(self.count, 1, self.count, 9, 0, 0, {}, "gradients")

    def rows(self, start: int, stop: int) -> list[Row]:
        return [Row(i, i, f"{i}.png", ("a",)) for i in range(start, min(stop, self.count))]

    def read(self, row: Row) -> bytes:
        from daskt2i.errors import RowRejected

        self.reads += 1
        if row.index in self.away:
            raise RowRejected(Reason.MISSING_FILE, row.file_name)
        pixels = np.random.default_rng(row.index).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    assert [t.name for t in threading.enumerate() if t.name.startswith("daskt2i-pictures")] == []


# --- choice of pictures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "world"), [(4, 1), (4, 2), (8, 4), (5, 1), (34, 2)])
def test_every_row_comes_once_per_epoch(batch: int, world: int) -> None:
    ranks = [pictures_of(Gradients(), batch=batch, number=n, world=world) for n in range(world)]
    rows = ranks[0].rows
    assert rows == 17
    steps = 4 * rows // batch + 1
    parts = [[p.part(step * batch) for p in ranks] for step in range(steps)]
    seen = [sample for part in parts for one in part for sample in one]
    for epoch in range(3):
        assert sorted(row for e, row in seen if e == epoch) == sorted(ranks[0].order(0))
    assert {len(one) for part in parts for one in part} == {batch // world}
    for p in ranks:
        p.close()


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    a, b = pictures_of(Gradients()), pictures_of(Gradients(), seed=1)
    assert list(a.order(0)) != list(a.order(1)) != list(b.order(1))
    assert list(a.order(0)) == list(pictures_of_closed(Gradients()).order(0))
    a.close()
    b.close()


def pictures_of_closed(source: Source) -> Pictures:
    found = pictures_of(source)
    found.close()
    return found


def test_one_rank_and_two_see_the_same_samples() -> None:
    one = samples(take(pictures_of(Gradients()), 6))
    left, right = (samples(take(pictures_of(Gradients(), number=n, world=2), 6)) for n in range(2))
    assert [a | b for a, b in zip(left, right, strict=True)] == one
    assert all(len(part) == 2 for part in left + right)


@pytest.mark.parametrize("step", [1, 4, 5, 9])
def test_batches_from_a_position_equal_those_of_an_uninterrupted_run(step: int) -> None:
    assert (
        samples(take(pictures_of(Gradients()), 3, step * 4)) == samples(take(pictures_of(Gradients()), step + 3))[step:]
    )


def test_heldout_rows_are_never_trained_and_stay_the_same() -> None:
    pictures = pictures_of(Gradients())
    held = set(pictures.heldout)
    batches = itertools.islice(pictures.batches(0), 12)
    assert held.isdisjoint({int(row) for batch in batches for row in batch.rows})
    again = pictures_of(Gradients(), batch=2, crop=None, number=1, world=2)
    assert set(again.heldout) == held
    shares = [{int(r) for b in p.heldout_batches(2) for r in b.rows} for p in (pictures, again)]
    assert shares[0] == held
    assert shares[1] < held
    first, second = (samples(list(pictures.heldout_batches(2))) for _ in range(2))
    assert first == second
    pictures.close()
    again.close()


def test_crops_are_inside_the_picture_and_some_are_mirrored() -> None:
    source = Gradients()
    whole = {i: np.asarray(Image.open(io.BytesIO(source.read(row)))) for i, row in enumerate(source.rows(0, 20))}
    places, mirrored = set(), []
    for batch in take(pictures_of(source), 30):
        for pixels, index in zip(batch.pixels, batch.rows, strict=True):
            found = [
                (y, x, flipped)
                for flipped, shown in ((False, pixels), (True, pixels[:, ::-1]))
                for y, x in itertools.product(range(17), repeat=2)
                if (whole[int(index)][y : y + 16, x : x + 16] == shown).all()
            ]
            assert len(found) == 1
            places.add(found[0][:2])
            mirrored.append(found[0][2])
    assert {0, 16} <= {y for y, _ in places}
    assert {0, 16} <= {x for _, x in places}
    assert 0.3 < np.mean(mirrored) < 0.7


def test_noise_is_normal_and_different_in_each_epoch() -> None:
    batches = take(pictures_of(Gradients(), batch=17), 3)
    noise = np.concatenate([batch.noise for batch in batches])
    assert noise.dtype == np.float32
    assert len(np.unique(noise)) > 0.99 * noise.size
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05


def test_pictures_that_fit_into_memory_are_read_once() -> None:
    source, small = Gradients(), Gradients()
    take(pictures_of(source), 20)
    assert source.reads <= 17 + 4  # reading ahead may read a row for two epochs at the same time
    take(pictures_of(small, cache_bytes=2 * SIDE * SIDE * 3), 20)
    assert small.reads >= 70


def test_rows_without_captions_are_used_too() -> None:
    batches = take(pictures_of(FakeSource(rows=9, uncaptioned=range(6)), crop=None), 3)
    assert len({int(row) for batch in batches for row in batch.rows}) == 6
    assert all(batch.weight.all() for batch in batches)


# --- rows that cannot be used ---------------------------------------------------------------------------------------


def test_an_unusable_row_has_no_weight_and_is_reported_once() -> None:
    told: list[Rejection] = []
    source = FakeSource(rows=12, missing=[2], unreadable=[5, 7])
    pictures = pictures_of(source, heldout=0, batch=6, crop=None, tell=told.append)
    batches = take(pictures, 6)
    assert sum(len(batch) for batch in batches) == 36
    blank = sorted(int(r) for batch in batches for r in batch.rows[batch.weight == 0])
    assert blank == sorted([2, 5, 7] * 3)
    assert all(not batch.pixels[batch.weight == 0].any() for batch in batches)
    assert sorted((r.row, r.reason) for r in told) == [
        (2, Reason.MISSING_FILE), (5, Reason.UNREADABLE_IMAGE), (7, Reason.UNREADABLE_IMAGE),
    ]  # fmt: skip


def test_an_unusable_row_does_not_change_the_gradient_of_the_others(tmp_path: Path) -> None:
    """It makes no difference which rank reads the row: the sum over two ranks equals that of one rank."""
    import torch

    source = {**FAKE, "rows": 8, "unreadable": [0, 1, 2]}
    job = job_of(tmp_path, source, validation=0, batch=8)
    alone = Autoencoder(job, place())
    module = alone.build("cpu")
    gradients = []
    for world in (1, 2):
        module.zero_grad()
        for number in range(world):
            task = Autoencoder(job, place(number, world))
            loss, figures = task.loss(module, next(task.batches(0)))
            (loss / world).backward()
            assert float(figures["skipped"]) == pytest.approx([[3 / 8], [3 / 4, 0.0]][world - 1][number])
            task.close()
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    alone.close()
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_heldout_rows_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    task = Autoencoder(job_of(tmp_path, {**FAKE, "rows": 12, "missing": list(range(0, 12, 2))}, validation=6), place())
    usable = sum(int(row) % 2 for row in task.pictures.heldout)
    loss, count, sums = task.heldout(task.build("cpu"))
    assert count == usable
    assert 0 < usable < 6
    assert np.isfinite([loss, sums["psnr"]]).all()
    task.close()


def test_sheets_show_the_same_heldout_pictures_beside_reconstructions_that_get_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "LOCAL_SECONDS", 0.0)
    job = job_of(tmp_path, steps=4, validation=4, learning_rate=0.01)
    requests.request(RunFolder(tmp_path), requests.PICTURES, autoencoder_rank.PREFIX)
    drawn = dataclasses.replace(job, launch={**job.launch, "grid_every": 2})
    fit(drawn, grid_every=2)
    sheets = {path.stem: np.asarray(Image.open(path)) for path in sorted((tmp_path / "train-vae/sheets").glob("*.png"))}
    assert list(sheets) == [f"step-{step:07d}" for step in (0, 1, 2, 4)], "begin, on request, at intervals, end"
    assert not RunFolder(tmp_path).exists(requests.place_of(requests.PICTURES, autoencoder_rank.PREFIX))
    first, last = sheets["step-0000000"].astype(int), sheets["step-0000004"].astype(int)
    pair = first.shape[1] // 2  # a sheet of one column
    assert np.array_equal(first[:120, :pair], last[:120, :pair]), "the pictures"
    assert not np.array_equal(first[:120, pair:], last[:120, pair:]), "their reconstructions"


def test_when_the_images_disappear_training_stops_with_one_sentence() -> None:
    source = Gradients(80)
    pictures = pictures_of(source, cache_bytes=0)
    batches = pictures.batches(0)
    next(batches)
    source.away = set(range(80))
    with pytest.raises(ImagesMissing, match=r"All of the last 32 .*\.png.*run it again"):
        list(itertools.islice(batches, 40))
    pictures.close()


def test_when_no_picture_can_be_decoded_training_stops() -> None:
    with pytest.raises(SourceError, match="unreadable-image"):
        take(pictures_of(FakeSource(rows=8, unreadable=range(8)), heldout=0), 40)


def test_a_disk_error_is_raised_and_does_not_reject_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskt2i.retries.DEVICE_SECONDS", 0.1)  # half a minute is waited for a disk

    class Broken(Gradients):
        def read(self, row: Row) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        take(pictures_of(Broken()), 1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heldout": 20}, r"vae\.validation is 20, but the source has 20 usable rows"),
        ({"batch": 5, "world": 2}, "batch is 5, which 2 ranks cannot share"),
        ({"crop": 64}, "crop is 64, but pictures are 32 pixels"),
        ({"crop": 15}, "crop is 15, but the model reduces each side 2 times"),
        ({"latent": (4, 64)}, "resolution is 32, but the model reduces each side 64 times"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        pictures_of(Gradients(), **changes)


# --- the loss -------------------------------------------------------------------------------------------------------


def test_each_term_measures_what_its_name_says() -> None:
    import torch

    clean = torch.zeros(2, 3, 4, 4)
    made = clean.clone()
    made[0] = 0.5  # a picture that is too bright
    made[1, :, :, 2:] = 0.5  # a picture with an additional edge
    found = vae_loss.terms(made, clean, torch.ones(2, 4, 2, 2), torch.zeros(2, 4, 2, 2))
    assert found["l1"].tolist() == pytest.approx([0.5, 0.25])
    assert found["l2"].tolist() == pytest.approx([0.25, 0.125])
    assert found["edges"].tolist() == pytest.approx([0.0, 0.5 / 3 / 2])
    assert found["kl"].tolist() == pytest.approx([0.5, 0.5])
    plain = vae_loss.terms(made, clean, torch.zeros(2, 4, 2, 2), torch.zeros(2, 4, 2, 2))
    assert plain["kl"].tolist() == [0.0, 0.0]


def test_psnr_equals_that_of_the_gates() -> None:
    import torch

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    made = torch.from_numpy(a).permute(0, 3, 1, 2).float() / 127.5 - 1
    found = vae_loss.picture_psnr(made, torch.from_numpy(b).permute(0, 3, 1, 2)).tolist()
    assert found == pytest.approx([gates.psnr(y, x) for x, y in zip(a, b, strict=True)], rel=1e-5)
    assert vae_loss.picture_psnr(made, torch.from_numpy(a).permute(0, 3, 1, 2)).isfinite().all()


# --- training -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run folder with a small autoencoder for scenes, and the last event of its rank."""
    folder = tmp_path_factory.mktemp("trained")
    # Every autoencoder learns slowly at the start: the means of pictures must pass the group norms.
    job = job_of(
        folder, {**SCENES, "rows": 128}, steps=96, validation=8, learning_rate=1e-2, warmup=10, max_grad_norm=0.1,
        ema=0.9,
    )  # fmt: skip
    task = Autoencoder(job, place())
    _, count, sums = task.heldout(task.build("cpu").eval())
    task.close()
    return folder, {"psnr_untrained": sums["psnr"] / count, **fit(job, validation_every=24, checkpoint_every=48)}


def test_the_loss_falls_and_heldout_pictures_are_reconstructed_better(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = trained
    lines = read_metrics(RunFolder(folder), autoencoder_rank.PREFIX)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 96
    assert np.mean(losses[-10:]) < np.mean(losses[:5]) * 0.6
    held = [line["heldout_psnr"] for line in lines if "heldout_psnr" in line]
    assert len(held) == 4
    assert held[-1] > figures["psnr_untrained"] + 4
    assert figures["psnr"] == pytest.approx(held[-1], abs=0.01)
    assert figures["psnr_worst"] <= figures["psnr"]
    assert {"l1", "l2", "edges", "kl", "skipped", "norm"} <= set(lines[0])


def test_the_config_in_the_folder_holds_the_scale_of_the_latents(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = trained
    names = {path.name for path in (folder / "vae").iterdir()}
    assert names == {"config.json", "daskt2i.json", "diffusion_pytorch_model.safetensors"}
    config = (folder / "vae" / "config.json").read_text()
    assert str(folder) not in config + (folder / "vae" / "daskt2i.json").read_text()
    encoder = VaeEncoder(figures["vae"])
    info = encoder.info(SIDE)
    assert info.attributes["scaling_factor"] == figures["scaling_factor"] == json.loads(config)["scaling_factor"]
    encoder.load(Runtime("cpu", "fp32", 1))
    scenes = pictures_of(ScenesSource(rows=128), heldout=8)
    pixels = np.concatenate([batch.pixels for batch in scenes.sight(120, 8)])
    held = np.concatenate([batch.pixels for batch in scenes.sight(8, 8, heldout=True)])
    scenes.close()
    back = encoder.decode(encoder.encode(held, 4))
    assert np.mean([gates.psnr(a, b) for a, b in zip(held, back, strict=True)]) == pytest.approx(
        figures["psnr"], abs=0.1
    )
    arrays = encoder.encode(pixels, 8)
    noise = np.random.default_rng(0).standard_normal(arrays["latent_mean"].shape)
    latents = arrays["latent_mean"] + arrays["latent_std"] * noise
    assert (latents * figures["scaling_factor"]).std() == pytest.approx(1, abs=0.02)


def test_a_fine_tuned_model_passes_the_gates_of_the_encode_stage(tmp_path: Path) -> None:
    figures = fit(job_of(tmp_path, model="daskt2i:demo/vae", steps=2, learning_rate=1e-4, warmup=0))
    encoder = VaeEncoder(figures["vae"])
    encoder.load(Runtime("cpu", "fp32", 1))
    card = gates.test_card(SIDE)
    arrays = encoder.encode(card, 1)
    gates.require_promised(encoder.info(SIDE).arrays, arrays, 1, "The image encoder")
    assert gates.finite_rows(arrays.values()).all()
    (db,) = gates.require_psnr(card, encoder.decode(arrays), gates.CARD_PSNR, "the test card", known=True)
    assert db == pytest.approx(figures["card_psnr"], abs=0.1)
    assert figures["psnr"] > 28
    assert figures["psnr_before"] > 28


def test_fine_tuning_starts_from_the_pretrained_weights(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, figures = trained
    source = {**SCENES, "rows": 128}  # the same held-out rows as in the run before
    job = job_of(tmp_path, source, model=str(folder / "vae"), validation=8, steps=10, learning_rate=1e-3, warmup=1)
    task = Autoencoder(job, place())
    module = task.build("cpu")
    _, count, sums = task.heldout(module.eval())
    task.close()
    assert sums["psnr"] / count == pytest.approx(figures["psnr"], abs=0.01)
    found = fit(job)
    assert found["psnr_before"] == pytest.approx(figures["psnr"], abs=0.01)
    assert found["psnr"] != found["psnr_before"]
    assert str(folder) not in (tmp_path / "vae" / "config.json").read_text()


def test_a_fine_tuned_model_may_overwrite_its_pretrained_model(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, figures = trained
    shutil.copytree(folder / "vae", tmp_path / "vae")
    given, source = str(tmp_path / "vae"), {**SCENES, "rows": 128}
    found = fit(job_of(tmp_path, source, model=given, validation=8, steps=1, learning_rate=1e-3, warmup=0))
    assert found["psnr_before"] == pytest.approx(figures["psnr"], abs=0.01)


def test_a_resumed_run_ends_with_the_same_weights_as_an_uninterrupted_run(tmp_path: Path) -> None:
    """The second part finds the checkpoint of step 3, like a rank that was killed at step 4 or 5."""
    from safetensors.numpy import load_file

    def run(name: str, stop: int | None) -> dict[str, Any]:
        job = job_of(tmp_path / name, steps=6, learning_rate=1e-3, crop=16, ema=0.9)
        task = Autoencoder(job, place())
        if stop is not None:
            whole = task.batches
            task.batches = lambda position: itertools.islice(whole(position), stop)  # type: ignore[method-assign]
        settings, how = VaeSettings.model_validate(job.vae), LaunchSettings.model_validate(job.launch)
        how = how.model_copy(update={"checkpoint_every": 3})
        loop.fit(task, settings, how, RunFolder(job.folder), {}, autoencoder_rank.PREFIX)
        return load_file(tmp_path / name / "vae" / "diffusion_pytorch_model.safetensors")

    calm = run("calm", None)
    with pytest.raises(StopIteration):
        run("broken", 4)
    found = run("broken", None)
    assert {k: bool((v == calm[k]).all()) for k, v in found.items()} == dict.fromkeys(calm, True)
    lines = [read_metrics(RunFolder(tmp_path / name), autoencoder_rank.PREFIX) for name in ("calm", "broken")]
    assert [line["loss"] for line in lines[0] if "loss" in line] == [
        line["loss"] for line in lines[1] if "loss" in line
    ]


def test_two_ranks_give_the_same_losses_as_one(tmp_path: Path) -> None:
    import torch

    job = job_of(tmp_path, crop=16)
    alone = Autoencoder(job, place())
    module = alone.build("cpu")
    batch = next(alone.batches(8))
    loss, _ = alone.loss(module, batch)
    loss.backward()
    whole = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    for number in range(2):
        task = Autoencoder(job, place(number, 2))
        assert all(torch.equal(a, b) for a, b in zip(task.build("cpu").parameters(), module.parameters(), strict=True))
        part, _ = task.loss(module, next(task.batches(8)))
        (part / 2).backward()
        task.close()
    for mean, p in zip(whole, module.parameters(), strict=True):
        torch.testing.assert_close(p.grad, mean, rtol=1e-4, atol=1e-6)
    # Gradient accumulation gives the same losses too.
    module.zero_grad()
    parts = cut(batch, 3)
    assert sum(share for _, share in parts) == pytest.approx(1)
    for piece, share in parts:
        (alone.loss(module, piece)[0] * share).backward()
    for mean, p in zip(whole, module.parameters(), strict=True):
        torch.testing.assert_close(p.grad, mean, rtol=1e-4, atol=1e-6)
    alone.close()


def test_bf16_and_gradient_checkpointing_run(tmp_path: Path) -> None:
    figures = fit(
        job_of(tmp_path, steps=2), precision="bf16", gradient_checkpointing=True, gradient_accumulation_steps=3
    )
    assert np.isfinite(figures["psnr"])


def test_without_heldout_rows_there_are_no_figures_for_them(tmp_path: Path) -> None:
    figures = fit(job_of(tmp_path, validation=0, steps=1))
    assert "psnr" not in figures
    assert {"vae", "scaling_factor", "card_psnr", "parameters"} <= set(figures)


def test_a_job_survives_json(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    assert AutoencoderJob(**json.loads(json.dumps(dataclasses.asdict(job)))) == job


# --- choice of model ------------------------------------------------------------------------------------------------


def test_a_new_model_is_small_and_its_config_may_be_changed() -> None:
    assert new_config({}, 64)["down_block_types"] == ("DownEncoderBlock2D",) * 3
    config = new_config({"block_out_channels": [32, 64, 64, 64], "_class_name": "AutoencoderKL"}, 64)
    assert len(config["up_block_types"]) == 4
    assert "_class_name" not in config


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"block_out_channels": [10, 20], "norm_num_groups": 4}, "diffusers rejects vae.config"),
        ({"blocks": 3}, "diffusers rejects vae.config.*blocks"),
        ({"block_out_channels": 16}, "must be a list"),
        ({"in_channels": 1}, "to another number than 3"),
        ({"down_block_types": ["NoBlock"] * 3}, "diffusers rejects vae.config"),
    ],
)
def test_a_config_that_cannot_work_is_refused(config: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        fit(job_of(tmp_path, config=config))


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    from builders.models import kl_folder, tiny_folder

    with pytest.raises(ConfigError, match="AutoencoderTiny, but train-vae needs an AutoencoderKL"):
        Autoencoder(job_of(tmp_path, model=str(tiny_folder(tmp_path / "tiny"))), place())
    with pytest.raises(ModelError, match=r"vae\.model"):
        Autoencoder(job_of(tmp_path, model=str(tmp_path / "nothing")), place())
    given = kl_folder(tmp_path / "kl")
    figures = fit(job_of(tmp_path / "run", model=str(given), steps=1))
    config = json.loads((tmp_path / "run" / "vae" / "config.json").read_text())
    assert config["shift_factor"] != json.loads((given / "config.json").read_text())["shift_factor"]
    assert config["scaling_factor"] == figures["scaling_factor"] != 0.5
