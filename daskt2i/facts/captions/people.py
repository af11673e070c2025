"""What the captions of an image say of people: whether there are any, gender, age, how many, and what they do.

Covers: one caption, and the captions of one image taken together.
Does not cover: looking at the picture. What is counted is what people wrote: docs/how-to/know-your-data.md
says what that means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daskt2i.facts.captions.activities import activities_of
from daskt2i.facts.captions.mentions import Mention, mentions_of, tokens_of
from daskt2i.facts.captions.rules import MANY, Rules
from daskt2i.facts.table import AGES, GROUPS


@dataclass(frozen=True, slots=True)
class CaptionPeople:
    """What one caption says.

    Attributes:
        mentions: its person words, in order.
        activities: lemma -> weight: 1 for the first verb of a person, 0.5 for each further one, 0.25 for a weak one.
        imaginary: it speaks of a cartoon, a diorama or the like.
    """

    mentions: tuple[Mention, ...]
    activities: dict[str, float]
    imaginary: bool


@dataclass(frozen=True, slots=True)
class People:
    """What all captions of an image say together. The values are those of `facts.GENDERS`, `AGES` and `GROUPS`.

    Attributes:
        activities: lemmas, the most said first; the first one is the main activity.
    """

    people: bool = False
    gender: str = "none"
    age: str = "none"
    group: str = "none"
    activities: tuple[str, ...] = ()


NOBODY = People()


def read_caption(tokens: list[str], rules: Rules) -> CaptionPeople | None:
    """What one caption, as `tokens_of` gives it, says of people; None where it says nothing at all."""
    imaginary = not rules.words["imaginary"].isdisjoint(tokens)
    mentions = mentions_of(tokens, rules)
    if not mentions and not imaginary:
        return None
    return CaptionPeople(tuple(mentions), activities_of(tokens, mentions, rules) if mentions else {}, imaginary)


def read_captions(captions: Sequence[str], rules: Rules) -> People:
    """What the captions of one image say together; see `read_tokens`."""
    return read_tokens([tokens_of(caption) for caption in captions], rules)


def read_tokens(captions: Sequence[list[str]], rules: Rules) -> People:
    """What the captions of one image, as `tokens_of` gives them, say together.

    - people: any caption names somebody, unless half of the captions or more speak of a cartoon, a diorama, a figurine.
    - gender: mixed where one caption names both, or the fewer of the two is said by a third of those that say any.
    - age: by most captions; elderly and teen narrow down adult and child.
    - group: the (upper) median of what the captions count. A plural without a number is as many as other captions
      say, if they say two or more.
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
