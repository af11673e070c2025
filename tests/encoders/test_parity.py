"""What each way to compute an autoencoder differs from plain diffusers, on real photographs.

`python tests/encoders/test_parity.py` prints the table of docs/benchmarks/engines.md.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builders import SHARED

from daskt2i.encoders.ncnn.engine import TOLERANCE, Engine, difference_of_range
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.inference.rewrite import rewrite_for_inference
from daskt2i.types import Runtime

FP32, BF16 = Runtime("cpu", "fp32", 1), Runtime("cpu", "bf16", 1)

BF16_RMS = 0.05
"""The most that bf16 may differ from fp32, relative rms: it has three significant digits, and the errors add up."""

Array = np.ndarray[Any, np.dtype[np.float32]]
Coder = Callable[[Array], Array]


class Difference(NamedTuple):
    """The difference of a way from another, of all values of all photographs.

    Attributes:
        most: the largest one, as a part of the range of the values.
        rms: root mean square, as a part of that of the values without their mean.
    """

    model: str
    part: str
    way: str
    most: float
    rms: float


def photographs(side: int, count: int) -> Array:
    """`fp32[count, 3, side, side]`, -1 to 1."""
    paths = sorted((SHARED / "coco-mini" / "images").glob("*.jpg"))[:count]
    if len(paths) < count:
        pytest.skip("needs the data set coco-mini beside the checkout (../shared/data/coco-mini)")
    pixels = []
    for path in paths:
        with Image.open(path) as image:
            near = min(image.size)
            square = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, (0, 0, near, near))
            pixels.append(np.asarray(square, np.float32).transpose(2, 0, 1) / 127.5 - 1)
    return np.stack(pixels)


def by_torch(model: Any) -> tuple[Coder, Coder]:
    """Encoder and decoder of a diffusers model, an image at a time, in its own precision."""
    import torch

    dtype = next(model.parameters()).dtype

    def of(one: Array) -> torch.Tensor:
        return torch.from_numpy(one[None]).to(dtype).contiguous(memory_format=torch.channels_last)

    def encode(pixels: Array) -> Array:
        with torch.inference_mode():
            found = [model.encode(of(one)).latent_dist.parameters.float().numpy()[0] for one in pixels]
        return np.stack(found)

    def decode(latents: Array) -> Array:
        with torch.inference_mode():
            return np.stack([model.decode(of(one)).sample.float().numpy()[0] for one in latents])

    return encode, decode


def rewritten(model: Any) -> Any:
    assert sum(rewrite_for_inference(model).values()), "no pass changed anything"
    return model


def ways(encoder: VaeEncoder) -> Iterator[tuple[str, tuple[Coder, Coder]]]:
    """The ways to compute a model, plain diffusers in fp32 first."""
    yield "diffusers, fp32", by_torch(encoder.plain(FP32))
    yield "rewritten, fp32", by_torch(rewritten(encoder.plain(FP32)))
    if importlib.util.find_spec("ncnn") is not None:
        engine = Engine(encoder.plain(FP32), FP32)
        yield "ncnn, fp32", (engine.encode, engine.decode)
    yield "diffusers, bf16", by_torch(encoder.plain(BF16))
    yield "rewritten, bf16", by_torch(rewritten(encoder.plain(BF16)))


def differences(name: str, encoder: VaeEncoder, pixels: Array) -> list[Difference]:
    """Each way beside diffusers in fp32; the rewritten modules in bf16 beside diffusers in bf16 too."""
    found: list[Difference] = []
    plain: dict[str, tuple[Array, Array]] = {}
    for way, (encode, decode) in ways(encoder):
        made = encode(pixels)
        latents = plain["diffusers, fp32"][0] if plain else made
        mean = np.ascontiguousarray(latents[:, : latents.shape[1] // 2])
        plain[way] = made, decode(mean)
        beside = [one for one in ("diffusers, fp32", "diffusers, bf16") if one in plain and one != way]
        for other in beside if way == "rewritten, bf16" else beside[:1]:
            label = way if other == "diffusers, fp32" else f"{way}, beside {other}"
            for part, ours, theirs in zip(("encode", "decode"), plain[way], plain[other], strict=True):
                rms = float(np.sqrt(np.mean(np.square(ours - theirs, dtype=np.float64))) / theirs.std())
                found.append(Difference(name, part, label, difference_of_range(ours, theirs), rms))
    return found


def check(found: list[Difference]) -> None:
    assert {one.way for one in found} >= {"rewritten, fp32", "rewritten, bf16", "diffusers, bf16"}
    for one in found:
        if "beside" in one.way or one.way == "rewritten, fp32":
            assert (one.most, one.rms) == (0, 0), f"the bits differ: {one}"
        elif "fp32" in one.way:
            assert one.most <= TOLERANCE, one
            assert one.rms <= TOLERANCE / 4, one
        else:
            assert 0 < one.rms <= BF16_RMS, one


def trained(count: int = 4) -> list[Difference]:
    return differences("demo's VAE, trained, 64 px", VaeEncoder("daskt2i:demo/vae"), photographs(64, count))


def large(side: int, count: int) -> list[Difference]:
    encoder = VaeEncoder("stabilityai/sd-vae-ft-mse", weights="random")
    return differences(f"SD's VAE, random, {side} px", encoder, photographs(side, count))


def test_with_trained_weights_each_way_gives_on_photographs_what_diffusers_gives() -> None:
    check(trained())


@pytest.mark.slow  # Stable Diffusion's VAE takes a minute
def test_the_architecture_of_stable_diffusion_gives_on_photographs_what_diffusers_gives() -> None:
    check(large(256, 2))


if __name__ == "__main__":
    for row in (*trained(8), *large(256, 4)):
        print(f"| {row.model} | {row.part} | {row.way} | {row.most:.1e} | {row.rms:.1e} |", flush=True)
