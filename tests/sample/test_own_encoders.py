"""Encoders that diffusers cannot load: a model that was trained on their latents draws through their own methods."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.models import bert_folder
from builders.runs import trained_here
from builders.workflows import component, fake_settings, finish, with_parts

import daskt2i
from daskt2i.config.settings import Workflow
from daskt2i.encode.verify import verify
from daskt2i.errors import ConfigError, FingerprintMismatch, ModelMissing
from daskt2i.evaluation.driver import evaluate
from daskt2i.events import Event, Note, Progress
from daskt2i.executors.serial import SerialExecutor
from daskt2i.loader.dataset import LatentDataset
from daskt2i.model.own_encoders import OwnEncoders
from daskt2i.model.pipeline import load
from daskt2i.sample.driver import requests_for, sample
from daskt2i.sample.painter import SamplerSettings
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import ArraySpec, EncoderInfo, Pixels, Runtime

SIDE, REDUCTION = 32, 4
LOOK = SamplerSettings(steps=2, guidance=2.0, sampler="dpm++", batch=2)
PROMPTS = ["a red circle in the middle of a white picture", "a large yellow star on a blue background"]


class Folded:
    """Latents of 48 channels: the pixels of a square of 4 x 4, moved and stretched, as TAEF2's are."""

    def info(self, resolution: int) -> EncoderInfo:
        side, channels = resolution // REDUCTION, 3 * REDUCTION**2
        array = ArraySpec(
            "latent_mean", ("channel", "y", "x"), (channels, side, side), "float16", "nan", "folded pixels"
        )
        attributes = {"class": "Folded", "scaling_factor": 0.5, "shift_factor": 0.25, "latent_values": "raw"}
        return EncoderInfo((array,), "none", attributes, False, 0, 1)

    def load(self, runtime: Runtime) -> None:
        self.loaded = True

    def encode(self, items: Pixels, batch: int) -> dict[str, Any]:
        assert self.loaded
        n, side = len(items), items.shape[1] // REDUCTION
        squares = items.reshape(n, side, REDUCTION, side, REDUCTION, 3).transpose(0, 2, 4, 5, 1, 3)
        return {"latent_mean": (squares.reshape(n, -1, side, side) / 127.5 - 1).astype(np.float16)}

    def decode(self, arrays: Any) -> Pixels | None:
        assert self.loaded
        values = arrays["latent_mean"].astype(np.float32)
        n, _, side, _ = values.shape
        squares = values.reshape(n, REDUCTION, REDUCTION, 3, side, side).transpose(0, 4, 1, 5, 2, 3)
        pixels = squares.reshape(n, side * REDUCTION, side * REDUCTION, 3)
        return np.clip(np.rint((pixels + 1) * 127.5), 0, 255).astype(np.uint8)


class OneWay(Folded):
    """It cannot decode."""

    def decode(self, arrays: Any) -> Pixels | None:
        return None


def workflow(folder: Path, image: str = "Folded", **train: Any) -> Workflow:
    """Own latents, and the text states of a BERT."""
    found = with_parts(
        fake_settings(rows=12, rows_per_chunk=4, resolution=SIDE, gate_rows=1),
        image=component(f"sample.test_own_encoders.{image}"),
        text=component("daskt2i.encoders.text.TextEncoder", model=str(folder)),
    )
    model = {"config": {"block_out_channels": [16, 16, 16]}}
    settings = {"steps": 2, "batch": 4, "validation": 4, "warmup": 0, "learning_rate": 0.02, "ema": 0, "model": model}
    return found.model_copy(update={"train": type(found.train).model_validate({**settings, **train})})


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def trained(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workflow, RunFolder]:
    """Encoded and trained for two steps."""
    out = tmp_path_factory.mktemp("own") / "run"
    settings = workflow(bert)
    assert not finish(settings, out).failed
    trained_here(settings, out)
    return settings, RunFolder(out)


