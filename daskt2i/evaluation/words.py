"""Which words of prompts pictures show: each colour, shape, place, background and number of shapes by itself.

Covers: for each word, the pictures whose prompt has it, and those of them that show it.
Does not cover: whether words belong together (`judging`: binding), how the judge reads a picture
(`sources.drawn.judge`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from daskt2i.evaluation.intervals import wilson
from daskt2i.sources.drawn.grammar import Expectation, ExpectedShape
from daskt2i.sources.drawn.judge import SceneReading, Seen

KINDS = ("colour", "shape", "place", "background", "count")
"""Kinds of words. A `count` is the number of shapes: `one` or `two`."""

_NUMBERS = {1: "one", 2: "two"}


@dataclass(slots=True)
class Words:
    """For each kind and word, the number of pictures that show it, and of those whose prompt has it.

    Attributes:
        of, right: by (kind, word).
    """

    of: Counter[tuple[str, str]] = field(default_factory=Counter)
    right: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, reading: SceneReading, wanted: Expectation) -> None:
        """Count one picture. A word that a prompt has twice is shown if the picture has it twice."""
        for kind, word, shown in _judged(reading, wanted):
            self.of[kind, word] += 1
            self.right[kind, word] += shown

    def rows(self) -> list[tuple[str, str, int, int]]:
        """Kind, word, right pictures and all pictures of each word; in a kind the words with the smallest share first.

        So the word that a model does not draw stands where a reader looks first.
        """
        found = [(kind, word, self.right[kind, word], of) for (kind, word), of in self.of.items()]
        return sorted(found, key=lambda row: (KINDS.index(row[0]), row[2] / row[3], row[1]))

    def to_json(self) -> dict[str, Any]:
        """Kind -> word -> count, share and interval."""
        found: dict[str, Any] = {}
        for kind, word, right, of in self.rows():
            low, high = wilson(right, of)
            about = {"count": of, "share": round(right / of, 4), "interval": [round(low, 4), round(high, 4)]}
            found.setdefault(kind, {})[word] = about
        return found


def _judged(reading: SceneReading, wanted: Expectation) -> Iterator[tuple[str, str, bool]]:
    """Each kind and word of a prompt, and whether the picture shows it."""
    for kind in ("colour", "shape", "place"):
        seen = _counted(reading.things, kind)
        for word, count in _counted(wanted.things, kind).items():
            yield kind, word, seen[word] >= count
    if wanted.background is not None:
        yield "background", wanted.background, reading.background == wanted.background
    number = len(wanted.things)
    yield "count", _NUMBERS.get(number, str(number)), len(reading.things) == number and reading.extra == 0


def _counted(things: tuple[Seen, ...] | tuple[ExpectedShape, ...], kind: str) -> Counter[str]:
    return Counter(word for thing in things if (word := getattr(thing, kind)) is not None)
