"""Drawing with the pipelines of transformers that learn flow: Stable Diffusion 3, Lumina 2, SANA and PRX.

Covers: the pipelines without encoders, text states with masks or pooled states, the arguments of a call.
Does not cover: other pipelines, seeds and batches (`sample.painter`), signs and times (`model.denoisers`).

None of them gets a text encoder: diffusers expects T5, Gemma or two CLIP models there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from daskt2i.sample.pipelines.drawing import Tell
from daskt2i.sample.prompt_states import PromptStates


class _FlowPipeline:
    """What the four share.

    Attributes:
        name: class of the pipeline in diffusers.
        without: its parts that are not there, besides the VAE.
        call: further arguments of a call.
    """

    name = ""
    without: tuple[str, ...] = ("text_encoder", "tokenizer")
    call: Mapping[str, Any] = MappingProxyType({})

    def alone(self, denoiser: Any, scheduler: Any) -> Any:
        """See `Drawing.alone`."""
        import diffusers

        parts = dict.fromkeys((*self.without, "vae"))
        return getattr(diffusers, self.name)(transformer=denoiser, scheduler=scheduler, **parts)

    @contextmanager
    def conditioned(self, pipe: Any, found: PromptStates, count: int, masked: bool) -> Iterator[dict[str, Any]]:
        """See `Drawing.conditioned`."""
        mask = found.mask if masked else found.mask.new_ones(found.mask.shape)
        given = {"prompt_embeds": found.states[-count:], "prompt_attention_mask": mask[-count:]}
        if len(found.states) > count:
            given |= {"negative_prompt_embeds": found.states[:-count], "negative_prompt_attention_mask": mask[:-count]}
        yield {**given, **self.call}

    def watched(self, tell: Tell) -> dict[str, Any]:
        """See `Drawing.watched`."""

        def after(pipe: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
            tell(step, values["latents"])
            return values

        return {"callback_on_step_end": after}

    def sides(self, height: int, width: int, picture: tuple[int, int]) -> dict[str, Any]:
        """See `Drawing.sides`."""
        return {"height": height, "width": width}


class StableDiffusion3(_FlowPipeline):
    """Draws with a `StableDiffusion3Pipeline`. Its model has a pooled state and no mask."""

    name = "StableDiffusion3Pipeline"
    without = tuple(f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3"))

    @contextmanager
    def conditioned(self, pipe: Any, found: PromptStates, count: int, masked: bool) -> Iterator[dict[str, Any]]:
        """See `Drawing.conditioned`. `masked` is False: such a store is refused before the training."""
        assert found.pooled is not None
        given = {"prompt_embeds": found.states[-count:], "pooled_prompt_embeds": found.pooled[-count:]}
        if len(found.states) > count:
            given |= {
                "negative_prompt_embeds": found.states[:-count],
                "negative_pooled_prompt_embeds": found.pooled[:-count],
            }
        yield given


class Lumina2(_FlowPipeline):
    """Draws with a `Lumina2Pipeline`. It scales the guided velocity to the length of the one of the prompt."""

    name = "Lumina2Pipeline"


class Sana(_FlowPipeline):
    """Draws with a `SanaPipeline`."""

    name = "SanaPipeline"
    # It would round sizes to those of its training data, and it refuses its own default "" beside states.
    call = MappingProxyType({"use_resolution_binning": False, "negative_prompt": None})


class PRX(_FlowPipeline):
    """Draws with a `PRXPipeline`.

    diffusers 0.42 gives two times to a batch of guided pictures, which fits one picture alone. So the transformer gets
    a time for each sample here: the pictures are those that the pipeline draws one by one.
    """

    name = "PRXPipeline"
    call = MappingProxyType({"use_resolution_binning": False})

    @contextmanager
    def conditioned(self, pipe: Any, found: PromptStates, count: int, masked: bool) -> Iterator[dict[str, Any]]:
        """See `Drawing.conditioned`."""
        transformer = pipe.transformer
        forward = transformer.forward

        def with_times(*args: Any, hidden_states: Any, timestep: Any, **kwargs: Any) -> Any:
            times = timestep[:1].expand(len(hidden_states))
            return forward(*args, hidden_states=hidden_states, timestep=times, **kwargs)

        transformer.forward = with_times
        try:
            with super().conditioned(pipe, found, count, masked) as given:
                yield given
        finally:
            vars(transformer).pop("forward", None)
