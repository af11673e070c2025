"""The text states of prompts, as the denoiser saw those of captions: `float32[n, token, feature]` with a mask.

Covers: states by the text encoder of a diffusers pipeline, or by the encoder of the workflow; cutting off and zeroing
the padding.
Does not cover: drawing (`painter`), the states of captions (`encoders`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskt2i.model.own_encoders import OwnEncoders

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class PromptStates:
    """The text states of some prompts.

    Attributes:
        states: `float32[n, token, feature]`.
        mask: `bool[n, token]`, True for tokens of the prompt.
        pooled: `float32[n, feature]`, pooled states; None if the text encoder makes none.
    """

    states: Tensor
    mask: Tensor
    pooled: Tensor | None = None

    def without_padding(self) -> PromptStates:
        """Only as many tokens as the longest prompt has, and zeros after the end of the shorter ones."""
        longest = int(self.mask.any(0).nonzero().max()) + 1 if self.mask.any() else 1
        mask = self.mask[:, :longest]
        return PromptStates(self.states[:, :longest].masked_fill(~mask[..., None], 0), mask, self.pooled)


def by_pipeline(pipe: Any, texts: Sequence[str]) -> PromptStates:
    """States by the tokenizers and the text encoders of a pipeline of Stable Diffusion, padded to their length. SDXL's
    has pooled states too."""
    import torch

    tokenizer = pipe.tokenizer
    length = tokenizer.model_max_length
    found = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    device = pipe.unet.device
    with torch.no_grad():
        states, _, *pooled = pipe.encode_prompt(
            list(texts), device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    return PromptStates(states, found.attention_mask.bool().to(device), pooled[0] if pooled else None)


class FolderStates:
    """The CLIP text encoder in a pipeline folder, for a pipeline that takes states and not prompts.

    The states are those of a `StableDiffusionPipeline` with this text encoder.

    Args:
        place: the pipeline's folder on this machine, which training wrote.
    """

    def __init__(self, place: Path) -> None:
        import torch
        from transformers import CLIPTextModel, CLIPTokenizer

        self.tokenizer = CLIPTokenizer.from_pretrained(  # nosec B615
            str(place / "tokenizer"), local_files_only=True
        )
        model: Any = CLIPTextModel.from_pretrained(  # nosec B615
            str(place / "text_encoder"), use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
        self._model = model.eval().requires_grad_(False)

    def states(self, texts: Sequence[str], device: Any) -> PromptStates:
        """States of texts, padded to the tokenizer's length."""
        import torch

        self._model.to(device)
        length = self.tokenizer.model_max_length
        options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        found = self.tokenizer(list(texts), **options)
        with torch.no_grad():
            made = self._model(found["input_ids"].to(device))[0]
        return PromptStates(made, found["attention_mask"].bool().to(device))


def by_encoder(encoders: OwnEncoders, texts: Sequence[str], device: Any) -> PromptStates:
    """States by the text encoder of the workflow, with its padding."""
    import torch

    states, mask = (torch.from_numpy(values).to(device) for values in encoders.states(texts))
    pooled = encoders.pooled(texts)
    return PromptStates(states, mask, None if pooled is None else torch.from_numpy(pooled).to(device))
