"""How well pictures of drawn scenes show their prompts, by the judge.

Covers: the shares of right pictures with their counts.
Does not cover: drawing the pictures (`sample.driver`), how the judge reads a picture (`sources.drawn.judge`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from daskt2i.errors import ConfigError
from daskt2i.evaluation.intervals import wilson
from daskt2i.evaluation.words import Words
from daskt2i.events import Listener, Progress, ignore
from daskt2i.sample.painter import DrawnPicture
from daskt2i.sources.drawn.grammar import Expectation, parse_caption
from daskt2i.sources.drawn.judge import SceneMatch, judge, match_scene

FIELDS = ("background", "colour", "shape", "binding", "place", "clean", "all")
"""The checks of the judge: the colour of the background; the colours; the shapes; each shape has its own colour; the
places of the shapes; nothing else is in the picture; all checks together."""


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
        """All shares with their intervals, and the count."""
        shares = {name: round(self.share(name), 4) for name in FIELDS}
        intervals = {name: [round(end, 4) for end in wilson(self.right[name], self.of)] for name in FIELDS}
        return {"count": self.of, **shares, "intervals": intervals}


@dataclass(slots=True)
class Fidelity:
    """The result of `evaluate` with the judge.

    Attributes:
        overall, single, pair: shares of all pictures, of pictures with one thing, of pictures with two things.
        right: for each picture in order, whether all fields are right.
        problems: for each picture the fields that are wrong; "" if none is.
        words: the same by word.
    """

    overall: Shares = field(default_factory=Shares)
    single: Shares = field(default_factory=Shares)
    pair: Shares = field(default_factory=Shares)
    right: list[bool] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    words: Words = field(default_factory=Words)


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
        reading = judge(picture.pixels)
        verdict = match_scene(reading, wanted)
        found.words.add(reading, wanted)
        found.overall.add(verdict)
        (found.single if len(wanted.things) == 1 else found.pair).add(verdict)
        found.right.append(verdict.right)
        values = zip(FIELDS, fields_of(verdict), strict=True)
        found.problems.append(", ".join(name for name, right in values if not right and name != "all"))
        listener(Progress("pictures judged", len(found.right), len(pictures)))
    return found
