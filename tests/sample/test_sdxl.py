"""A U-Net that is told sizes and pooled text: trained here, drawn by `sample` and by the plain SDXL pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from builders.models import sdxl_folder
from builders.runs import encoded, tiny_workflow, trained_here

from daskt2i.config.settings import Workflow
from daskt2i.executors.serial import SerialExecutor
from daskt2i.model.own_encoders import OwnEncoders, how_drawn
from daskt2i.model.pipeline import alone
from daskt2i.model.pipeline_forms import form_of
from daskt2i.sample.driver import requests_for, sample
from daskt2i.sample.painter import Painter, SampleRequest, SamplerSettings
from daskt2i.store.run_folder import RunFolder

PROMPT, STEPS, GUIDANCE = "a red dog", 3, 4.0
LOOK = SamplerSettings(STEPS, GUIDANCE, "dpm++", 2)
XL = "{addition_embed_type: text_time, addition_time_embed_dim: 8, block_out_channels: [16, 32, 32]}"
JOINT = "daskt2i.encoders.joint.text.JointTextEncoder"


def trained_with(out: Path, *encoders: str) -> Workflow:
    """A run folder whose U-Net was trained for three steps."""
    encoded(out, *encoders)
    workflow = tiny_workflow(*encoders, f"train.model.config={XL}")
    assert trained_here(workflow, out).steps == 3
    return workflow


@pytest.fixture(scope="module", params=["full", "length"])
def joined(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Workflow]:
    """Text states of both models of an SDXL repository, with and without padding."""
    place = tmp_path_factory.mktemp("sdxl")
    base, pad = sdxl_folder(place / "tiny-sdxl"), request.param
    text = f"dataset.encoders.text={{class: {JOINT}, model: {base}, kind: sdxl, pad: {pad}}}"
    return place / "run", trained_with(place / "run", text)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Workflow]:
    """Text states of one CLIP model, which a StableDiffusionXLPipeline cannot hold."""
    out = tmp_path_factory.mktemp("other") / "run"
    return out, trained_with(out, "dataset.encoders.text.pad=full")


def pixels(picture: Any) -> Any:
    return (np.asarray(picture) * 255).round()


def test_the_plain_pipeline_reads_the_prompt_and_draws_what_sample_draws(joined: tuple[Path, Workflow]) -> None:
    out, workflow = joined
    place = out / "pipeline"
    assert alone(RunFolder(out)) is None
    assert how_drawn(workflow.dataset, form_of("StableDiffusionXLPipeline")) == ""
    requests = [SampleRequest("", 3), SampleRequest(PROMPT, 7)]
    empty, ours = (one.pixels for one in Painter(place).paint(requests, LOOK))
    pipe = diffusers.DiffusionPipeline.from_pretrained(place, use_safetensors=True, add_watermarker=False)
    assert type(pipe).__name__ == "StableDiffusionXLPipeline"
    pipe.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "np"}
    plain = pixels(pipe(PROMPT, generator=torch.Generator().manual_seed(7), **how).images[0])
    masked = workflow.dataset.encoders.text.arguments["pad"] == "length"
    assert (abs(plain - ours).max() <= 1) != masked  # the plain pipeline has no mask
    assert abs(ours.astype(int) - empty).max() > 10


def test_other_encoders_draw_through_the_workflow_what_the_plain_pipeline_draws(other: tuple[Path, Workflow]) -> None:
    out, workflow = other
    encoders = OwnEncoders(workflow.dataset, "cpu", 1)
    assert "a StableDiffusionXLPipeline needs a JointTextEncoder of kind sdxl" in str(alone(RunFolder(out)))
    ours = next(iter(Painter(out / "pipeline", encoders=encoders).paint([SampleRequest(PROMPT, 7)], LOOK))).pixels
    unet = diffusers.UNet2DConditionModel.from_pretrained(out / "pipeline" / "unet", use_safetensors=True)
    scheduler = diffusers.DPMSolverMultistepScheduler.from_pretrained(out / "pipeline" / "scheduler")
    none = dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipe = diffusers.StableDiffusionXLPipeline(unet=unet, scheduler=scheduler, add_watermarker=False, **none)
    pipe.set_progress_bar_config(disable=True)
    texts = ["", PROMPT]
    states, pooled = torch.from_numpy(encoders.states(texts)[0]), torch.from_numpy(encoders.pooled(texts))  # type: ignore[arg-type]
    side = workflow.dataset.image.side
    latents = pipe(
        prompt_embeds=states[1:],
        negative_prompt_embeds=states[:1],
        pooled_prompt_embeds=pooled[1:],
        negative_pooled_prompt_embeds=pooled[:1],
        original_size=(side, side),
        target_size=(side, side),
        latents=torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(7)),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="latent",
    ).images
    plain = encoders.pictures(latents.numpy())[0]
    assert abs(plain.astype(int) - ours).max() <= 1
    assert plain.std() > 1


def test_sizes_and_pooled_text_change_the_picture(other: tuple[Path, Workflow]) -> None:
    out, workflow = other
    painter = Painter(out / "pipeline", encoders=OwnEncoders(workflow.dataset, "cpu", 1))
    heard: list[dict[str, torch.Tensor]] = []
    forward = painter._denoiser.forward

    def hear(*args: Any, **kwargs: Any) -> Any:
        heard.append(kwargs["added_cond_kwargs"])
        return forward(*args, **kwargs)

    painter._denoiser.forward = hear
    list(painter.paint([SampleRequest(PROMPT, 7), SampleRequest("a blue square", 8)], LOOK))
    side = float(workflow.dataset.image.side)
    assert heard[0]["time_ids"].tolist() == [[side, side, 0, 0, side, side]] * 4
    pooled = heard[0]["text_embeds"]
    assert torch.equal(pooled[0], pooled[1])  # the empty prompt
    assert not torch.equal(pooled[2], pooled[3])


def test_the_stage_draws_with_such_a_model(other: tuple[Path, Workflow]) -> None:
    out, workflow = other
    made = sample(RunFolder(out), requests_for([PROMPT], 1), LOOK, SerialExecutor(), dataset=workflow.dataset)
    assert made.images[0].size == (64, 64)
