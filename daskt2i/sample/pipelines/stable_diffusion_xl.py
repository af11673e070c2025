"""Drawing with a `StableDiffusionXLPipeline`: a U-Net that is told pooled text, sizes and crops.

Covers: the pipeline without encoders, states with pooled states and a mask, the sizes that the U-Net is told.
Does not cover: other pipelines, the seeds and batches (`sample.painter`).

The U-Net is told that the source picture was as large as the drawn one and was not cropped, as SDXL's authors do
(Podell et al. 2023, arXiv:2307.01952, 2.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from daskt2i.sample.pipelines.stable_diffusion import StableDiffusion
from daskt2i.sample.prompt_states import PromptStates


class StableDiffusionXL(StableDiffusion):
    """Draws with a `StableDiffusionXLPipeline`."""

    def alone(self, denoiser: Any, scheduler: Any) -> Any:
        """See `Drawing.alone`."""
        from diffusers import StableDiffusionXLPipeline

        parts = dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
        return StableDiffusionXLPipeline(unet=denoiser, scheduler=scheduler, add_watermarker=False, **parts)

    @contextmanager
    def conditioned(self, pipe: Any, found: PromptStates, count: int, masked: bool) -> Iterator[dict[str, Any]]:
        """See `Drawing.conditioned`. A store without pooled states is refused before the training."""
        assert found.pooled is not None
        guided = len(found.states) > count
        with super().conditioned(pipe, found, count, masked) as given:
            yield {
                **given,
                "pooled_prompt_embeds": found.pooled[-count:],
                "negative_pooled_prompt_embeds": found.pooled[:-count] if guided else None,
            }

    def sides(self, height: int, width: int, picture: tuple[int, int]) -> dict[str, Any]:
        """See `Drawing.sides`. The U-Net is told the size in pixels of the picture."""
        return {"height": height, "width": width, "original_size": picture, "target_size": picture}
