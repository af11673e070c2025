"""Drawing with a `PixArtSigmaPipeline`.

Covers: the pipeline without encoders, text states with their mask, the call's arguments.
Does not cover: other pipelines, the seeds and batches (`sample.painter`).

The pipeline rounds sizes to those of PixArt's training data (`use_resolution_binning`), which other data do not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from daskt2i.sample.pipelines.drawing import Tell
from daskt2i.sample.prompt_states import PromptStates


class PixArtSigma:
    """Draws with a `PixArtSigmaPipeline`."""

    def alone(self, denoiser: Any, scheduler: Any) -> Any:
        """See `Drawing.alone`."""
        from diffusers import PixArtSigmaPipeline

        return PixArtSigmaPipeline(
            tokenizer=None, text_encoder=None, vae=None, transformer=denoiser, scheduler=scheduler
        )

    @contextmanager
    def conditioned(self, pipe: Any, found: PromptStates, count: int, masked: bool) -> Iterator[dict[str, Any]]:
        """See `Drawing.conditioned`."""
        import torch

        mask = found.mask if masked else torch.ones_like(found.mask)
        guided = len(found.states) > count
        yield {
            "prompt_embeds": found.states[-count:],
            "prompt_attention_mask": mask[-count:],
            "negative_prompt": None,
            "negative_prompt_embeds": found.states[:-count] if guided else None,
            "negative_prompt_attention_mask": mask[:-count] if guided else None,
        }

    def watched(self, tell: Tell) -> dict[str, Any]:
        """See `Drawing.watched`."""
        return {"callback": lambda step, time, latents: tell(step, latents)}

    def sides(self, height: int, width: int, picture: tuple[int, int]) -> dict[str, Any]:
        """See `Drawing.sides`."""
        return {"height": height, "width": width, "use_resolution_binning": False}
