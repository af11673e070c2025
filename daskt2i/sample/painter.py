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
from daskt2i.inference.rewrite import rewrite_for_inference
from daskt2i.model.denoisers.masked_unet import masked_unet
from daskt2i.model.denoisers.unet import takes_sizes
from daskt2i.model.own_encoders import OwnEncoders
from daskt2i.model.pipeline import ABOUT, POOLED, preview, scheduler_for
from daskt2i.sample.prompt_states import by_encoder, by_pipeline
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
        keep_memory: whether the process keeps freed memory for the next step (`machine.allocator`).
    """

    steps: int
    guidance: float
    sampler: Sampler
    batch: int
    keep_memory: bool = True


@dataclass(frozen=True, slots=True)
class DrawnPicture:
    """One drawn picture.

    Attributes:
        request: its request.
        pixels: `uint8[height, width, 3]`.
        cut: whether the prompt is longer than what the text encoder reads.
    """

    request: SampleRequest
    pixels: Pixels
    cut: bool = False


class Painter:
    """A pipeline in memory.

    Args:
        place: the pipeline's folder on this machine.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: number of torch threads.
        encoders: draw through these; None if the pipeline has encoders of its own.

    Raises:
        ModelError: the pipeline cannot be loaded.
    """

    def __init__(self, place: Path, device: str = "cpu", threads: int = 1, encoders: OwnEncoders | None = None) -> None:
        import torch

        self.threads = threads
        torch.set_num_threads(threads)
        label = place / ABOUT
        self.about: dict[str, Any] = json.loads(label.read_text(encoding="utf-8")) if label.is_file() else {}
        self._encoders = encoders
        try:
            with quiet("transformers", "diffusers"):  # one warns that torchvision is missing, the other shows bars
                self._pipe: Any = _whole(place) if encoders is None else _denoiser_alone(place)
                self._pipe.to(device)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"The pipeline in {place} cannot be loaded: {first_line(error)}. The checkpoints are kept. Remove the "
                "folder pipeline from the run folder and train again: this writes it from the last checkpoint."
            ) from error
        if takes_sizes(self._pipe.unet.config):
            raise ModelError(
                f"The denoiser in {place} is told sizes and crops of pictures, as SDXL's, and daskt2i cannot draw with "
                "it. It was not changed. Load its folder unet with UNet2DConditionModel of diffusers, into a "
                "StableDiffusionXLPipeline."
            )
        self._pipe.set_progress_bar_config(disable=True)
        if self.about.get(POOLED):
            self._pipe.unet.__class__ = masked_unet()
        self._pipe.unet.to(memory_format=torch.channels_last)
        for model in filter(None, (self._pipe.unet, self._pipe.vae)):
            rewrite_for_inference(model.eval().requires_grad_(False))
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
            generators = [torch.Generator().manual_seed(request.seed) for request in part]
            # The libraries tell of each long prompt with the tokens that they cut off; `DrawnPicture.cut` says it.
            with quiet("transformers", "diffusers"), self._conditioned(prompts, settings.guidance > 1) as conditions:
                cut = self._cut(prompts)
                found = self._pipe(
                    **conditions,
                    **self._start(generators),
                    num_inference_steps=settings.steps,
                    guidance_scale=settings.guidance,
                    callback_on_step_end=self._teller(settings.steps, on_step) if on_step else None,
                ).images
            if self._encoders is None:
                pixels = (np.nan_to_num(found) * 255).round().astype(np.uint8)
            else:
                pixels = self._encoders.pictures(found.float().cpu().numpy())
            for request, one, short in zip(part, pixels, cut, strict=True):
                yield DrawnPicture(request, one, short)

    def _cut(self, prompts: list[str]) -> list[bool]:
        """Whether each prompt is longer than what the text encoder reads."""
        if self._encoders is not None:
            return self._encoders.cut(prompts)
        tokenizer = self._pipe.tokenizer
        return [len(tokens) > tokenizer.model_max_length for tokens in tokenizer(prompts)["input_ids"]]

    def _start(self, generators: list[Any]) -> dict[str, Any]:
        """The arguments of the pipeline that tell it the noise and the kind of its result."""
        import torch

        if self._encoders is None:
            return {"generator": generators, "output_type": "np"}
        unet = self._pipe.unet.config
        sides = unet.sample_size if isinstance(unet.sample_size, list | tuple) else [unet.sample_size] * 2
        noise = [torch.randn((1, unet.in_channels, *sides), generator=one) for one in generators]
        return {"latents": torch.cat(noise), "output_type": "latent"}

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
        masked, count, unet = self.about.get("masked"), len(prompts), self._pipe.unet
        if self._encoders is None and not masked:
            yield {"prompt": prompts}
            return
        texts = [*[""] * count * guided, *prompts]
        if self._encoders is None:
            found = by_pipeline(self._pipe, texts)
        else:
            found = by_encoder(self._encoders, texts, unet.device)
        if masked:
            found = found.without_padding()
            unet.forward = functools.partial(type(unet).forward, unet, encoder_attention_mask=found.mask)
        try:
            yield {
                "prompt_embeds": found.states[-count:],
                "negative_prompt_embeds": found.states[:count] if guided else None,
            }
        finally:
            vars(unet).pop("forward", None)


def _whole(place: Path) -> Any:
    """A pipeline with its encoders."""
    import torch
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(
        str(place),
        use_safetensors=True,
        local_files_only=True,
        torch_dtype=torch.float32,
        safety_checker=None,  # a published pipeline may have one, which would draw black pictures
        feature_extractor=None,
    )


def _denoiser_alone(place: Path) -> Any:
    """A pipeline without encoders: it takes text states, and gives latents."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(
        str(place / "unet"), use_safetensors=True, local_files_only=True, torch_dtype=torch.float32
    )
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler.from_pretrained(str(place / "scheduler"), local_files_only=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
