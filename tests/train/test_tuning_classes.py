"""Pipelines of other classes than Stable Diffusion are tuned: loss falls, the export and the LoRA open in diffusers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from builders.pipelines import hashes, pixart_pipeline, sd3_pipeline, xl_pipeline
from builders.runs import encoded, tiny_workflow, trained_here

from daskt2i.config.settings import Workflow
from daskt2i.encoders.weights import quiet
from daskt2i.model.own_encoders import OwnEncoders
from daskt2i.model.pipeline import alone, scheduler_for
from daskt2i.model.pretrained import lora_files, tuning
from daskt2i.model.pretrained.pipeline_folder import find
from daskt2i.sample.painter import Painter, SampleRequest, SamplerSettings
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.metrics import read_metrics

JOINT = "daskt2i.encoders.joint.text.JointTextEncoder"
TEXT = "daskt2i.encoders.text.TextEncoder"
BASES: Mapping[str, Callable[[Path], Path]] = {"xl": xl_pipeline, "sd3": sd3_pipeline, "pixart": pixart_pipeline}
CAPTIONS = {
    "xl": f"{{class: {JOINT}, kind: sdxl, pad: full, model: BASE}}",
    "sd3": f"{{class: {JOINT}, kind: sd3, max_tokens: 16, model: BASE}}",
    "pixart": f"{{class: {TEXT}, subfolder: text_encoder, max_tokens: 32, model: BASE}}",
}
OBJECTIVES = {"xl": "epsilon", "sd3": "flow", "pixart": "epsilon"}
TUNED = (
    "launch.validation_every=2",
    "train.steps=6",
    "train.learning_rate=0.003",
    "train.final_rate=1",
    "train.ema=0.9",
    "launch.threads=1",
)
LORA = ("train.pretrained.method=lora", "train.pretrained.lora.rank=2", "train.pretrained.lora.alpha=4")
LAYERS = ("train.pretrained.method=layers", "train.pretrained.layers=['*attn*']")
LOOK = SamplerSettings(steps=3, guidance=2.0, sampler="dpm++", batch=1)
PROMPT = "a red circle"


@pytest.fixture(scope="module", params=BASES)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A class, a base of it, and a run folder that its encoders encoded."""
    place = tmp_path_factory.mktemp(request.param)
    base = BASES[request.param](place / "base")
    encoded(place / "run", f"dataset.encoders.text={CAPTIONS[request.param].replace('BASE', str(base))}")
    return request.param, base, place / "run"


def tuned(store: tuple[str, Path, Path], out: Path, *more: str) -> Workflow:
    """The workflow of a training of six steps that has ended in this run folder."""
    name, base, encoded_in = store
    shutil.copytree(encoded_in, out)
    captions = f"dataset.encoders.text={CAPTIONS[name].replace('BASE', str(base))}"
    given = f"train.objective={OBJECTIVES[name]}", f"train.pretrained.model={base}", "train.model.config={}"
    workflow = tiny_workflow(*TUNED, *given, captions, *more)
    trained_here(workflow, out)
    curve = [line["heldout_loss"] for line in read_metrics(RunFolder(out)) if "heldout_loss" in line]
    assert len(curve) > 1
    assert curve[-1] < curve[0]  # batches of four samples say too little
    return workflow


def denoiser_of(place: Path, name: str) -> Any:
    part = "unet" if name == "xl" else "transformer"
    kind = {"xl": "UNet2DConditionModel", "sd3": "SD3Transformer2DModel", "pixart": "PixArtTransformer2DModel"}[name]
    return getattr(diffusers, kind).from_pretrained(place / part, use_safetensors=True)


