"""What is measured: models, sides, batches. One set for a GPU, and a tiny set that any CPU runs in seconds.

Covers: the two sets, a tokenizer for CLIP's architecture that needs no network.
Does not cover: measuring (the parts).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daskt2i.config.component import Component
from daskt2i.encoders.text import TextEncoder
from daskt2i.encoders.vae import VaeEncoder

_VAE = f"{VaeEncoder.__module__}.{VaeEncoder.__name__}"
_TEXT = f"{TextEncoder.__module__}.{TextEncoder.__name__}"
_CLIP = "openai/clip-vit-large-patch14"
_CLIP_TOKENS = 49408


@dataclass(frozen=True, slots=True)
class Denoiser:
    """A denoiser to train.

    Attributes:
        preset: a name of `model.denoisers.unet.PRESETS`.
        latent: channels, height, width of a latent.
        tokens, features: of a text state.
        batch: samples of a step.
        shape: name of the random store for the real trainer.
        rows, steps: rows of that store, steps of a launch.
        launch_seconds: time that a launch needs. It also saves a checkpoint and a pipeline.
    """

    preset: str
    latent: tuple[int, int, int]
    tokens: int
    features: int
    batch: int
    shape: str
    rows: int
    steps: int
    launch_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Drawing:
    """A pipeline to draw with: its name, its denoiser's preset, its encoders, and the side of a picture in pixels."""

    name: str
    preset: str
    image: Mapping[str, Any]
    text: Mapping[str, Any]
    side: int
    batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sizes:
    """A set.

    Attributes:
        images: name -> arguments of `VaeEncoder`.
        texts: name -> arguments of `TextEncoder`.
        sides: sides of images in pixels.
        batches: images of a batch.
        captions, text_batch: captions of a call, and of a batch.
        workflow: for the whole path: a shipped workflow; `rows` of it, `row_sides` in pixels, its `settings`.
        denoisers, drawings: to train, and to draw with. `steps`: steps of the sampler.
        rounds: rounds over the ways of a group; `sample_seconds`: shortest time of one sample.
        product_side: side of the square matrices for the peak.
    """

    images: Mapping[str, Mapping[str, Any]]
    texts: Mapping[str, Mapping[str, Any]]
    sides: tuple[int, ...]
    batches: tuple[int, ...]
    captions: int
    text_batch: int
    workflow: str
    rows: int
    row_sides: tuple[int, ...]
    settings: Mapping[str, Any]
    denoisers: tuple[Denoiser, ...]
    drawings: tuple[Drawing, ...]
    steps: int
    rounds: int
    sample_seconds: float
    product_side: int


def sizes(tiny: bool, folder: Path) -> Sizes:
    """The set to measure.

    Args:
        tiny: the set for a CPU.
        folder: a folder for the tokenizer.
    """
    return _tiny() if tiny else _full(clip_tokenizer(folder / "tokenizer"))


def _tiny() -> Sizes:
    image, text = {"model": "daskt2i:demo/vae"}, {"model": "daskt2i:demo/text", "max_tokens": 26, "pad": "full"}
    return Sizes(
        images={"demo-vae": image},
        texts={"demo-text": text},
        sides=(32,),
        batches=(2,),
        captions=8,
        text_batch=4,
        workflow="demo",
        rows=8,
        row_sides=(32,),
        settings={"dataset.image.resolution": 32, "dataset.rows_per_chunk": 4},
        denoisers=(Denoiser("demo", (4, 16, 16), 24, 128, 4, "demo", 64, 3),),
        drawings=(Drawing("demo", "demo", image, text, 32, (1,)),),
        steps=2,
        rounds=1,
        sample_seconds=0.0,
        product_side=256,
    )


def _full(tokenizer: Path) -> Sizes:
    sd_vae = {"model": "stabilityai/sd-vae-ft-mse", "weights": "random"}
    clip = {"model": _CLIP, "weights": "random", "tokenizer": str(tokenizer)}
    return Sizes(
        images={"sd-vae": sd_vae, "taesd": {"model": "madebyollin/taesd", "weights": "random"}},
        texts={"clip-l": clip},
        sides=(256, 512),
        batches=(32, 8),
        captions=256,
        text_batch=64,
        workflow="coco-sd15-random",
        rows=320,
        row_sides=(256, 512),
        settings={"dataset.encoders.text.tokenizer": str(tokenizer), "dataset.rows_per_chunk": 64},
        denoisers=(
            Denoiser("demo", (4, 16, 16), 24, 128, 256, "demo", 1000, 60, 40.0),
            Denoiser("sd15", (4, 32, 32), 77, 768, 16, "sd15-full", 256, 12, 90.0),
        ),
        drawings=(
            Drawing("demo", "demo", {"model": "daskt2i:demo/vae"},
                    {"model": "daskt2i:demo/text", "max_tokens": 26, "pad": "full"}, 64, (1, 16)),
            Drawing("sd15-random", "sd15", sd_vae, {**clip, "pad": "full"}, 512, (1, 4)),
        ),
        steps=20,
        rounds=5,
        sample_seconds=0.1,
        product_side=8192,
    )  # fmt: skip


def image_component(arguments: Mapping[str, Any]) -> Component:
    """A `VaeEncoder` as a component of a workflow."""
    return Component.model_validate({"class": _VAE, **arguments})


def text_component(arguments: Mapping[str, Any]) -> Component:
    """A `TextEncoder` as a component of a workflow."""
    return Component.model_validate({"class": _TEXT, **arguments})


def clip_tokenizer(folder: Path) -> Path:
    """Write the tokenizer of the demo with the numbers that CLIP ViT-L/14 expects for the start and the end of a text.

    It knows the words of drawn scenes, so captions have about as many tokens as with CLIP's own tokenizer.
    """
    import daskt2i

    origin = Path(daskt2i.__file__).parent / "demo" / "text"
    folder.mkdir(parents=True, exist_ok=True)
    words = json.loads((origin / "vocab.json").read_text(encoding="utf-8"))
    words |= {"<|startoftext|>": _CLIP_TOKENS - 2, "<|endoftext|>": _CLIP_TOKENS - 1}
    (folder / "vocab.json").write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    for name in ("merges.txt", "tokenizer_config.json"):
        (folder / name).write_text((origin / name).read_text(encoding="utf-8"), encoding="utf-8")
    return folder
