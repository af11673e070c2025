"""Makes and draws scenes: one or two coloured shapes on a coloured background.

Covers: the words (colours, shapes, sizes, places), the scene of each number, and its pixels.
Does not cover: sentences about a scene (`grammar`), recognising the shapes of a picture (`judge`), rows and files
(`sources.scenes`).

Lengths are in per mille of the *centre square*, the largest centred square of the picture. All shapes lie inside it, so
resizing the shorter side and cropping the centre loses nothing.

Scene i of a seed never changes. Its numbers come only from SHA-256 and integer arithmetic. Its pixels come only from
additions, multiplications, divisions and square roots, which IEEE 754 rounds the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from daskt2i.types import Pixels

T = TypeVar("T")
Rgb = tuple[int, int, int]

VERSION = 1
"""Raise it when any scene, caption or pixel changes. It is part of the identity of the data."""

CLOSE_VERSION = 3
"""The same for scenes with one shape each."""

COLOURS: dict[str, Rgb] = {
    "red": (205, 25, 40),
    "orange": (245, 130, 20),
    "yellow": (250, 225, 50),
    "green": (35, 150, 65),
    "blue": (35, 85, 215),
    "purple": (135, 40, 170),
    "white": (245, 245, 245),
    "black": (18, 18, 18),
    "grey": (135, 135, 135),
    "pink": (245, 155, 195),
}
"""Name -> RGB. Any two are at least 95 apart."""

SHAPE_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
BACKGROUNDS = (*SHAPE_COLOURS, "grey", "pink")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
PLACES = ("centre", "left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

SIZES = {"small": (105, 125), "medium": (145, 160), "large": (180, 190)}
"""Name -> smallest and largest radius. A single shape may be larger. Captions never name the medium size."""

LARGEST_ALONE = 300

CLOSE_SIZES = {"small": (235, 255), "medium": (275, 295), "large": (310, 330)}
"""The same if every scene has one shape. There is more room, and a small model sees a large shape better."""

EDGE = 30
"""Smallest distance of a shape from the edge of the centre square."""

PICTURES = (
    (640, 480), (480, 640), (640, 427), (427, 640), (640, 426),
    (640, 360), (500, 375), (375, 500), (612, 612), (640, 512),
)  # fmt: skip
"""(width, height) in pixels; frequent sizes in COCO."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape of a scene.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `SHAPE_COLOURS`.
        size: one of `SIZES`.
        place: one of `PLACES`; in a scene with two things it is the place relative to the other thing.
        x, y: its centre, per mille of the centre square from the left and the top.
        radius: half its extent, per mille of the centre square.
        rgb: its exact colour, near the named colour.
    """

    shape: str
    colour: str
    size: str
    place: str
    x: int
    y: int
    radius: int
    rgb: Rgb


@dataclass(frozen=True, slots=True)
class Scene:
    """One drawn picture.

    Attributes:
        seed, index: seed and number of the scene.
        width, height: size of the picture in pixels.
        background: name of the background colour. No thing has this colour.
        background_rgb: the exact colour, near the named colour.
        things: one thing, or two that differ in shape or colour.
    """

    seed: int
    index: int
    width: int
    height: int
    background: str
    background_rgb: Rgb
    things: tuple[Thing, ...]


class SeededNumbers:
    """Pseudo-random numbers that depend only on the key, not on the version of any library."""

    def __init__(self, *key: int | str) -> None:
        self._key = "/".join(str(part) for part in ("daskt2i", *key)).encode()
        self._numbers: list[int] = []
        self._block = 0

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1."""
        if not self._numbers:
            digest = hashlib.sha256(self._key + b"#%d" % self._block).digest()
            self._numbers = [int.from_bytes(digest[i : i + 4], "big") for i in range(0, 32, 4)]
            self._block += 1
        return (self._numbers.pop() * n) >> 32

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """All options in random order."""
        rest = list(options)
        return [rest.pop(self.below(len(rest))) for _ in options]


def scene(seed: int, index: int, shapes: int = 2) -> Scene:
    """Scene number `index` of `seed`. It takes about 20 microseconds and draws nothing.

    Args:
        shapes: largest number of shapes. With 2, two of five scenes have one shape. With 1, each scene has one shape,
            which is drawn larger.
    """
    draws = SeededNumbers("scene", VERSION, seed, index)
    width, height = draws.choice(PICTURES)
    background = draws.choice(BACKGROUNDS)
    kinds = [(shape, colour) for shape in SHAPES for colour in SHAPE_COLOURS if colour != background]
    first = draws.choice(kinds)
    if draws.below(5) < 2 or shapes == 1:
        things: tuple[Thing, ...] = (_alone(draws, *first, close=shapes == 1),)
    else:
        kinds.remove(first)
        things = _pair(draws, first, draws.choice(kinds))
    return Scene(seed, index, width, height, background, _near(draws, background), things)


def _near(draws: SeededNumbers, colour: str) -> Rgb:
    r, g, b = (min(max(value + draws.between(-10, 10), 0), 255) for value in COLOURS[colour])
    return r, g, b


