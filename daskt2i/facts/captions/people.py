"""Combines the captions of an image: whether there are people, their gender, age, number and activities.

Covers: one caption, and all captions of one image together.
Does not cover: the picture itself. The counts are about what people wrote (see docs/how-to/know-your-data.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daskt2i.facts.captions.activities import activities_of
from daskt2i.facts.captions.mentions import Mention, mentions_of
from daskt2i.facts.captions.rules import MANY, Rules
from daskt2i.facts.table import AGES, GROUPS


@dataclass(frozen=True, slots=True)
class CaptionPeople:
    """People in one caption.

    Attributes:
        mentions: its person words, in order.
        activities: lemma -> weight: 1 for the first verb of a person, 0.5 for each further verb, 0.25 for a weak verb.
        imaginary: whether it mentions a cartoon, a diorama or something similar.
    """

    mentions: tuple[Mention, ...]
    activities: dict[str, float]
    imaginary: bool


@dataclass(frozen=True, slots=True)
class People:
    """People in all captions of an image together. The values are those of `table.GENDERS`, `AGES` and `GROUPS`.

    Attributes:
        activities: lemmas, the most frequent first. The first one is the main activity.
    """

    people: bool = False
    gender: str = "none"
    age: str = "none"
    group: str = "none"
    activities: tuple[str, ...] = ()


NOBODY = People()


def read_caption(tokens: list[str], rules: Rules) -> CaptionPeople | None:
    """People in one caption, given as the tokens of `mentions.tokens_of`; None if it mentions nobody."""
    imaginary = not rules.words["imaginary"].isdisjoint(tokens)
    mentions = mentions_of(tokens, rules)
    if not mentions and not imaginary:
        return None
    return CaptionPeople(tuple(mentions), activities_of(tokens, mentions, rules) if mentions else {}, imaginary)


def read_tokens(captions: Sequence[list[str]], rules: Rules) -> People:
    """People in the captions of one image together, given as the tokens of `mentions.tokens_of`.

    - people: true if a caption names a person, unless half of the captions or more mention a cartoon, a diorama, a
      figurine.
    - gender: mixed if one caption names both, or if the rarer gender is in a third of the captions that name any.
    - age: the age of most captions. Elderly replaces adult, and teen replaces child.
    - group: the (upper) median of the counts in the captions. A plural without a number gets the count of other
      captions, if they count two or more.
    """
    read = [found for caption in captions if (found := read_caption(caption, rules)) is not None]
    told = [found for found in read if found.mentions]
    if not told or 2 * sum(found.imaginary for found in read) >= len(captions):
        return NOBODY
    scores: dict[str, float] = {}
    for found in told:
        for lemma, weight in found.activities.items():
            scores[lemma] = scores.get(lemma, 0.0) + weight
    return People(
        people=True,
        gender=_gender(told),
        age=_age(told),
        group=_group(told),
        activities=tuple(sorted(scores, key=lambda lemma: -scores[lemma])),
    )


def _gender(told: Sequence[CaptionPeople]) -> str:
    said = [{m.person.gender for m in found.mentions} for found in told]
    male, female = (sum(gender in one for one in said) for gender in ("male", "female"))
    both = sum({"male", "female"} <= one for one in said)
    if male and female:
        if both or 3 * min(male, female) >= male + female - both:
            return "mixed"
        return "male" if male > female else "female"
    return "male" if male else "female" if female else "neutral"


def _group(told: Sequence[CaptionPeople]) -> str:
    counts: list[int] = []
    plain = 0
    for found in told:
        if len(found.mentions) == 1 and found.mentions[0].open:
            plain += 1
        else:
            counts.append(min(MANY, sum(mention.number for mention in found.mentions)))
    several = sorted(count for count in counts if count > 1)
    counts += [several[len(several) // 2] if several else MANY] * plain
    return GROUPS[sorted(counts)[len(counts) // 2]]


def _age(told: Sequence[CaptionPeople]) -> str:
    said = [{m.person.age for m in found.mentions} - {"unstated"} for found in told]
    count = {age: sum(age in one for one in said) for age in AGES}
    young, grown = count["child"] + count["teen"], count["adult"] + count["elderly"]
    if not young and not grown:
        return "unstated"
    both = sum(bool(one & {"child", "teen"}) and bool(one & {"adult", "elderly"}) for one in said)
    if young and grown and (both > 1 or 2 * both >= len(told)):
        return "mixed"
    if young > grown:
        return "teen" if count["teen"] else "child"
    return "elderly" if count["elderly"] else "adult"
