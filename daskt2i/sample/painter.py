"""Draw pictures from prompts in this process, with the pipeline of a run folder.

Covers: batches, a seed for each picture, the sampler, a preview of each step, models that were trained with a mask.
Does not cover: spreading prompts over workers, files and sheets (`driver`), the pipeline folder (`model.pipeline`).

Prompt, seed, steps, guidance and sampler decide a picture. Its batch changes its values by rounding at most. It is the
picture of the diffusers pipeline with `generator=torch.Generator().manual_seed(seed)`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.config.samplers import Sampler
from daskt2i.encoders.weights import first_line, quiet, read_json
from daskt2i.errors import ModelError
from daskt2i.inference.rewrite import rewrite_for_inference
from daskt2i.model.denoisers.denoiser import DenoiserKind
from daskt2i.model.denoisers.kinds import KINDS, class_of, kind_with
from daskt2i.model.denoisers.masked_unet import masked_unet
from daskt2i.model.denoisers.unet import UNet
from daskt2i.model.own_encoders import OwnEncoders
from daskt2i.model.pipeline import ABOUT, CLASS, INDEX, POOLED, SIDES, preview, scheduler_for
from daskt2i.model.pipeline_forms import form_of
from daskt2i.model.pretrained import lora_files
from daskt2i.model.pretrained.tunables import TUNABLES
from daskt2i.sample.pipelines.drawings import DRAWINGS
from daskt2i.sample.prompt_states import FolderStates, by_encoder, by_pipeline
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
        lora: the file of a LoRA that is added to the denoiser, and what its change is multiplied by; None without one.

    Raises:
        ModelError: the pipeline cannot be loaded, or the LoRA belongs to another model.
        ModelMissing: there is no LoRA.
    """

    def __init__(
        self,
        place: Path,
        device: str = "cpu",
        threads: int = 1,
        encoders: OwnEncoders | None = None,
        lora: tuple[Path, float] | None = None,
    ) -> None:
        import torch

        self.threads = threads
        torch.set_num_threads(threads)
        label = place / ABOUT
        self.about: dict[str, Any] = json.loads(label.read_text(encoding="utf-8")) if label.is_file() else {}
        self._encoders = encoders
        self._kind = _kind_of_folder(place, self.about)
        self._form, self._drawing = form_of(self._kind.pipeline), DRAWINGS[self._kind.pipeline]
        # A published pipeline of a class whose folders have no text model here, such as PixArt, has its own.
        self._reads = self._form.clip or _names(place, "text_encoder")
        try:
            with quiet("transformers", "diffusers"):  # one warns that torchvision is missing, the other shows bars
                self._pipe: Any = self._whole(place) if encoders is None else self._denoiser_alone(place)
                self._pipe.to(device)
                self._states = FolderStates(place) if encoders is None and not self._reads else None
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            again = "Nothing was drawn; fetch the pipeline again, or give another one."
            if self.about:
                again = (
                    "The checkpoints are kept. Remove the folder pipeline from the run folder and train again: this "
                    "writes it from the last checkpoint."
                )
            problem = first_line(error).rstrip(".")
            raise ModelError(f"The pipeline in {place} cannot be loaded: {problem}. {again}") from error
        self._denoiser: Any = getattr(self._pipe, self._form.denoiser)
        if lora is not None:
            adapters = lora_files.read(lora[0])
            lora_files.add(adapters, self._denoiser, self._form.denoiser, lora[0], str(place), lora[1])
        self._pipe.set_progress_bar_config(disable=True)
        if self.about.get(POOLED):
            self._denoiser.__class__ = masked_unet()
        self._denoiser.to(memory_format=torch.channels_last)
        for model in filter(None, (self._denoiser, self._pipe.vae)):
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
                    **(self._drawing.watched(self._teller(settings.steps, on_step)) if on_step else {}),
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
        tokenizer = self._pipe.tokenizer if self._states is None else self._states.tokenizer
        return [len(tokens) > tokenizer.model_max_length for tokens in tokenizer(prompts)["input_ids"]]

    def _start(self, generators: list[Any]) -> dict[str, Any]:
        """The arguments of the pipeline that tell it the noise and the kind of its result."""
        import torch

        config = self._denoiser.config
        side = getattr(config, "sample_size", None)
        sides = self.about.get(SIDES) or (side if isinstance(side, list | tuple) else [side] * 2)
        scale = self._pipe.vae_scale_factor
        pixels = scale if self._encoders is None else self._encoders.reduction
        picture = sides[0] * pixels, sides[1] * pixels
        size = self._drawing.sides(sides[0] * scale, sides[1] * scale, picture)
        if self._encoders is None:
            return {"generator": generators, "output_type": "np", **size}
        noise = [torch.randn((1, config.in_channels, *sides), generator=one) for one in generators]
        return {"latents": torch.cat(noise), "output_type": "latent", **size}

    def _teller(self, steps: int, on_step: OnStep) -> Callable[[int, Any], None]:
        def tell(step: int, latents: Any) -> None:
            on_step(step + 1, steps, preview(latents, self.about))

        return tell

    @contextmanager
    def _conditioned(self, prompts: list[str], guided: bool) -> Iterator[dict[str, Any]]:
        """The arguments of the pipeline that tell it the prompts.

        Without a mask, a denoiser counts padding as text. If it was trained with a mask, it gets states without
        padding, and the mask.
        """
        masked, count = bool(self.about.get("masked")), len(prompts)
        if self._encoders is None and self._reads and not masked:
            yield {"prompt": prompts}
            return
        texts = [*[""] * count * guided, *prompts]
        if self._encoders is not None:
            found = by_encoder(self._encoders, texts, self._denoiser.device)
        elif self._states is not None:
            found = self._states.states(texts, self._denoiser.device)
        else:
            found = by_pipeline(self._pipe, texts)
        with self._drawing.conditioned(
            self._pipe, found.without_padding() if masked else found, count, masked
        ) as conditions:
            yield conditions

    def _whole(self, place: Path) -> Any:
        """A pipeline with its encoders."""
        import diffusers
        import torch

        without = {name: one for name, one in self._form.without.items() if not (self._reads and _names(place, name))}
        return getattr(diffusers, self._kind.pipeline).from_pretrained(
            str(place), use_safetensors=True, local_files_only=True, torch_dtype=torch.float32, **without
        )

    def _denoiser_alone(self, place: Path) -> Any:
        """A pipeline without encoders: it takes text states, and gives latents."""
        import diffusers
        import torch

        denoiser = class_of(self._kind).from_pretrained(
            str(place / self._form.denoiser), use_safetensors=True, local_files_only=True, torch_dtype=torch.float32
        )
        scheduler = getattr(diffusers, self._form.scheduler)
        return self._drawing.alone(denoiser, scheduler.from_pretrained(str(place / "scheduler"), local_files_only=True))


def _names(place: Path, part: str) -> bool:
    """Whether the index of a folder names a text model or its tokenizer."""
    index = read_json(place / INDEX) if (place / INDEX).is_file() else {}
    return part.startswith(("text_encoder", "tokenizer")) and index.get(part, [None])[0] is not None


def _published(place: Path) -> str:
    """The class of the denoiser in a folder that no training of daskt2i wrote: that of its pipeline."""
    index = read_json(place / INDEX) if (place / INDEX).is_file() else {}
    name = str(index.get("_class_name"))
    return TUNABLES[name].denoiser if name in TUNABLES else UNet.class_path


def _kind_of_folder(place: Path, about: Mapping[str, Any]) -> DenoiserKind:
    """The kind of the denoiser in a folder. Its label may name no other class: the folder may be of somebody else."""
    name = about.get(CLASS) or _published(place)
    if name in KINDS and KINDS[name].pipeline in DRAWINGS:
        config = place / form_of(KINDS[name].pipeline).denoiser / "config.json"
        return kind_with(name, read_json(config) if config.is_file() else {})
    raise ModelError(
        f"The denoiser in {place} is a {name}, and daskt2i cannot draw with this class. It was not changed. Load its "
        "folder denoiser with that class, and draw in your own loop."
    )
