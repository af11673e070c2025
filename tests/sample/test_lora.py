"""Another pipeline draws, and a LoRA is added: the picture is that of diffusers with the same LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from builders.hosts import HostsExecutor
from builders.pipelines import sd_folder, xl_pipeline
from train.test_tuning import drawn_by_diffusers

import daskt2i
from daskt2i.encoders.finding.locate import split_revision
from daskt2i.encoders.weights import quiet
from daskt2i.executors.serial import SerialExecutor
from daskt2i.model.pipeline import scheduler_for
from daskt2i.model.pretrained import lora_files
from daskt2i.sample.driver import requests_for, sample
from daskt2i.sample.other_model import OtherModel
from daskt2i.sample.painter import SamplerSettings
from daskt2i.store.run_folder import RunFolder

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sd_folder(tmp_path_factory.mktemp("base") / "tiny-sd")


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a LoRA of rank 2 that changes each attention of the base."""
    model = diffusers.UNet2DConditionModel.from_pretrained(base / "unet", use_safetensors=True)
    numbers = torch.Generator().manual_seed(1)
    adapters = {
        name.removesuffix(".weight"): (
            torch.randn((2, weight.shape[1]), generator=numbers) / 4,
            torch.randn((weight.shape[0], 2), generator=numbers) / 4,
        )
        for name, weight in model.named_parameters()
        if name.endswith(("to_q.weight", "to_v.weight"))
    }
    folder = tmp_path_factory.mktemp("lora")
    lora_files.write(adapters, 1.0, "unet", folder)
    return folder


def drawn(place: Path, **how: Any) -> Any:
    """The picture that `Run.sample` draws, and whether it was drawn now."""
    with daskt2i.Run("demo", place, scheduler="serial", progress=False) as run:
        made = run.sample(PROMPT, seed=7, steps=3, guidance=2.0, sampler="dpm++", **how)
    return np.asarray(made.images[0]) / 255, made.seconds > 0


def test_a_lora_draws_what_diffusers_draws_with_it(base: Path, lora: Path, tmp_path: Path) -> None:
    for name in (lora_files.FILE, lora_files.KOHYA):
        picture, new = drawn(tmp_path / name, pretrained=base, lora=lora / name)
        assert new
        np.testing.assert_allclose(picture, drawn_by_diffusers(base, lora / name), atol=1 / 255 + 1e-3)
    whole, _ = drawn(tmp_path / lora_files.FILE, pretrained=base, lora=lora)
    np.testing.assert_array_equal(whole, picture)


def test_its_scale_decides_how_much_it_changes_and_each_is_drawn_anew(base: Path, lora: Path, tmp_path: Path) -> None:
    plain, _ = drawn(tmp_path, pretrained=base)
    full, new = drawn(tmp_path, pretrained=base, lora=lora)
    half, newer = drawn(tmp_path, pretrained=base, lora=lora, lora_scale=0.5)
    none, _ = drawn(tmp_path, pretrained=base, lora=lora, lora_scale=0)
    assert new
    assert newer
    assert not drawn(tmp_path, pretrained=base, lora=lora, lora_scale=0)[1]
    np.testing.assert_array_equal(none, plain)
    assert 0 < np.abs(half - plain).mean() < np.abs(full - plain).mean()


def test_a_pretrained_sdxl_draws_what_its_plain_pipeline_draws(tmp_path: Path) -> None:
    base = xl_pipeline(tmp_path / "tiny-xl")
    picture, _ = drawn(tmp_path / "run", pretrained=base)
    with quiet("diffusers", "transformers"):
        pipe = diffusers.DiffusionPipeline.from_pretrained(base, use_safetensors=True, add_watermarker=False)
        pipe.scheduler = scheduler_for(pipe.scheduler.config, "dpm++")
        pipe.set_progress_bar_config(disable=True)
        seed = torch.Generator().manual_seed(7)
        how = {"num_inference_steps": 3, "guidance_scale": 2.0, "generator": seed, "output_type": "np"}
        plain = pipe(PROMPT, **how).images[0]
    np.testing.assert_allclose(picture, plain, atol=1 / 255 + 1e-3)


def test_hosts_without_the_files_get_them_through_the_run_folder_and_draw_the_same(
    base: Path, lora: Path, tmp_path: Path
) -> None:
    other, look = OtherModel(str(base), str(lora / lora_files.KOHYA), 0.5), SamplerSettings(3, 2.0, "dpm++", 1)
    requests = requests_for([PROMPT, "a blue square"], 7)
    sent = HostsExecutor(tmp_path / "hosts", {"node1": [base, lora], "node2": []})
    made = sample(RunFolder(tmp_path / "run"), requests, look, sent, "cpu", other=other, send_bytes=2**30)
    calm = sample(RunFolder(tmp_path / "calm"), requests, look, SerialExecutor(), "cpu", other=other)
    assert set(sent.worked) == {"node1", "node2"}
    for one, same in zip(made.images, calm.images, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(same))
    kept = HostsExecutor(tmp_path / "hosts2", {"node1": [base, lora], "node2": []})
    sample(RunFolder(tmp_path / "less"), requests, look, kept, "cpu", other=other, send_bytes=0)
    assert kept.left_out == {"node1"}


def test_a_hub_id_may_have_a_revision_and_a_folder_has_none(tmp_path: Path) -> None:
    assert split_revision("org/name@v1.0") == ("org/name", "v1.0")
    assert split_revision("org/name") == ("org/name", None)
    (tmp_path / "a@b").mkdir()
    assert split_revision(str(tmp_path / "a@b")) == (str(tmp_path / "a@b"), None)
