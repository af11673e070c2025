"""A trained transformer draws in the plain pipeline of its class what `sample` draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from builders.denoisers import TRANSFORMERS
from builders.runs import encoded, tiny_workflow, trained_here

from daskt2i.config.settings import Workflow
from daskt2i.model.own_encoders import OwnEncoders
from daskt2i.model.pipeline import alone
from daskt2i.sample.painter import Painter, SampleRequest, SamplerSettings
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.resume import identity_of

PROMPTS = ("a red circle", "a small blue square left of a green triangle")
STEPS, GUIDANCE = 3, 4.0


def sets(name: str) -> list[str]:
    return [f"train.model={{class: diffusers.{name}, config: {TRANSFORMERS[name]}}}", "train.shift=2", *PADS[name]]


PADS = {name: [f"dataset.encoders.text.pad={'full' if name.startswith('SD3') else 'length'}"] for name in TRANSFORMERS}


@pytest.fixture(scope="module", params=TRANSFORMERS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Workflow, Path]:
    """A class, its workflow, and a run folder with a pipeline that was trained for three steps."""
    name, out = request.param, tmp_path_factory.mktemp("transformers") / "run"
    encoded(out, *PADS[name])
    workflow = tiny_workflow(*sets(name))
    result = trained_here(workflow, out)
    assert result.steps == 3
    assert result.loss is not None
    return name, workflow, out


def conditions(encoders: OwnEncoders, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    states, mask = encoders.states(texts)
    pooled = encoders.pooled(texts)
    return torch.from_numpy(states), torch.from_numpy(mask), None if pooled is None else torch.from_numpy(pooled)


def plain(name: str, out: Path, encoders: OwnEncoders, number: int) -> Any:
    """Latents of one picture, as a user of diffusers draws it with the states of a prompt."""
    folder = out / "pipeline"
    transformer = getattr(diffusers, name).from_pretrained(folder / "transformer", use_safetensors=True)
    dpm = name.startswith("Sana")
    kind = diffusers.DPMSolverMultistepScheduler if dpm else diffusers.FlowMatchEulerDiscreteScheduler
    scheduler = kind.from_pretrained(folder / "scheduler")
    states, mask, pooled = conditions(encoders, ["", PROMPTS[number]])
    call: dict[str, Any] = {"prompt_embeds": states[1:], "negative_prompt_embeds": states[:1]}
    none: dict[str, Any] = {"vae": None, "text_encoder": None, "tokenizer": None}
    if name == "SD3Transformer2DModel":
        assert pooled is not None
        call |= {"pooled_prompt_embeds": pooled[1:], "negative_pooled_prompt_embeds": pooled[:1]}
        none |= {"text_encoder_2": None, "tokenizer_2": None, "text_encoder_3": None, "tokenizer_3": None}
        pipe = diffusers.StableDiffusion3Pipeline(transformer=transformer, scheduler=scheduler, **none)
    else:
        call |= {"prompt_attention_mask": mask[1:], "negative_prompt_attention_mask": mask[:1]}
    if name == "Lumina2Transformer2DModel":
        pipe = diffusers.Lumina2Pipeline(transformer=transformer, scheduler=scheduler, **none)
    if name == "SanaTransformer2DModel":
        call |= {"use_resolution_binning": False, "negative_prompt": None}
        pipe = diffusers.SanaPipeline(transformer=transformer, scheduler=scheduler, **none)
    if name == "PRXTransformer2DModel":
        call["use_resolution_binning"] = False
        pipe = diffusers.PRXPipeline(transformer=transformer, scheduler=scheduler, **none)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(number))
    side = 16 * pipe.vae_scale_factor
    return pipe(
        **call,
        latents=noise,
        height=side,
        width=side,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="latent",
    ).images


@pytest.mark.filterwarnings("ignore:`LoraLoaderMixin` is deprecated:FutureWarning")  # PRXPipeline's own
def test_the_plain_pipeline_draws_what_sample_draws(run: tuple[str, Workflow, Path]) -> None:
    name, workflow, out = run
    folder, encoders = RunFolder(out), OwnEncoders(workflow.dataset, "cpu", 1)
    painter = Painter(out / "pipeline", encoders=encoders if alone(folder) else None)
    requests = [SampleRequest(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    drawn = list(painter.paint(requests, SamplerSettings(STEPS, GUIDANCE, "dpm++", 2)))
    for number, picture in enumerate(drawn):
        latents = plain(name, out, encoders, number)
        pixels = encoders.pictures(latents.numpy())[0]
        np.testing.assert_allclose(picture.pixels / 255, pixels / 255, atol=0.005)  # a step of 255
        assert pixels.std() > 1
    assert np.abs(drawn[0].pixels.astype(int) - drawn[1].pixels).max() > 10


def test_the_class_stands_in_the_identity_and_the_folder(run: tuple[str, Workflow, Path]) -> None:
    name, workflow, out = run
    stored = {"fingerprint": "f", "text_encoder": {"pad": "full"}, "identity": {"encoders": {"text": {}}}}
    assert identity_of(workflow.train, stored)["train"]["model"]["class"] == f"diffusers.{name}"
    again = trained_here(workflow, out)
    assert again.ranks == 0  # nothing was left to do
