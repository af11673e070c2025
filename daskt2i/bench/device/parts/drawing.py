"""Drawing on one device: pictures/s of our painter, beside the loop of diffusers' `StableDiffusionPipeline`.

Covers: the demo's pipeline and one of Stable Diffusion 1.5's size, both with a random denoiser; diffusers in fp32, bf16
and fp16. All ways of a group take turns, with the same sampler, steps, guidance and prompts.
Does not cover: what the pictures show: the denoisers are random.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from daskt2i.bench.device.clock import NO_TIME, Clock, Way, why_not
from daskt2i.bench.device.parts.encoders import write
from daskt2i.bench.device.recorder import Recorder
from daskt2i.bench.device.sizes import Drawing, Sizes, image_component, text_component
from daskt2i.bench.report import Value
from daskt2i.bench.sample import PROMPT
from daskt2i.encoders.weights import quiet
from daskt2i.errors import ConfigError
from daskt2i.model import pipeline
from daskt2i.model.denoisers import unet as model
from daskt2i.protocols import ImageEncoder, TextEncoder
from daskt2i.sample.painter import Painter, SampleRequest, SamplerSettings
from daskt2i.store.run_folder import PIPELINE, RunFolder

GUIDANCE = 3.0


def measure(sizes: Sizes, clock: Clock, record: Recorder, folder: Path) -> None:
    """Record the lines of each pipeline. `folder` gets the pipelines, which are removed again."""
    for wanted in sizes.drawings:
        key: dict[str, Value] = {"model": wanted.name, "unit": "pictures", "px": wanted.side}
        if record.left() <= 0:
            record.cell(key, NO_TIME)
            continue
        place = folder / f"draw-{wanted.name}"
        try:
            path = write_pipeline(wanted, place)
        except Exception as error:
            record.cell(key, why_not(error))
            continue
        made = _loaded(path, clock)
        for batch in wanted.batches:
            ways = [_way({**key, "batch": batch}, *one, batch, sizes.steps) for one in made]
            clock.take_turns(ways, sizes.rounds, 0.0, record.left)
            write(ways, record)
        del made, ways
        clock.free()
        shutil.rmtree(place, ignore_errors=True)


def write_pipeline(wanted: Drawing, place: Path) -> Path:
    """Write a diffusers pipeline with a random denoiser, as training writes it. Returns its folder."""
    image, text = image_component(wanted.image), text_component(wanted.text)
    info = image.build(ImageEncoder, "dataset.encoders.image").info(wanted.side)
    latent = info.arrays[0].shape
    features = text.build(TextEncoder, "dataset.encoders.text").info().attributes["features"]
    config = model.unet_config(wanted.preset, {}, (latent[0], latent[1], latent[2]), int(features))
    folder = RunFolder(str(place))
    about = {"objective": "flow", "masked": False, "random": True}
    pipeline.publish(
        folder,
        model.build(config, 0),
        image.model_dump(by_alias=True),
        text.model_dump(by_alias=True),
        pipeline.scheduler_config("flow"),
        about,
        np.zeros((0, *latent), np.float32),
    )
    return folder.local_path(PIPELINE)


Draw = Callable[[int, int], Any]
"""(batch, steps) -> draws."""


def _loaded(path: Path, clock: Clock) -> list[tuple[str, str, Draw | BaseException]]:
    """Our painter and the pipelines of diffusers: way, precision, and how it draws, or why it cannot."""
    made: list[tuple[str, str, Draw | BaseException]] = []
    for way, precision in (("diffusers", "fp32"), ("daskt2i", "fp32"), ("diffusers", "bf16"), ("diffusers", "fp16")):
        try:
            draw = _painter(path, clock) if way == "daskt2i" else _pipeline(path, precision, clock)
        except Exception as error:
            clock.free()
            made.append((way, precision, error))
            continue
        made.append((way, precision, draw))
    return made


def _painter(path: Path, clock: Clock) -> Draw:
    painter = Painter(path, clock.device, clock.threads)

    def draw(batch: int, steps: int) -> None:
        requests = [SampleRequest(PROMPT, seed) for seed in range(batch)]
        list(painter.paint(requests, SamplerSettings(steps, GUIDANCE, "dpm++", batch)))

    return draw


def _pipeline(path: Path, precision: str, clock: Clock) -> Draw:
    import torch
    from diffusers import StableDiffusionPipeline

    if precision == "fp16" and not clock.gpu:
        raise ConfigError("fp16 does not run on a CPU.")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with quiet("transformers", "diffusers"):
        pipe: Any = StableDiffusionPipeline.from_pretrained(
            str(path), use_safetensors=True, local_files_only=True, torch_dtype=dtype
        ).to(clock.device)
    pipe.set_progress_bar_config(disable=True)

    def draw(batch: int, steps: int) -> None:
        generators = [torch.Generator().manual_seed(seed) for seed in range(batch)]
        with quiet("transformers", "diffusers"):
            pipe(
                prompt=[PROMPT] * batch,
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                generator=generators,
                output_type="np",
            )

    return draw


def _way(key: dict[str, Value], way: str, precision: str, draw: Draw | BaseException, batch: int, steps: int) -> Way:
    values = {**key, "way": way, "precision": precision}
    if isinstance(draw, BaseException):
        return Way(values, lambda: None, batch, flag=why_not(draw))
    return Way(values, lambda: draw(batch, steps), batch)
