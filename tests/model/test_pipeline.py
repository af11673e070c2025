"""Training writes a diffusers folder: another program draws the same pictures with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.models import clip_folder, dc_folder, kl_folder
from builders.workflows import child_environment
from diffusers import AutoencoderKL, StableDiffusionPipeline

import daskt2i
from daskt2i.encoders.export import export_text, export_vae, unfit
from daskt2i.encoders.fake import FakeImageEncoder
from daskt2i.encoders.text import TextEncoder
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.encoders.weights import quiet
from daskt2i.errors import ModelError, ModelMissing
from daskt2i.model.pipeline import INDEX, about, exists, local, preview
from daskt2i.sample.painter import Painter, SampleRequest, SamplerSettings
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Runtime

ELSEWHERE = """
import sys
import numpy as np, torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
torch.set_num_threads(1)
pipe.set_progress_bar_config(disable=True)
picture = pipe("a red circle on a blue background", generator=torch.Generator().manual_seed(7),
               num_inference_steps=4, guidance_scale=3.0).images[0]
np.save(sys.argv[2], np.asarray(picture))
assert not any(name.startswith("daskt2i") for name in sys.modules)
"""


def test_a_script_that_only_uses_diffusers_draws_the_same_picture(demo_run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ELSEWHERE, str(demo_run / "pipeline"), str(tmp_path / "picture.npy")]
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    theirs = np.load(tmp_path / "picture.npy").astype(int)
    wish = SampleRequest("a red circle on a blue background", 7)
    (ours,) = Painter(demo_run / "pipeline").paint([wish], SamplerSettings(4, 3.0, "dpm++", 1))
    assert ours.pixels.shape == (64, 64, 3)
    assert abs(theirs - ours.pixels.astype(int)).max() <= 1
    assert ours.pixels.std() > 5


def test_the_pipeline_makes_the_text_states_that_the_denoiser_was_trained_on(demo_run: Path) -> None:
    store = daskt2i.open_store(demo_run)
    with quiet():
        pipe = StableDiffusionPipeline.from_pretrained(str(demo_run / "pipeline"))
    captions = [str(store["caption"].values[3, slot]) for slot in (0, 4)]
    states, empty = pipe.encode_prompt(captions, "cpu", 1, True)
    for made, slot in zip(states, (0, 4), strict=True):
        stored = store["text_states"].values[3, slot].astype(np.float32)
        assert np.abs(made.detach().numpy() - stored).max() < 0.01
    assert np.abs(empty[0].detach().numpy() - store["empty_text_states"].values.astype(np.float32)).max() < 0.01


def test_the_folder_holds_no_path_of_this_machine_and_records_what_it_was_trained_on(demo_run: Path) -> None:
    for path in (demo_run / "pipeline").rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert str(demo_run) not in text
        assert str(Path(daskt2i.__file__).parent) not in text
    said = about(RunFolder(demo_run))
    assert said["objective"] == "flow"
    assert not said["masked"]
    assert said["identity"]["train"]["steps"] == 3
    assert json.loads((demo_run / "pipeline" / INDEX).read_text())["_class_name"] == "StableDiffusionPipeline"


def test_without_its_index_there_is_no_pipeline(demo_run: Path, tmp_path: Path) -> None:
    shutil.copytree(demo_run / "pipeline", tmp_path / "pipeline")
    folder = RunFolder(tmp_path)
    assert exists(folder)
    (tmp_path / "pipeline" / INDEX).unlink()
    assert not exists(folder)
    with pytest.raises(ModelError, match=r"is damaged: model_index.json is missing.*train again"), local(folder):
        pass
    shutil.rmtree(tmp_path / "pipeline")
    with pytest.raises(ModelMissing, match=r"There is no trained pipeline.*Train first"), local(folder):
        pass


@pytest.mark.parametrize("quant", [True, False], ids=["with quant_conv", "without"])
@pytest.mark.parametrize("kind", ["shift_factor", "latents_mean and latents_std"])
def test_a_shift_of_the_latents_goes_into_the_weights(kind: str, quant: bool, tmp_path: Path) -> None:
    """`StableDiffusionPipeline` divides by scaling_factor, and has no shift."""
    layers = {"use_quant_conv": quant, "use_post_quant_conv": quant}
    by_channel = {"latents_mean": [0.3, -0.2, 0.1, 0.5], "latents_std": [0.8, 1.5, 1.0, 0.6], "shift_factor": None}
    place = kl_folder(tmp_path / "vae", **layers, **(by_channel if kind != "shift_factor" else {}))
    before = AutoencoderKL.from_pretrained(str(place))
    export_vae(VaeEncoder(str(place)), tmp_path / "out")
    after = AutoencoderKL.from_pretrained(str(tmp_path / "out"))
    mean = torch.tensor(by_channel["latents_mean"] if kind != "shift_factor" else [0.1] * 4)[:, None, None]
    std = torch.tensor(by_channel["latents_std"] if kind != "shift_factor" else [1.0] * 4)[:, None, None]
    assert [after.config[key] for key in ("shift_factor", "latents_mean", "latents_std")] == [None] * 3
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        z, u = before.encode(pixels).latent_dist, after.encode(pixels).latent_dist
        torch.testing.assert_close(u.mean, (z.mean - mean) / std, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(u.std, z.std / std, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after.decode(u.mean).sample, before.decode(z.mean).sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel"])
def test_only_the_text_tower_is_exported_from_each_kind_of_repository(kind: str, tmp_path: Path) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    encoder = TextEncoder(str(clip_folder(tmp_path / "clip", kind)), max_tokens=12, pad="full")
    export_text(encoder, tmp_path / "text", tmp_path / "tokenizer")
    with quiet():
        model = CLIPTextModel.from_pretrained(str(tmp_path / "text"))
        tokenizer = CLIPTokenizer.from_pretrained(str(tmp_path / "tokenizer"))
    given = tokenizer(["a red dog"], padding="max_length", truncation=True, return_tensors="pt")
    assert given.input_ids.shape == (1, 12)
    encoder.load(Runtime("cpu", "fp32", 1))
    stored = encoder.encode(["a red dog"], 1)["text_states"]
    made = model(given.input_ids)[0].detach().numpy()
    assert np.abs(made - stored.astype(np.float32)).max() < 0.01
    from safetensors import safe_open

    with safe_open(str(tmp_path / "text" / "model.safetensors"), "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118


def test_encoders_that_do_not_fit_a_stable_diffusion_pipeline_are_named(tmp_path: Path) -> None:
    vae, clip = VaeEncoder(str(kl_folder(tmp_path / "vae"))), TextEncoder(str(clip_folder(tmp_path / "clip")))
    assert unfit(vae, clip) is None
    assert "FakeImageEncoder" in str(unfit(FakeImageEncoder(), clip))
    assert "layer -2" in str(unfit(vae, TextEncoder(clip.model, layer=-2)))
    assert "is an AutoencoderDC" in str(unfit(VaeEncoder(str(dc_folder(tmp_path / "dc"))), clip))
    assert "an instruction" in str(unfit(vae, TextEncoder(clip.model, instruction="draw ")))
    assert "lower case" in str(unfit(vae, TextEncoder(clip.model, lowercase=True)))


def test_the_preview_is_a_small_version_of_the_picture_that_the_autoencoder_decodes(demo_run: Path) -> None:
    store = daskt2i.open_store(demo_run)
    with quiet():
        vae = AutoencoderKL.from_pretrained(str(demo_run / "pipeline" / "vae"))
    raw = torch.from_numpy(store["latent_mean"].values.astype(np.float32))
    seen = preview(raw * vae.config.scaling_factor, about(RunFolder(demo_run))).astype(float)
    with torch.no_grad():
        decoded = torch.nn.functional.avg_pool2d(vae.decode(raw).sample, 4).clamp(-1, 1)
    small = ((decoded.permute(0, 2, 3, 1).numpy() + 1) * 127.5).astype(float)
    assert seen.shape == small.shape
    assert np.abs(seen - small).mean() < 25
    assert preview(torch.zeros(2, 4, 3, 3), {}).shape == (2, 3, 3, 3)