def test_a_model_on_own_encoders_is_encoded_trained_drawn_judged_and_verified(
    trained: tuple[Workflow, RunFolder],
) -> None:
    settings, folder = trained
    assert verify(folder, settings, trusted=True).ok
    drawn = sample(folder, requests_for(PROMPTS, 3), LOOK, SerialExecutor(), "cpu", dataset=settings.dataset)
    assert [image.size for image in drawn.images] == [(SIDE, SIDE)] * 2
    alone = sample(folder, requests_for(PROMPTS[1:], 4), LOOK, SerialExecutor(), "cpu", dataset=settings.dataset)
    difference = np.asarray(alone.images[0]).astype(int) - np.asarray(drawn.images[1])
    assert np.abs(difference).max() > 0, "another seed"
    requests = requests_for(PROMPTS, 3)[1:]
    same = sample(folder, requests, LOOK, SerialExecutor(), "cpu", dataset=settings.dataset)
    difference = np.asarray(same.images[0]).astype(int) - np.asarray(drawn.images[1])
    assert np.abs(difference).max() <= 1, "the same prompt and seed in another batch"
    judged = evaluate(settings, folder, SerialExecutor, PROMPTS)
    assert judged.prompts == 2
    assert folder.exists("reports/evaluate.png")


def test_a_prompt_that_is_too_long_is_told(trained: tuple[Workflow, RunFolder]) -> None:
    settings, folder = trained
    told: list[Event] = []
    requests = requests_for(["a circle " * 300, PROMPTS[0]], 3)
    sample(folder, requests, LOOK, SerialExecutor(), "cpu", told.append, settings.dataset)
    notes = [event.text for event in told if isinstance(event, Note)]
    assert len(notes) == 1
    kinds = [type(event) for event in told]
    assert kinds.index(Note) < kinds.index(Progress), "before the first picture"
    assert notes[0].startswith("1 of 2 prompts is longer than what the text encoder reads, so its end does not count")
    assert notes[0].endswith("…', which is cut after 'a circle a circle'.")
    assert len(notes[0]) < 200


def test_the_decoder_gets_latents_as_the_store_holds_them(trained: tuple[Workflow, RunFolder]) -> None:
    settings, folder = trained
    data = LatentDataset(folder, seed=0, batch=4, heldout=4)
    batch = next(data.batches(0))
    data.close()
    stored = daskt2i.open_store(folder.root)["latent_mean"].values[batch.rows]
    found = OwnEncoders(settings.dataset, "cpu", 1).pictures(batch.latents)
    image = Folded()
    image.load(Runtime("cpu", "fp32", 1))
    assert np.abs(found.astype(int) - image.decode({"latent_mean": stored})).max() <= 1


def test_other_encoders_than_those_of_the_store_do_not_draw(
    trained: tuple[Workflow, RunFolder], bert: Path, tmp_path: Path
) -> None:
    _, folder = trained
    other = workflow(bert_folder(tmp_path / "other", seed=1)).dataset
    with pytest.raises(FingerprintMismatch, match="made with other encoders"):
        sample(folder, requests_for(PROMPTS, 3), LOOK, SerialExecutor(), "cpu", dataset=other)
    with pytest.raises(ModelMissing, match="no workflow was given"):
        sample(folder, requests_for(PROMPTS, 5), LOOK, SerialExecutor(), "cpu")
    with pytest.raises(ModelMissing, match=r"holds the denoiser without encoders.*use sample"):
        load(folder)


def test_the_plan_says_how_pictures_will_be_drawn_and_what_cannot_be_drawn(bert: Path, tmp_path: Path) -> None:
    with daskt2i.Run(workflow(bert), out=tmp_path / "run", scheduler="serial") as run:
        run.encode()
        assert re.search(r"through the encoders of the workflow; .*Folded, not a VaeEncoder", str(run.plan("train")))
    one_way = workflow(bert, "OneWay")
    with daskt2i.Run(one_way, out=tmp_path / "one", scheduler="serial") as run:
        with pytest.raises(ConfigError, match=r"could not draw .*OneWay\.decode returns no pictures"):
            run.plan("run")
        run.encode()
        assert "none: OneWay.decode returns no pictures" in str(run.plan("train"))
    heard: list[Event] = []
    trained_here(one_way, tmp_path / "one", heard.append)
    assert any(isinstance(event, Note) and "will not draw" in event.text for event in heard)
    with pytest.raises(ModelMissing, match=r"OneWay\.decode returns no pictures"):
        sample(RunFolder(tmp_path / "one"), requests_for(PROMPTS, 0), LOOK, SerialExecutor(), dataset=one_way.dataset)
