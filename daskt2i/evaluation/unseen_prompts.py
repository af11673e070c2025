"""Sentences about drawn scenes, as prompts that the model has not seen.

Covers: sentences that describe a whole scene and are not in the data set.
Does not cover: captions of validation rows of other data (`heldout_captions`).
"""

from __future__ import annotations

from collections.abc import Iterable

from daskt2i.sources.drawn.grammar import Expectation, captions, parse_caption
from daskt2i.sources.scenes import scene

PROMPT_SEED = 20_000_003
"""Seed of the scenes that prompts come from. No data set of daskt2i uses this seed."""


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
