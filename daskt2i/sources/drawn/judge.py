"""Recognises the background, shapes, colours and places in a picture of a scene.

Covers: clean drawings, and pictures from a model. Some blur, noise, JPEG artefacts and crooked outlines are accepted.
The judge is as strict as a person: what it cannot recognise is None, and areas that do not belong are `extra`.
Does not cover: photographs, more than two shapes, shapes that touch or overlap (they count as one unknown shape).

The steps: the rim of the picture gives the background colour. Connected pixels of other colours form blobs. Each blob
has one colour, which gives a map: the share of each pixel that the blob covers. Its shape is the known shape of the
same area and centre that overlaps this map best. It uses only numpy, and takes about 5 ms for a picture of 64 pixels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from daskt2i.sources.drawn.drawing import BACKGROUNDS, COLOURS, OPPOSITE, SHAPE_COLOURS, SHAPES, Rgb, coverage
from daskt2i.sources.drawn.grammar import Expectation, ExpectedShape
from daskt2i.types import Pixels

Map = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]

SIDE = 96
"""Larger pictures are reduced to this side: the drawings have no finer detail, so it would only be noise."""

DIFFERS = 38.0
"""A pixel with a larger RGB distance is not background. The two nearest colours are 95 apart, minus the jitter."""

NAMED = 75.0
"""A colour has no name if its distance from every named colour is larger."""

CLEAR = 0.72
"""A colour has a name only if distance to the nearest name / distance to the second nearest is below this."""

FITS = 0.78
"""Smallest overlap (shared area / joint area) of a blob with its shape. Drawings have 0.9 and more."""

AHEAD = 0.03
"""The overlap of the best shape must exceed that of the second best by this."""

CROOKED, FAR_AHEAD = 0.70, 0.10
"""The same two limits for a shape that is far ahead of the others. A star has a long outline: with arms that a person
still accepts, its overlap falls by a quarter. A trained demo drew 26 pictures that `FITS` alone refused; this rule
accepts those with five clear arms. Of 576 pictures of blobs, from models that had not learned shapes, it accepts two
more, both nearly triangles."""

OFF = 60.0
"""A pixel has another colour if its RGB distance from every mixture of blob colour and background is larger."""

MIXED = 0.2
"""A blob has one colour if at most this share of it has another colour. JPEG smears colours over small shapes."""

NOISY = 8.0
"""A picture is smoothed first if the median RGB distance of the rim from its colour is larger."""

SPECK = 0.0015
"""A blob with at most this share of the picture is noise."""

SMALLEST = 0.006
"""A blob with less than this share of the picture is not a shape. The smallest star covers 0.0129."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One shape that the judge found.

    Attributes:
        shape, colour, size, place: as in `drawing.Thing`; None if uncertain.
        x, y, radius: centre and half extent, per mille of the side.
        rgb: the measured colour.
        fit: overlap with the best shape, 0 to 1.
    """

    shape: str | None
    colour: str | None
    size: str | None
    place: str | None
    x: int
    y: int
    radius: int
    rgb: Rgb
    fit: float


@dataclass(frozen=True, slots=True)
class SceneReading:
    """What a picture shows.

    Attributes:
        background: its colour; None if it has no named colour or more than one.
        things: the shapes, larger blobs first.
        extra: share of the picture that is neither background nor shape. Specks do not count.
    """

    background: str | None
    things: tuple[Seen, ...]
    extra: float

    @property
    def certain(self) -> bool:
        """Whether the picture is a scene: nothing is unknown and nothing is extra."""
        known = [thing.shape and thing.colour and thing.place for thing in self.things]
        return bool(self.background and 1 <= len(known) <= 2 and all(known) and self.extra == 0)


@dataclass(frozen=True, slots=True)
class SceneMatch:
    """Which parts of a sentence a picture shows. Parts that the sentence does not name count as shown.

    Attributes:
        background, shapes, colours, places: whether this part is right. Sizes are not judged, because people differ.
        bound: whether each shape has its own colour, not that of the other shape.
        clean: whether there are as many shapes as the sentence asks for, and nothing extra.
    """

    background: bool
    shapes: bool
    colours: bool
    bound: bool
    places: bool
    clean: bool

    @property
    def right(self) -> bool:
        """Whether all parts are right."""
        return self.background and self.shapes and self.colours and self.bound and self.places and self.clean


def match_scene(reading: SceneReading, wanted: Expectation) -> SceneMatch:
    """Compare the contents of a picture with what a sentence asks for."""
    asked, seen = wanted.things, reading.things
    shapes = Counter([str(thing.shape) for thing in asked]) == Counter([str(thing.shape) for thing in seen])
    colours = not Counter([t.colour for t in asked if t.colour]) - Counter([t.colour for t in seen if t.colour])
    orders = [seen] if len(seen) < 2 else [seen, seen[::-1]]
    same = [order for order in orders if len(order) == len(asked)]
    bound = [order for order in same if all(map(_is, asked, order))]
    placed = [order for order in bound or same if all(map(_lies, asked, order))]
    return SceneMatch(
        background=reading.background is not None and wanted.background in (None, reading.background),
        shapes=shapes,
        colours=colours and all(thing.colour for thing in seen),
        bound=bool(bound),
        places=bool(placed),
        clean=len(asked) == len(seen) and reading.extra == 0,
    )


def _is(wanted: ExpectedShape, seen: Seen) -> bool:
    return wanted.shape == seen.shape and seen.colour is not None and wanted.colour in (None, seen.colour)


def _lies(wanted: ExpectedShape, seen: Seen) -> bool:
    return wanted.place in (None, seen.place)


def judge(pixels: Pixels) -> SceneReading:
    """Recognise the contents of a picture.

    Args:
        pixels: `uint8[height, width, 3]`, at least 32 x 32. Only the centre square is used.

    Raises:
        ValueError: the array has another shape or dtype.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or min(pixels.shape[:2]) < 32:
        raise ValueError(f"not uint8[height, width, 3] of 32 pixels or more: {pixels.dtype}{list(pixels.shape)}")
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side > SIDE:
        square = np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BOX))
    picture = square.astype(np.float32)
    behind, background, noise = _background(picture)
    if noise > NOISY:
        picture = np.stack([_softer(picture[:, :, channel]) for channel in range(3)], axis=2)
        behind, background, noise = _background(picture)
    apart = _length(picture - behind) > DIFFERS
    things: list[Seen] = []
    extra = 0
    for blob in _blobs(apart):
        share = blob.sum() / blob.size
        if share <= SPECK:
            continue
        thing = _thing(picture, blob, behind) if share >= SMALLEST else None
        if thing is None:
            extra += int(blob.sum())
        else:
            things.append(thing)
    return SceneReading(background, _placed(things), round(extra / apart.size, 4))


