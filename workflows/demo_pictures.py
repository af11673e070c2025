"""Pictures for training the demo encoders: drawn scenes, scenes that differ in one respect, made-up textures.

Covers: the source that `train_demo_encoders.py` gives to the autoencoder's trainer, and what the text model sees.
Does not cover: how scenes are drawn (`daskt2i.sources.drawn.drawing`), either model.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from daskt2i.sources.drawn.drawing import BACKGROUNDS, COLOURS, OPPOSITE, SHAPE_COLOURS, SHAPES, Scene
from daskt2i.sources.drawn.grammar import captions, describe
from daskt2i.sources.scenes import jpeg, scene
from daskt2i.types import Row, SourceInfo

PIXELS = 64
TRAINED, UNSEEN = 7_000_001, 7_000_002
"""Seeds of the scenes for training and for measuring; the demo data set has seed 0, so nothing of it is seen here."""


def picture(one: Scene) -> np.ndarray:
    """A scene as the encode stage sees it: JPEG at full size, shorter side to 64, centre crop. `uint8[64, 64, 3]`."""
    image = Image.open(io.BytesIO(jpeg(one)))
    scale = PIXELS / min(image.size)
    image = image.resize(tuple(max(PIXELS, round(side * scale)) for side in image.size), Image.Resampling.BICUBIC)
    left, top = (image.width - PIXELS) // 2, (image.height - PIXELS) // 2
    return np.asarray(image.crop((left, top, left + PIXELS, top + PIXELS)))


def twin(one: Scene, rng: np.random.Generator) -> Scene:
    """A scene that differs from another in one respect: the negative that is hardest to tell from it."""
    things = list(one.things)
    kind = rng.choice(["swap colours", "swap shapes", "swap places", "colour", "shape", "background"])
    if len(things) == 2 and str(kind).startswith("swap"):
        a, b = things
        if kind == "swap colours" and a.colour != b.colour:
            a, b = (dataclasses.replace(t, colour=o.colour, rgb=o.rgb) for t, o in ((a, b), (b, a)))
        elif kind == "swap shapes" and a.shape != b.shape:
            a, b = dataclasses.replace(a, shape=b.shape), dataclasses.replace(b, shape=a.shape)
        else:
            a, b = (dataclasses.replace(t, x=o.x, y=o.y, place=o.place) for t, o in ((a, b), (b, a)))
        things = [a, b]
    elif len(things) == 1 and kind == "swap places":
        a = things[0]
        place = OPPOSITE.get(a.place)
        if place:
            things = [dataclasses.replace(a, x=1000 - a.x, y=1000 - a.y, place=place)]
    elif kind == "background":
        taken = {one.background, *(thing.colour for thing in things)}
        other = str(rng.choice([name for name in BACKGROUNDS if name not in taken]))
        return dataclasses.replace(one, index=one.index + 10**9, background=other, background_rgb=_rgb(other))
    else:
        i = int(rng.integers(len(things)))
        a = things[i]
        if kind in ("shape", "swap shapes"):
            things[i] = dataclasses.replace(a, shape=str(rng.choice([name for name in SHAPES if name != a.shape])))
        else:
            free = [name for name in SHAPE_COLOURS if name not in (a.colour, one.background)]
            colour = str(rng.choice(free))
            things[i] = dataclasses.replace(a, colour=colour, rgb=_rgb(colour))
    return dataclasses.replace(one, index=one.index + 10**9, things=tuple(things))


def _rgb(name: str) -> tuple[int, int, int]:
    return COLOURS[name]


def textures(count: int, rng: np.random.Generator) -> np.ndarray:
    """Made-up pictures with the statistics of photographs: `uint8[count, 64, 64, 3]`."""
    return np.stack([texture(rng, i) for i in range(count)])


def texture(rng: np.random.Generator, number: int) -> np.ndarray:
    """One of them, of kind `number` modulo the kinds: `uint8[64, 64, 3]`."""
    kinds = (_leaves, _leaves, _noise, _gradient, _grid)
    return np.clip(kinds[number % len(kinds)](rng), 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator) -> np.ndarray:
    """A colour as they come in photographs: mostly muted, sometimes vivid."""
    grey = rng.uniform(0, 255)
    return np.clip(grey + rng.normal(0, rng.choice([12, 35, 80]), 3), 0, 255)


def _axes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:PIXELS, 0:PIXELS].astype(np.float64)
    angle = rng.uniform(0, 2 * np.pi)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _noise(rng: np.random.Generator) -> np.ndarray:
    """Octaves of smooth noise whose strength falls with frequency, as in nature."""
    field = np.zeros((PIXELS, PIXELS, 3))
    slope = rng.uniform(0.6, 1.3)
    for octave in range(1, 7):
        coarse = rng.normal(0, 1, (2**octave, 2**octave, 3))
        coarse = coarse * rng.uniform(0, 0.6) + coarse.mean(axis=2, keepdims=True)
        for channel in range(3):
            layer = Image.fromarray(coarse[:, :, channel].astype(np.float32)).resize((PIXELS, PIXELS), Image.BICUBIC)
            field[:, :, channel] += np.asarray(layer) * 2 ** (-octave * slope)
    return _colour(rng) + field * rng.uniform(30, 140)


def _gradient(rng: np.random.Generator) -> np.ndarray:
    u, v = _axes(rng)
    ramp = (u - u.min()) / (np.ptp(u) + 1e-9)
    picture = _colour(rng) * (1 - ramp[:, :, None]) + _colour(rng) * ramp[:, :, None]
    wave = np.sin(v * rng.uniform(0.05, 0.8) + rng.uniform(0, 6)) * rng.uniform(0, 20)
    return picture + wave[:, :, None] + rng.normal(0, rng.uniform(0, 4), (PIXELS, PIXELS, 3))


def _grid(rng: np.random.Generator) -> np.ndarray:
    u, v = _axes(rng)
    period, share = rng.uniform(4, 24), rng.uniform(0.2, 0.8)
    sharp = rng.uniform(1, 8)
    lines = np.clip((np.sin(u * 2 * np.pi / period) - share + 0.5) * sharp, 0, 1)
    if rng.random() < 0.5:
        lines = np.abs(lines - np.clip((np.sin(v * 2 * np.pi / rng.uniform(4, 24)) - share + 0.5) * sharp, 0, 1))
    return _gradient(rng) * (1 - lines[:, :, None]) + _colour(rng) * lines[:, :, None]


def _leaves(rng: np.random.Generator) -> np.ndarray:
    """Dead leaves: shapes of all sizes that cover each other, each with a shade and a grain of its own."""
    canvas = _noise(rng) if rng.random() < 0.5 else _gradient(rng)
    for _ in range(int(rng.integers(15, 50))):
        u, v = _axes(rng)
        size = min(3 / (rng.random() + 0.05), 30)
        u, v = u - u[tuple(rng.integers(0, PIXELS, 2))], v - v[tuple(rng.integers(0, PIXELS, 2))]
        v = v * rng.uniform(1, 3)
        far = np.hypot(u, v) if rng.random() < 0.5 else np.maximum(np.abs(u), np.abs(v))
        cover = np.clip((size - far) / rng.choice([1.0, 1.0, 3.0]) + 0.5, 0, 1)[:, :, None]
        grain = rng.normal(0, rng.uniform(0, 8), (PIXELS, PIXELS, 1))
        shade = _colour(rng) + (u * rng.normal(0, 1.5))[:, :, None] + grain
        canvas = canvas * (1 - cover) + shade * cover
    return canvas


class ScenesAndTextures:
    """A `daskt2i.protocols.Source`: of eight rows five are scenes and three are textures, drawn when they are read.

    Args:
        scenes: how many scenes, and three fifths as many textures.
        seed: of the textures; the scenes are always the same ones.
    """

    def __init__(self, scenes: int, seed: int = 0) -> None:
        self._rows, self._seed = scenes * 8 // 5, seed

    def info(self) -> SourceInfo:
        """Counts and identity."""
        content = {"scenes and textures": [self._rows, self._seed]}
        return SourceInfo(self._rows, 5, self._rows, 0, 0, 0, content, f"{self._rows} scenes and textures")

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """Rows `start <= index < stop`."""
        found = []
        for index in range(start, min(stop, self._rows)):
            number = index // 8 * 5 + index % 8
            texts = captions(scene(TRAINED, number)) if index % 8 < 5 else ("a texture",)
            found.append(Row(index, index, f"{index}", texts))
        return found

    def read(self, row: Row) -> bytes:
        """A scene as JPEG, a texture as PNG."""
        if row.index % 8 < 5:
            return jpeg(scene(TRAINED, row.index // 8 * 5 + row.index % 8))
        rng = np.random.default_rng([self._seed, row.index])
        buffer = io.BytesIO()
        Image.fromarray(texture(rng, row.index // 8 * 3 + row.index % 8 - 5)).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def different(seed: int, count: int) -> list[Scene]:
    """The first `count` scenes of a seed such that no two in the same group of 64 are described alike."""
    chosen: list[Scene] = []
    index = 0
    while len(chosen) < count:
        one, group = scene(seed, index), chosen[len(chosen) // 64 * 64 :]
        index += 1
        if describe(one) not in {describe(other) for other in group}:
            chosen.append(one)
    return chosen
