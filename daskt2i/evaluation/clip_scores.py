"""How well pictures show their prompts, by CLIP.

Covers: CLIP scores of pictures that are in memory, with the scores of wrong prompts for comparison.
Does not cover: drawing the pictures (`sample.driver`), drawn scenes (`judging`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from daskt2i.errors import ModelError, ModelMissing
from daskt2i.sample.painter import DrawnPicture


@dataclass(slots=True)
class ClipScores:
    """The result of `evaluate` with CLIP.

    Attributes:
        model: name of the CLIP model.
        scores: for each picture, 100 x cosine of picture and prompt, at least 0 (arXiv:2104.08718 without its factor
            2.5, as in most papers).
        mismatched: the same for each picture with the next prompt. Compare the scores with these values.
        retrieval: share of pictures whose own prompt has the highest score of all different prompts.
    """

    model: str
    scores: list[float]
    mismatched: list[float]
    retrieval: float

    def to_json(self) -> dict[str, Any]:
        """Means and counts."""
        return {
            "count": len(self.scores),
            "clip_score": round(float(np.mean(self.scores)), 3),
            "clip_score_mismatched": round(float(np.mean(self.mismatched)), 3),
            "retrieval": round(self.retrieval, 4),
        }


def by_clip(
    pictures: Sequence[DrawnPicture], model: str, device: str = "cpu", threads: int = 1, batch: int = 16
) -> ClipScores:
    """Compute CLIP scores with a model from the hub's cache or from a folder.

    Args:
        model: a full CLIP repository (both towers, tokenizer, preprocessor), as a hub id or a folder.

    Raises:
        ModelMissing, ModelError: the model is missing, or it is not a CLIP model.
    """
    import torch
    import transformers
    from PIL import Image

    from daskt2i.encoders.weights import first_line, locate, quiet

    torch.set_num_threads(threads)
    needs = ("config.json", "model*.safetensors", "preprocessor_config.json")
    folder = locate(model, None, None, needs=needs, also=("*.json", "merges.txt"), setting="evaluate.clip_model")
    try:
        with quiet():
            clip: Any = transformers.CLIPModel.from_pretrained(  # a folder on this machine  # nosec B615
                str(folder), use_safetensors=True, local_files_only=True
            )
            processor: Any = transformers.CLIPProcessor.from_pretrained(  # the same folder  # nosec B615
                str(folder), trust_remote_code=False, local_files_only=True
            )
    except ModelMissing:
        raise
    except Exception as error:  # transformers raises many kinds
        raise ModelError(
            f"{model} cannot be loaded as a CLIP model: {first_line(error)}. Nothing was written. Set "
            "evaluate.clip_model to a repository with both towers, a tokenizer and preprocessor_config.json."
        ) from error
    clip = clip.to(device).eval()
    prompts = list(dict.fromkeys(picture.request.prompt for picture in pictures))
    with torch.inference_mode():
        texts = []
        for start in range(0, len(prompts), batch):
            given = processor(text=prompts[start : start + batch], return_tensors="pt", padding=True, truncation=True)
            texts.append(_vectors(clip.get_text_features(**given.to(device))))
        images = []
        for start in range(0, len(pictures), batch):
            part = [Image.fromarray(picture.pixels) for picture in pictures[start : start + batch]]
            images.append(_vectors(clip.get_image_features(**processor(images=part, return_tensors="pt").to(device))))
    table = (torch.cat(images) @ torch.cat(texts).T).clamp(min=0).mul(100).cpu().numpy()
    own = np.array([prompts.index(picture.request.prompt) for picture in pictures])
    rows = np.arange(len(pictures))
    return ClipScores(
        model=model,
        scores=[float(value) for value in table[rows, own]],
        mismatched=[float(value) for value in table[rows, (own + 1) % len(prompts)]],
        retrieval=float((table.argmax(1) == own).mean()),
    )


def _vectors(features: Any) -> Any:
    """The features as unit vectors. transformers 5 returns them inside an object."""
    vectors = getattr(features, "pooler_output", features)
    return vectors / vectors.norm(dim=-1, keepdim=True)


def clip_rows(found: ClipScores) -> list[tuple[str, str]]:
    """Names and values of CLIP scores, with the scores of wrong prompts for comparison."""
    said = found.to_json()
    return [
        ("model", found.model),
        ("score", f"{said['clip_score']:.2f} over {said['count']} pictures"),
        ("wrong prompts", f"{said['clip_score_mismatched']:.2f} (each picture with another's prompt)"),
        ("retrieval", f"{said['retrieval']:.1%} of pictures fit their own prompt best"),
    ]
