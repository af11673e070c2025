"""Drawing with a `StableDiffusionPipeline`: a U-Net, or a U-ViT in its place.

Covers: the pipeline without encoders, text states with a mask, the call's arguments.
Does not cover: other pipelines, the seeds and batches (`sample.painter`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from daskt2i.sample.pipelines.drawing import Tell
from daskt2i.sample.prompt_states import PromptStates


class StableDiffusion:
    """Draws with a `StableDiffusionPipeline`."""

    def alone(self, denoiser: Any, scheduler: Any) -> Any:
        """See `Drawing.alone`."""
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline(
            vae=None,
            text_encoder=None,
            tokenizer=None,
            unet=denoiser,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    @contextmanager
    def conditioned(self, pipe: Any, found: PromptStates, count: int, masked: bool) -> Iterator[dict[str, Any]]:
        """See `Drawing.conditioned`. This pipeline has no mask, so the denoiser gets it beside the pipeline."""
        unet = pipe.unet
        if masked:
            unet.forward = functools.partial(type(unet).forward, unet, encoder_attention_mask=found.mask)
        try:
            yield {
                "prompt_embeds": found.states[-count:],
                "negative_prompt_embeds": found.states[:-count] if len(found.states) > count else None,
            }
        finally:
            vars(unet).pop("forward", None)

    def watched(self, tell: Tell) -> dict[str, Any]:
        """See `Drawing.watched`."""

        def after(pipe: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
            tell(step, values["latents"])
            return values

        return {"callback_on_step_end": after}

    def sides(self, height: int, width: int, picture: tuple[int, int]) -> dict[str, Any]:
        """See `Drawing.sides`: the pipeline takes the size of its U-Net."""
        return {}
