"""How well pictures show their prompts, measured by the judge of drawn scenes or by CLIP.

Covers: prompts that are not in the data set, the judge's shares with their counts, CLIP scores, the table.
Does not cover: drawing the pictures (`driver`), how the judge reads a picture (`sources.drawn.judge`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from daskt2i.errors import ConfigError, ModelError, ModelMissing
from daskt2i.events import Listener, Progress, ignore
from daskt2i.sample.painter import DrawnPicture
from daskt2i.sources.drawn.grammar import Expectation, captions, parse_caption
from daskt2i.sources.drawn.judge import SceneMatch, judge, match_scene
from daskt2i.sources.scenes import scene

PROMPT_SEED = 20_000_003
"""Seed of the scenes that prompts come from. No data set of daskt2i uses this seed."""

FIELDS = ("background", "colour", "shape", "binding", "place", "clean", "all")
"""The checks of the judge: the colour of the background; the colours; the shapes; each shape has its own colour; the
places of the shapes; nothing else is in the picture; all checks together."""


def unseen_prompts(count: int, known: Iterable[str], shapes: int = 2) -> list[str]:
    """Sentences that describe a scene completely (background, colours, shapes, places) and are not known.

    They come from the first scenes of `PROMPT_SEED` that have such a sentence, so they are the same each time.

    Args:
        count: number of sentences.
        known: captions that a model was trained on.
        shapes: maximum number of shapes in a scene, 1 or 2.
    """
    seen = {_plain(text) for text in known}
    found: list[str] = []
    index = 0
    while len(found) < count:
        for text in captions(scene(PROMPT_SEED, index, shapes)):
            if _tells_all(parse_caption(text)) and _plain(text) not in seen:
                found.append(text)
                seen.add(_plain(text))
                break
        index += 1
    return found


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


def _tells_all(wanted: Expectation | None) -> bool:
    return (
        wanted is not None
        and wanted.background is not None
        and all(thing.colour and thing.place for thing in wanted.things)
    )


def fields_of(verdict: SceneMatch) -> tuple[bool, ...]:
    """The values of `FIELDS`."""
    parts = (verdict.background, verdict.colours, verdict.shapes, verdict.bound, verdict.places, verdict.clean)
    return (*parts, verdict.right)


@dataclass(slots=True)
class Shares:
    """For each field, the number of pictures that are right, and the number of all pictures."""

    of: int = 0
    right: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FIELDS, 0))

    def add(self, verdict: SceneMatch) -> None:
        """Count one picture."""
        self.of += 1
        for name, value in zip(FIELDS, fields_of(verdict), strict=True):
            self.right[name] += value

    def share(self, name: str) -> float:
        """The share of pictures that are right in a field, from 0 to 1."""
        return self.right[name] / self.of if self.of else 0.0

    def to_json(self) -> dict[str, Any]:
        """All shares, and the count."""
        return {"count": self.of, **{name: round(self.share(name), 4) for name in FIELDS}}


@dataclass(slots=True)
class Fidelity:
    """The result of `evaluate` with the judge.

    Attributes:
        overall, single, pair: shares of all pictures, of pictures with one thing, of pictures with two things.
        right: for each picture in order, whether all fields are right.
        problems: for each picture the fields that are wrong; "" if none is.
    """

    overall: Shares = field(default_factory=Shares)
    single: Shares = field(default_factory=Shares)
    pair: Shares = field(default_factory=Shares)
    right: list[bool] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def expectation(prompt: str) -> Expectation:
    """What a prompt says of its scene.

    Raises:
        ConfigError: the prompt does not describe a scene.
    """
    found = parse_caption(prompt)
    if found is None:
        raise ConfigError(
            f"The judge reads only prompts about drawn scenes, and {prompt!r} is not one. Nothing was drawn. Use other "
            "prompts (prompts), or set evaluate.clip_model to the folder of a CLIP model."
        )
    return found


def by_judge(pictures: Sequence[DrawnPicture], listener: Listener = ignore) -> Fidelity:
    """Compare pictures of scenes with their prompts.

    Args:
        pictures: pictures with prompts that `parse_caption` can read.
        listener: gets the number of judged pictures.

    Raises:
        ConfigError: a prompt does not describe a scene.
    """
    found = Fidelity()
    for picture in pictures:
        wanted = expectation(picture.request.prompt)
        verdict = match_scene(judge(picture.pixels), wanted)
        found.overall.add(verdict)
        (found.single if len(wanted.things) == 1 else found.pair).add(verdict)
        found.right.append(verdict.right)
        values = zip(FIELDS, fields_of(verdict), strict=True)
        found.problems.append(", ".join(name for name, right in values if not right and name != "all"))
        listener(Progress("pictures judged", len(found.right), len(pictures)))
    return found


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