def _length(vectors: Map) -> Map:
    lengths: Map = np.sqrt(np.square(vectors).sum(axis=-1))
    return lengths


def _background(picture: Map) -> tuple[Map, str | None, float]:
    """The colour of the rim, its name if nearly all of the rim has it, and the median distance of the rim from it."""
    wide = max(len(picture) // 32, 1)
    inside = np.zeros(picture.shape[:2], bool)
    inside[wide:-wide, wide:-wide] = True
    rim = picture[~inside]
    behind: Map = np.median(rim, axis=0).astype(np.float32)
    off = _length(rim - behind)
    name = _name(behind, BACKGROUNDS) if (off < DIFFERS).mean() >= 0.9 else None
    return behind, name, float(np.median(off))


def _name(rgb: Map, names: tuple[str, ...]) -> str | None:
    """The name of a colour; None if it is far from all named colours or between two."""
    far = _length(np.asarray([COLOURS[name] for name in COLOURS], np.float32) - rgb)
    nearest, second = np.argsort(far)[:2]
    name = list(COLOURS)[nearest]
    clear = far[nearest] <= NAMED and far[nearest] < CLEAR * far[second]
    return name if clear and name in names else None


def _blobs(mask: Mask) -> list[Mask]:
    """The connected parts of a mask, larger ones first. Pixels that touch at a corner are connected."""
    height, width = mask.shape
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(height, width), 0)
    while True:  # each round gives the highest number to all neighbours, until a blob has one number
        padded = np.pad(labels, 1)
        rows = np.maximum(np.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
        grown = np.where(mask, np.maximum(np.maximum(rows[:-2], rows[1:-1]), rows[2:]), 0)
        # A label is the flat index of another pixel of the blob. Taking that pixel's label saves rounds.
        jumped = np.where(mask, grown.ravel()[np.maximum(grown, 1) - 1], 0)
        grown = np.maximum(grown, jumped)
        if np.array_equal(grown, labels):
            break
        labels = grown
    numbers, counts = np.unique(labels[mask], return_counts=True)
    return [labels == number for number in numbers[np.argsort(-counts, kind="stable")]]


def _thing(picture: Map, blob: Mask, behind: Map) -> Seen | None:
    """The shape of a blob; None if it has more than one colour or is too small."""
    side = len(blob)
    away = _length(picture - behind)
    core = blob & (away >= 0.75 * np.quantile(away[blob], 0.9))
    ink: Map = np.median(picture[core], axis=0).astype(np.float32)
    line = ink - behind
    # Each pixel as a mixture of ink and background: the share of ink, and the distance from any such mixture.
    cover = ((picture - behind) @ line) / max(float(line @ line), 1.0)
    off = _length(picture - behind - cover[:, :, None] * line) + np.maximum(cover - 1.3, 0) * float(_length(line))
    near = _grown(blob, 1)
    cover = np.where(near, np.clip(cover, 0, 1), 0).astype(np.float32)
    area = float(cover.sum())
    mixed = float((off[blob] > OFF).mean()) > MIXED
    if mixed or area < SMALLEST * blob.size:
        return None
    fits = sorted(((_fit(cover, shape, area), shape) for shape in SHAPES), reverse=True)
    (fit, x, y, radius), shape = fits[0]
    # A blob of one colour keeps its colour and place if it has no shape: a sentence may be right about these.
    ahead = fit - fits[1][0][0]
    sure = (fit >= FITS and ahead >= AHEAD) or (fit >= CROOKED and ahead >= FAR_AHEAD)
    r, g, b = (int(value) for value in ink.round())
    per_mille = 1000 / side
    return Seen(
        shape=shape if sure else None,
        colour=_name(ink, SHAPE_COLOURS),
        size="small" if radius * per_mille < 135 else "medium" if radius * per_mille < 170 else "large",
        place=None,
        x=round(x * per_mille),
        y=round(y * per_mille),
        radius=round(radius * per_mille),
        rgb=(r, g, b),
        fit=round(fit, 3),
    )


def _grown(mask: Mask, by: int) -> Mask:
    padded = np.pad(mask, by)
    height, width = mask.shape
    grown = np.zeros_like(mask)
    for dy in range(2 * by + 1):
        for dx in range(2 * by + 1):
            grown |= padded[dy : dy + height, dx : dx + width]
    return grown


@cache
def _measures(shape: str) -> tuple[float, float]:
    """Area of a shape of radius 1, and the distance of its centre of mass below its centre."""
    drawn = coverage(shape, 128.0, 128.0, 100.0, 256, 256)
    rows = np.arange(256, dtype=np.float32) + np.float32(0.5)
    return float(drawn.sum()) / 100**2, (float((drawn.sum(axis=1) * rows).sum() / drawn.sum()) - 128) / 100


def _fit(cover: Map, shape: str, area: float) -> tuple[float, float, float, float]:
    """Overlap of a map with the shape of the same area and centre of mass; centre and radius of the shape in pixels.

    The best of three sharpnesses counts, so that a soft outline does not lower the overlap.
    """
    height, width = cover.shape
    unit, low = _measures(shape)
    radius = float(np.sqrt(area / unit))
    x = float((cover.sum(axis=0) @ (np.arange(width) + 0.5)) / area)
    y = float((cover.sum(axis=1) @ (np.arange(height) + 0.5)) / area) - low * radius
    drawn = coverage(shape, x, y, radius, width, height)
    best = 0.0
    for _ in range(3):
        best = max(best, float(np.minimum(cover, drawn).sum() / np.maximum(cover, drawn).sum()))
        drawn = _softer(drawn)
    return best, x, y, radius


def _softer(drawn: Map) -> Map:
    """The picture, blurred by 1 2 1 in both directions."""
    padded = np.pad(drawn, 1, mode="edge")
    rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    soft: Map = ((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4).astype(np.float32)
    return soft


def _placed(things: list[Seen]) -> tuple[Seen, ...]:
    """The things with their places: one thing relative to the picture, two things relative to each other."""
    if len(things) == 1:
        return (_at(things[0], _where(things[0].x - 500, things[0].y - 500, 100)),)
    if len(things) == 2:
        a, b = things
        place = _where(a.x - b.x, a.y - b.y, 0)
        return _at(a, place), _at(b, OPPOSITE[place] if place else None)
    return tuple(things)


def _where(right: int, down: int, middle: int) -> str | None:
    """The word for an offset; None if it is diagonal."""
    wide, high = abs(right), abs(down)
    if max(wide, high) < middle:
        return "centre"
    if max(wide, high) < 1.25 * min(wide, high):
        return None
    if wide > high:
        return "left" if right < 0 else "right"
    return "above" if down < 0 else "below"


def _at(thing: Seen, place: str | None) -> Seen:
    return Seen(thing.shape, thing.colour, thing.size, place, thing.x, thing.y, thing.radius, thing.rgb, thing.fit)
