"""Writes sentences about scenes, and parses a sentence into what a picture must show.

Covers: five different captions for each scene, one sentence that describes all of a scene, and parsing such sentences
and similar prompts (`parse_caption`).
Does not cover: drawing (`drawing`), recognising the shapes of a picture (`judge`), general English: a sentence outside
the grammar gives None, not a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from daskt2i.sources.drawn.drawing import (
    BACKGROUNDS,
    OPPOSITE,
    SHAPE_COLOURS,
    SHAPES,
    VERSION,
    Scene,
    SeededNumbers,
    Thing,
)

SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
RELATION = {
    "left": ("to the left of", "left of", "on the left side of"),
    "right": ("to the right of", "right of", "on the right side of"),
    "above": ("above", "somewhere above"),
    "below": ("below", "under", "beneath"),
}
ITS = {"left": "to its left", "right": "to its right", "above": "above it", "below": "below it"}
SPOT = {
    "centre": ("in the middle", "in the centre"),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "above": ("at the top", "in the upper part"),
    "below": ("at the bottom", "in the lower part"),
}

# {a}, {b}: "a small red circle"; {the_a}: "the red circle"; {rel}: place of a relative to b; {its}: the same after b;
# {spot}, {spot_b}: place in the picture; {hue}: the background's colour, {a_hue} with its article; {ground}: words for
# the background. Captions of a scene use different lines, so that no two are alike.
PAIR_FULL = (
    "{a} {rel} {b} {ground}",
    "there is {a} {rel} {b} {ground}",
    "{ground}, {a} is {rel} {b}",
    "{b} with {a} {its}, {ground}",
    "{the_a} sits {rel} {the_b} and the background is {hue}",
    "{a_hue} background with {a} {rel} {b}",
    "a picture of {a} {rel} {b}, all {ground}",
    "{a} {spot} and {b} {spot_b}, {ground}",
    "{a_hue} image showing {a} {spot} and {b} {spot_b}",
)
PAIR_PLAIN = (
    "{a} and {b} {ground}",
    "two shapes {ground}: {a} and {b}",
    "{a_hue} picture with {a} and {b}",
)
PAIR_SHORT = (
    "{a} {rel} {b}",
    "there is {a} {rel} {b}",
    "{a} can be seen {rel} {b}",
    "{a} {spot} and {b} {spot_b}",
)
ALONE_FULL = (
    "{a} {spot} {ground}",
    "there is {a} {spot} of {a_hue} picture",
    "{ground}, {a} is {spot}",
    "{a_hue} background with {a} {spot}",
    "{the_a} is {spot} and the background is {hue}",
    "a picture of {a} {spot}, {ground}",
    "{a_hue} image showing {a} {spot}",
)
ALONE_PLAIN = (
    "{a} {ground}",
    "a single shape {ground}: {a}",
    "{a_hue} picture with {a} and nothing else",
)
ALONE_SHORT = ("{a} {spot}", "there is {a} {spot} of the picture", "{a} can be seen {spot}")
GROUND = (
    "on {a_hue} background",
    "against {a_hue} background",
    "on {a_hue} backdrop",
    "on a plain {hue} background",
    "on {hue}",
)


@dataclass(frozen=True, slots=True)
class ExpectedShape:
    """One shape that a sentence asks for. An attribute that the sentence does not name is None.

    Attributes:
        shape, colour, size, place: as in `drawing.Thing`.
    """

    shape: str
    colour: str | None = None
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a sentence asks a picture to show.

    Attributes:
        background: one of `drawing.BACKGROUNDS`; None if the sentence does not name it.
        things: one or two shapes in the order of the sentence. The picture must show no other shape.
    """

    background: str | None
    things: tuple[ExpectedShape, ...]


def captions(scene: Scene) -> tuple[str, ...]:
    """Five different true sentences about a scene.

    Three captions name the background, and the colour, shape and place of each thing. One caption leaves out the
    places, and one leaves out the background. About half of the captions name the sizes small and large.
    """
    draws = SeededNumbers("captions", VERSION, scene.seed, scene.index)
    alone = len(scene.things) == 1
    lines = draws.shuffled(ALONE_FULL if alone else PAIR_FULL)[:3]
    lines.append(draws.choice(ALONE_PLAIN if alone else PAIR_PLAIN))
    lines.append(draws.choice(ALONE_SHORT if alone else PAIR_SHORT))
    return tuple(_filled(line, scene, draws) for line in draws.shuffled(lines))


def describe(scene: Scene) -> str:
    """One sentence with all contents of a scene. Scenes that look alike to a person have equal sentences."""
    first, *rest = sorted(scene.things, key=lambda thing: thing.place not in ("left", "above"))
    place = f"{RELATION[first.place][0]} {_noun(rest[0], True)}" if rest else SPOT[first.place][0]
    return f"{_noun(first, True)} {place} on {_article(scene.background)} background".capitalize() + "."