def _alone(draws: SeededNumbers, shape: str, colour: str, close: bool) -> Thing:
    size = draws.choice(tuple(SIZES))
    low, high = (CLOSE_SIZES if close else SIZES)[size]
    radius = draws.between(low, LARGEST_ALONE if size == "large" and not close else high)
    place = draws.choice(PLACES)
    off = min(500 - EDGE - radius, draws.between(240, 280))
    aside = draws.between(-40, 40)
    x, y = _shifted(place, off, aside, draws.between(-40, 40))
    return Thing(shape, colour, size, place, x, y, radius, _near(draws, colour))


def _pair(draws: SeededNumbers, first: tuple[str, str], second: tuple[str, str]) -> tuple[Thing, Thing]:
    place = draws.choice(tuple(OPPOSITE))
    things = []
    for (shape, colour), where in ((first, place), (second, OPPOSITE[place])):
        size = draws.choice(tuple(SIZES))
        radius = draws.between(*SIZES[size])
        x, y = _shifted(where, draws.between(240, 255), draws.between(-60, 60), 0)
        things.append(Thing(shape, colour, size, where, x, y, radius, _near(draws, colour)))
    return things[0], things[1]


def _shifted(place: str, off: int, aside: int, wobble: int) -> tuple[int, int]:
    if place == "centre":
        return 500 + wobble, 500 + aside
    along = 500 - off if place in ("left", "above") else 500 + off
    return (along, 500 + aside) if place in ("left", "right") else (500 + aside, along)


def draw(scene: Scene, width: int | None = None, height: int | None = None) -> Pixels:
    """The picture, antialiased: `uint8[height, width, 3]`.

    Args:
        width, height: size in pixels; None takes the size of the scene. The centre square is the same in any size.
    """
    width, height = width or scene.width, height or scene.height
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = np.tile(np.asarray(scene.background_rgb, np.uint8), (width, 1))  # by rows: 20 times faster than pixels
    for thing in scene.things:
        x, y, radius = (value * side / 1000 for value in (thing.x, thing.y, thing.radius))
        reach = int(1.1 * radius) + 2
        x0, x1 = max(left + int(x) - reach, 0), min(left + int(x) + reach, width)
        y0, y1 = max(top + int(y) - reach, 0), min(top + int(y) + reach, height)
        cover = coverage(thing.shape, x + left - x0, y + top - y0, radius, x1 - x0, y1 - y0)[:, :, None]
        behind = canvas[y0:y1, x0:x1].astype(np.float32)
        ink = np.asarray(thing.rgb, np.float32)
        canvas[y0:y1, x0:x1] = (behind + cover * (ink - behind) + np.float32(0.5)).astype(np.uint8)
    return canvas


def coverage(shape: str, x: float, y: float, radius: float, width: int, height: int) -> npt.NDArray[np.float32]:
    """The share of each pixel that a shape covers, `float32[height, width]`, 0 to 1.

    It follows from the signed distance to the outline: 1 from half a pixel inside, 0 from half a pixel outside.

    Args:
        shape: one of `SHAPES`.
        x, y: its centre in pixels from the left and the top edge of the array.
        radius: half its extent in pixels.
    """
    u = (np.arange(width, dtype=np.float32) + np.float32(0.5 - x))[None, :]
    v = (np.arange(height, dtype=np.float32) + np.float32(0.5 - y))[:, None]
    outside: npt.NDArray[np.float32] = np.float32(0.5) - _distance(shape, u, v, np.float32(radius))
    return np.minimum(np.maximum(outside, np.float32(0)), np.float32(1))


def _distance(shape: str, u: Any, v: Any, r: Any) -> Any:
    """Signed distance of the points (u, v) from the outline of a shape around the origin, negative inside."""
    f = np.float32
    if shape == "circle":
        return np.sqrt(u * u + v * v) - r
    if shape == "ring":
        far = np.sqrt(u * u + v * v)
        return np.maximum(far - r, f(0.52) * r - far)
    a, b = np.abs(u), np.abs(v)
    if shape == "square":
        return np.maximum(a, b) - f(0.86) * r
    if shape == "cross":
        arm = f(0.32) * r
        return np.minimum(np.maximum(a - r, b - arm), np.maximum(a - arm, b - r))
    if shape == "triangle":  # corners (0, -0.95), (-0.98, 0.75), (0.98, 0.75): equilateral to one in a thousand
        return np.maximum(v - f(0.75) * r, (a * f(1.70) - (v + f(0.95) * r) * f(0.98)) / f(1.96225))
    if shape == "star":  # a pentagram: its points are inside at least four of the five lines through its corners
        v, line = v - f(0.1) * r, f(0.33374) * r  # 1.08 cos 72 deg
        up, side, foot = -v, f(-0.309017) * v, f(0.809017) * v
        sides = (up, side + f(0.951057) * u, side - f(0.951057) * u, foot + f(0.587785) * u, foot - f(0.587785) * u)
        first, second = np.maximum(sides[0], sides[1]), np.minimum(sides[0], sides[1])
        for one in sides[2:]:
            second = np.maximum(second, np.minimum(first, one))
            first = np.maximum(first, one)
        return second - line
    raise ValueError(f"no shape is called {shape!r}; there are {', '.join(SHAPES)}")
