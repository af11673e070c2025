"""`train.times`: a rank draws flow's times so, and it belongs to the identity only if it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.workflows import fake_settings, finish

from daskt2i.config.settings import TrainSettings
from daskt2i.store.layout import about_store
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.denoiser_rank import Denoiser, DenoiserJob
from daskt2i.train.resume import identity_of, plain

MODEL = {"config": {"block_out_channels": [16, 16, 16]}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("times") / "run"
    finish(fake_settings(rows=8, rows_per_chunk=4), folder)
    return folder


def settings(times: dict[str, Any] | None) -> TrainSettings:
    return TrainSettings.model_validate({"steps": 1, "batch": 4, "validation": 2, "times": times, "model": MODEL})


def identity(store: Path, times: dict[str, Any] | None) -> dict[str, Any]:
    stored = about_store(ZarrStore(RunFolder(store)))
    assert stored is not None
    found: dict[str, Any] = json.loads(json.dumps(identity_of(settings(times), stored)))
    return found


def test_a_rank_draws_times_as_the_settings_say(store: Path) -> None:
    whole, asked = fake_settings(rows=8, rows_per_chunk=4), {"kind": "uniform"}
    job = DenoiserJob(
        folder=str(store),
        storage_options=None,
        train=plain(settings(asked)),
        launch=plain(whole.launch),
        identity=identity(store, asked),
        cache_bytes=2**24,
        vae=plain(whole.dataset.encoders.image),
        text=plain(whole.dataset.encoders.text),
        sample=plain(whole.sample),
        batch=4,
    )
    task = Denoiser(job)
    model = task.build("cpu")
    batch = next(iter(task.batches(0)))
    with torch.no_grad():
        _, noised = task.predicted(model, batch)
    task.close()
    assert noised.times.tolist() == pytest.approx((1000 * batch.uniform).tolist())


def test_times_are_in_an_identity_only_if_they_are_given(store: Path) -> None:
    assert "times" not in identity(store, None)["train"]
    given = identity(store, {"std": 1.5})["train"]["times"]
    assert given == {"kind": "logit_normal", "mean": 0.0, "std": 1.5, "scale": 1.29}
