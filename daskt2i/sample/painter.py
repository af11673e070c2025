"""Draw pictures from prompts in this process, with the pipeline of a run folder.

Covers: batches, a seed for each picture, the sampler, a preview of each step, models that were trained with a mask.
Does not cover: spreading prompts over workers, files and sheets (`driver`), the pipeline folder (`model.pipeline`).

Prompt, seed, steps, guidance and sampler decide a picture. Its batch changes its values by rounding at most. It is the
picture of `StableDiffusionPipeline` with `generator=torch.Generator().manual_seed(seed)`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.config.samplers import Sampler
from daskt2i.encoders.weights import first_line, quiet
from daskt2i.errors import ModelError
from daskt2i.model.masked_unet import masked_unet
from daskt2i.model.pipeline import ABOUT, POOLED, preview, scheduler_for
from daskt2i.sample.prompt_states import by_pipeline
from daskt2i.types import Pixels

OnStep = Callable[[int, int, npt.NDArray[np.uint8]], None]
"""Called after each step with the step (from 1), the number of steps, and small pictures `uint8[n, y, x, 3]`."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One requested picture.

    Attributes:
        prompt: the text that the picture should show.
        seed: seed of its noise.
    """

    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """How pictures are drawn.

    Attributes:
        steps: number of steps of the sampler.
        guidance: weight of the prompt against the empty prompt; 1 or less: no guidance, which halves the work.
        sampler: a name of `config.samplers.SAMPLERS`.
        batch: pictures in one batch.
    """

    steps: int
    guidance: float
    sampler: Sampler
    batch: int


@dataclass(frozen=True, slots=True)
class DrawnPicture:
    """One drawn picture.

    Attributes:
        request: its request.
        pixels: `uint8[height, width, 3]`.
    """

    request: SampleRequest
    pixels: Pixels


class Painter:
    """A pipeline in memory.

    Args:
        place: the pipeline's folder on this machine.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: number of torch threads.

    Raises:
        ModelError: the pipeline cannot be loaded.
    """

    def __init__(self, place: Path, device: str = "cpu", threads: int = 1) -> None:
        import torch
        import transformers.utils.logging  # noqa: F401  its import resets loggers, so it must come before quiet()

        with quiet():  # transformers warns that torchvision is missing, but nothing here needs it
            from diffusers import StableDiffusionPipeline

        self.threads = threads
        torch.set_num_threads(threads)
        label = place / ABOUT
        self.about: dict[str, Any] = json.loads(label.read_text(encoding="utf-8")) if label.is_file() else {}
        try:
            with quiet():
                self._pipe: Any = StableDiffusionPipeline.from_pretrained(
                    str(place), use_safetensors=True, local_files_only=True, torch_dtype=torch.float32
                ).to(device)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"The pipeline in {place} cannot be loaded: {first_line(error)}. The checkpoints are kept. Remove the "
                "folder pipeline from the run folder and train again: this writes it from the last checkpoint."
            ) from error
        self._pipe.set_progress_bar_config(disable=True)
        if self.about.get(POOLED):
            self._pipe.unet.__class__ = masked_unet()
        self._pipe.unet.to(memory_format=torch.channels_last)
        self._config = dict(self._pipe.scheduler.config)

    def paint(
        self, requests: Sequence[SampleRequest], settings: SamplerSettings, on_step: OnStep | None = None
    ) -> Iterator[DrawnPicture]:
        """Draw the requested pictures, in their order.

        Args:
            on_step: called after each step of each batch.
        """
        import torch

        torch.set_num_threads(self.threads)  # the setting is per thread, and another thread may have loaded the model
        self._pipe.scheduler = scheduler_for(self._config, settings.sampler)
        for start in range(0, len(requests), settings.batch):
            part = list(requests[start : start + settings.batch])
            prompts = [request.prompt for request in part]
            with self._conditioned(prompts, settings.guidance > 1) as conditions:
                found = self._pipe(
                    **conditions,
                    generator=[torch.Generator().manual_seed(request.seed) for request in part],
                    num_inference_steps=settings.steps,
                    guidance_scale=settings.guidance,
                    output_type="np",
                    callback_on_step_end=self._teller(settings.steps, on_step) if on_step else None,
                ).images
            pixels = (np.nan_to_num(found) * 255).round().astype(np.uint8)
            for request, one in zip(part, pixels, strict=True):
                yield DrawnPicture(request, one)

    def _teller(self, steps: int, on_step: OnStep) -> Callable[..., dict[str, Any]]:
        def tell(pipe: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1, steps, preview(values["latents"], self.about))
            return values

        return tell

    @contextmanager
    def _conditioned(self, prompts: list[str], guided: bool) -> Iterator[dict[str, Any]]:
        """The arguments of the pipeline that tell it the prompts.

        A pipeline of diffusers has no mask, and counts padding as text. If the denoiser was trained with a mask, it
        gets states without padding, and its mask.
        """
        if not self.about.get("masked"):
            yield {"prompt": prompts}
            return
        count, unet = len(prompts), self._pipe.unet
        found = by_pipeline(self._pipe, [*[""] * count * guided, *prompts]).without_padding()
        unet.forward = functools.partial(type(unet).forward, unet, encoder_attention_mask=found.mask)
        try:
            yield {
                "prompt_embeds": found.states[-count:],
                "negative_prompt_embeds": found.states[:count] if guided else None,
            }
        finally:
            del unet.forward