def expected(scene: Scene) -> Expectation:
    """What a picture of this scene must show."""
    return Expectation(
        scene.background,
        tuple(ExpectedShape(thing.shape, thing.colour, thing.size, thing.place) for thing in scene.things),
    )


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _noun(thing: Thing, sized: bool) -> str:
    words = f"{thing.colour} {thing.shape}"
    return _article(f"{SIZE_WORDS[thing.size][0]} {words}" if sized and thing.size in SIZE_WORDS else words)


def _filled(line: str, scene: Scene, draws: SeededNumbers) -> str:
    things = draws.shuffled(scene.things)
    nouns = []
    for thing in things:
        words = f"{thing.colour} {thing.shape}"
        if thing.size in SIZE_WORDS and draws.below(2):
            words = f"{draws.choice(SIZE_WORDS[thing.size])} {words}"
        nouns.append(words)
    place = things[0].place
    slots = {
        "hue": scene.background,
        "a_hue": _article(scene.background),
        "a": _article(nouns[0]),
        "the_a": f"the {nouns[0]}",
        "spot": draws.choice(SPOT[place]),
    }
    slots["ground"] = draws.choice(GROUND).format(**slots)
    if len(things) == 2:
        slots |= {
            "b": _article(nouns[1]),
            "the_b": f"the {nouns[1]}",
            "rel": draws.choice(RELATION[place]),
            "its": ITS[place],
            "spot_b": draws.choice(SPOT[OPPOSITE[place]]),
        }
    text = line.format(**slots)
    return text[0].upper() + text[1:] + ("." if draws.below(5) else "")


_SIZES = {word: size for size, words in SIZE_WORDS.items() for word in words}
_PLACES = {
    "left": "left", "right": "right",
    "above": "above", "top": "above", "upper": "above",
    "below": "below", "under": "below", "beneath": "below", "bottom": "below", "lower": "below",
    "middle": "centre", "centre": "centre", "center": "centre",
}  # fmt: skip
_COLOURS = {colour: colour for colour in BACKGROUNDS} | {"gray": "grey"}
_BEFORE = {"a", "an", "the", "one", "single"}
_OTHER = _BEFORE | {
    *("and", "with", "of", "to", "on", "in", "at", "against", "is", "are", "all", "it", "its", "there", "can", "be"),
    *("seen", "sits", "showing", "shows", "side", "part", "somewhere", "plain", "solid", "two", "shape", "shapes"),
    *("nothing", "else", "background", "backdrop", "picture", "image", "photo", "drawing"),
}


def parse_caption(text: str) -> Expectation | None:
    """What a sentence of the grammar, or a similar prompt, asks for; None if this is not certain.

    It parses captions, and prompts such as `"red circle left of a blue square"`. It gives None for an unknown word, for
    no shape or more than two shapes, for two backgrounds, and for places that contradict each other.
    """
    words = re.findall(r"\w+", text.lower())
    things: list[dict[str, str | None]] = []
    places: list[list[str]] = []
    backgrounds = set()
    for i, word in enumerate(words):
        before = words[i - 1] if i else "a"
        if word in SHAPES:
            colour = _COLOURS.get(before)
            if colour is None and before not in _BEFORE | set(_SIZES):
                return None
            size = _SIZES.get(words[i - 2] if colour and i > 1 else before)
            if colour and colour not in SHAPE_COLOURS:
                return None
            things.append({"shape": word, "colour": colour, "size": size})
            places.append([])
        elif word in _COLOURS:
            if i + 1 == len(words) or words[i + 1] not in SHAPES:
                backgrounds.add(_COLOURS[word])
        elif word in _PLACES:
            if not places:  # "to the left of a circle is a square": unclear which shape the place belongs to
                return None
            places[-1].append(_PLACES[word])
        elif word in _SIZES:
            follows = words[i + 1 : i + 3]
            if not (follows and (follows[0] in SHAPES or follows[0] in _COLOURS) and set(follows) & set(SHAPES)):
                return None
        elif word not in _OTHER:
            return None
    if not 1 <= len(things) <= 2 or len(backgrounds) > 1 or any(len(set(said)) > 1 for said in places):
        return None
    where = [said[0] if said else None for said in places]
    if len(where) == 2 and any(where):
        if "centre" in where or (all(where) and where[0] != OPPOSITE[str(where[1])]):
            return None
        where = [place or OPPOSITE[str(other)] for place, other in zip(where, reversed(where), strict=True)]
    return Expectation(
        min(backgrounds, default=None),
        tuple(ExpectedShape(**thing, place=place) for thing, place in zip(things, where, strict=True)),  # type: ignore[arg-type]
    )