def drawn_by_diffusers(place: Path, lora: Path | None = None) -> Any:
    """The picture of the plain pipeline of a whole folder, with the sampler of `sample`."""
    less = {"text_encoder_3": None, "tokenizer_3": None} if (place / "text_encoder_3").exists() else {}
    with quiet("diffusers", "transformers"):
        pipe = diffusers.DiffusionPipeline.from_pretrained(place, use_safetensors=True, **less)
        pipe.scheduler = scheduler_for(pipe.scheduler.config, "dpm++")
        pipe.set_progress_bar_config(disable=True)
        if lora is not None:
            pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
        seed = torch.Generator().manual_seed(7)
        how = {"num_inference_steps": 3, "guidance_scale": 2.0, "generator": seed, "output_type": "np"}
        return pipe(PROMPT, negative_prompt="", height=64, width=64, **how).images[0]


def painted(out: Path, workflow: Workflow) -> Any:
    """The picture that `sample` draws with the tuned pipeline."""
    encoders = OwnEncoders(workflow.dataset, "cpu", 1) if alone(RunFolder(out)) else None
    return next(iter(Painter(out / "pipeline", encoders=encoders).paint([SampleRequest(PROMPT, 7)], LOOK))).pixels / 255


@pytest.mark.parametrize("method", [(), pytest.param(LAYERS, marks=pytest.mark.slow)], ids=["full", "layers"])
def test_loss_falls_the_export_loads_and_the_base_stays(
    store: tuple[str, Path, Path], tmp_path: Path, method: tuple[str, ...]
) -> None:
    name, base, _ = store
    before = hashes(base)
    workflow = tuned(store, tmp_path / "run", *method)
    assert hashes(base) == before
    now, then = (denoiser_of(place, name).state_dict() for place in (tmp_path / "run" / "pipeline", base))
    changed = {key for key, value in now.items() if not torch.equal(value, then[key])}
    assert all("attn" in key for key in changed) if method else len(changed) > len(then) // 2
    assert changed
    ours = painted(tmp_path / "run", workflow)
    assert ours.std() > 0.01
    if name == "xl":
        np.testing.assert_allclose(drawn_by_diffusers(tmp_path / "run" / "pipeline"), ours, atol=1 / 255 + 1e-3)


def test_a_lora_on_the_base_is_the_merged_pipeline(store: tuple[str, Path, Path], tmp_path: Path) -> None:
    name, base, _ = store
    out = tmp_path / "run"
    workflow = tuned(store, out, *LORA)
    assert workflow.train.pretrained is not None
    given, merged = find(workflow.train.pretrained), denoiser_of(out / "pipeline", name).state_dict()
    model = denoiser_of(base, name)
    lora_files.add(lora_files.read(out / "lora"), model, given.part, out / "lora", given.name)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, merged[key], rtol=1e-5, atol=1e-6)
    assert (out / "lora" / lora_files.KOHYA).exists() == (name == "xl")
    if name == "pixart":
        return  # its pipeline in diffusers reads no LoRA
    plain = drawn_by_diffusers(base)
    files = [lora_files.FILE, *([lora_files.KOHYA] if name == "xl" else [])]
    model.save_pretrained(tmp_path / "merged" / given.part)
    for part in base.iterdir():
        if part.name != given.part:
            (shutil.copytree if part.is_dir() else shutil.copyfile)(part, tmp_path / "merged" / part.name)  # type: ignore[operator]
    whole = drawn_by_diffusers(tmp_path / "merged")
    for file in files:
        np.testing.assert_allclose(drawn_by_diffusers(base, out / "lora" / file), whole, atol=1e-3)
    assert np.abs(whole - plain).max() > 0.005


def test_the_cost_is_what_a_training_trains(store: tuple[str, Path, Path]) -> None:
    name, base, _ = store
    workflow = tiny_workflow(f"train.pretrained.model={base}", *LORA)
    assert workflow.train.pretrained is not None
    given, model = find(workflow.train.pretrained), denoiser_of(base, name)
    tuning.choose(model, workflow.train.pretrained, given.name, 0)
    assert tuning.cost_of(given).trained == sum(value.numel() for value in tuning.trained(model).values())
