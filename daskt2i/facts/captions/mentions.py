"""Finds the person words of one caption, with gender, age and number.

Covers: words that do not mean a person because of their neighbours (visitor center, baby elephant, statue of a man,
child's blanket, place settings for 7 people), words that describe the next word (male skier), numbers, ages, pronouns.
Does not cover: activities (`activities`), several captions together (`people`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from daskt2i.facts.captions.rules import ENDINGS, MANY, Person, Rules

_TOKEN = re.compile(r"[a-z]+(?:[-'][a-z]+)*(?:(?<=s)')?|[0-9]+|[,.;:]")
_LONGEST = 300
"""Only so many tokens of a caption are read. A text of 3,000 words is not a caption and must not take more time."""


@dataclass(frozen=True, slots=True)
class Mention:
    """One person word that counts.

    Attributes:
        place: index of its token.
        person: the person that it names, with what the words before it add.
        number: 1, 2 or 3 (three or more).
        open: whether it is a plural without a number (two or more).
    """

    place: int
    person: Person
    number: int
    open: bool = False


def tokens_of(caption: str) -> list[str]:
    """Words in lower case, numbers, and the marks `, . ; :`; only the first 300."""
    text = caption.lower().replace("’", "'").replace("`", "'")
    return _TOKEN.findall(text[: 20 * _LONGEST])[:_LONGEST]


def mentions_of(tokens: list[str], rules: Rules) -> list[Mention]:
    """The person words that count, in order."""
    return _Caption(tokens, rules).mentions()


class _Caption:
    """Finds the person words of one caption."""

    def __init__(self, tokens: list[str], rules: Rules) -> None:
        self.tokens, self.rules = tokens, rules

    def mentions(self) -> list[Mention]:
        tokens, rules = self.tokens, self.rules
        found: list[Mention] = []
        carried: Person | None = None  # a word that describes the next person word
        for place, token in enumerate(tokens):
            person = rules.persons.get(token)
            if person is None and (token[-3:] in ENDINGS or "'" in token):
                person = self._person(token)
            if person is None:
                continue
            if self._is_something_else(place, person):
                carried = None
                continue
            if self._describes_next(place, person):
                carried = person
                continue
            person, carried = self._filled(place, person, carried), None
            if self._said_before(place, person, found):
                continue
            number = self._number(place, person)
            plain = number is None and person.plural and not person.collective
            found.append(Mention(place, person, number or person.number, open=plain))
        if not found:
            return self._by_pronoun()
        if not rules.words["others"].isdisjoint(tokens):
            place = next(i for i, token in enumerate(tokens) if token in rules.words["others"])
            found.append(Mention(place, Person("others", "neutral", "unstated", MANY, plural=True), MANY))
            found.sort(key=lambda mention: mention.place)
        return self._with_pronouns(found)

    def _person(self, token: str) -> Person | None:
        person = self.rules.person(token)
        if person is None and token.endswith(("'s", "s'")):
            person = self.rules.person(token[:-2] if token.endswith("'s") else token[:-1])
            return replace(person, possessive=True) if person else None
        return person

    def _is_something_else(self, place: int, person: Person) -> bool:
        tokens, words, tables = self.tokens, self.rules.words, self.rules.tables
        after = tokens[place + 1 : place + 4]
        before = tokens[max(0, place - 5) : place]
        if person.possessive:
            return words["body"].isdisjoint(after)
        following = after[0] if after else ""
        if following in words["things"] and not person.plural:
            verb = self.rules.verbs.get(after[1]) if len(after) > 1 else None
            if verb is None or verb.form != "ing":  # a man horse riding
                return True
        if not person.plural and self._is_an_animals(after):
            return True
        last = before[-1] if before else ""
        if person.lemma in words["kin"] and self._is_an_animals_kin(place):
            return True
        if last in words["unreal"] or last in tables["unless_after"].get(person.lemma, ()):
            return True
        if following in tables["unless_before"].get(person.lemma, ()):
            return True
        if person.collective and self._of_others(place, last):
            return True
        return self._denied(before)

    def _is_an_animals(self, after: list[str]) -> bool:
        """Whether the word describes an animal: an adult polar bear, a baby brown bear."""
        return (
            len(after) > 1
            and after[1] in self.rules.words["animals"]
            and after[0] not in self.rules.words["stops"]
            and after[0] not in self.rules.verbs
            and after[0].isalpha()
        )

    def _is_an_animals_kin(self, place: int) -> bool:
        """Whether the nearest noun before the word is an animal: its mother, zebra mother, a giraffe and her baby."""
        before = self.tokens[max(0, place - 4) : place]
        if before[-1:] == ["its"]:
            return True
        joined = [token for token in before if token not in self.rules.words["determiners"]]
        if joined[-1:] and joined[-1] in self.rules.words["animals"]:
            return True
        return joined[-1:] in (["and"], ["or"]) and len(joined) > 1 and joined[-2] in self.rules.words["animals"]

    def _of_others(self, place: int, last: str) -> bool:
        """Whether a family, couple or crowd is not of people, or is of people who are counted themselves."""
        if last in self.rules.words["animals"]:
            return True
        after = self.tokens[place + 1 : place + 6]
        if after[:1] != ["of"]:
            # "two couple people": the plural after the word counts
            return False
        return not (
            len(after) > 1
            and (after[1].isdigit() or self.rules.numbers.get(after[1], 0) > 1)
            and not any(token in self.rules.words["animals"] or self.rules.person(token) for token in after[2:])
        )

    def _denied(self, before: list[str]) -> bool:
        """Whether the words before say that there is no person: no people, a statue of a man, settings for 7 people."""
        words, numbers = self.rules.words, self.rules.numbers
        for back in range(len(before) - 1, -1, -1):
            token = before[back]
            if token in words["negations"]:
                return True
            if token == "of":
                return back > 0 and before[back - 1] in words["depictions"]
            if token == "for":
                counted = any(t.isdigit() or numbers.get(t, 0) > 1 for t in before[back + 1 :])
                return counted and not words["could_serve"].isdisjoint(before[:back])
            if token in words["stops"] and token not in words["determiners"]:
                return False
        return False

    def _describes_next(self, place: int, person: Person) -> bool:
        """Whether the word describes the next person word: `male` in "male skier", `police` in "police officer"."""
        if person.plural or person.possessive:
            return False
        after = self.tokens[place + 1 : place + 3]
        for distance, token in enumerate(after):
            other = self.rules.person(token)
            if other is not None:
                clash = {person.gender, other.gender} == {"male", "female"}
                near = distance == 0 and not clash
                return not other.possessive and (near or (person.gender != "neutral" and other.gender == "neutral"))
            if token in self.rules.words["stops"] or token in self.rules.verbs or not token.isalpha():
                return False
        return False

    def _filled(self, place: int, person: Person, carried: Person | None) -> Person:
        gender, age = person.gender, person.age
        if carried is not None:
            gender = carried.gender if gender == "neutral" else gender
            age = carried.age if age == "unstated" else age
        for distance, token in enumerate(self._phrase(place)):
            said = self.rules.ages.get(token)
            narrower = said == "teen" or (said == "elderly" and age != "child")
            small = said == "child" and distance == 0 and (gender, age) == ("neutral", "unstated")
            if said and (narrower or small):
                age = said
        return replace(person, gender=gender, age=age)

    def _phrase(self, place: int) -> list[str]:
        """The words before a person word that belong to it, the nearest first."""
        found = []
        for token in reversed(self.tokens[max(0, place - 5) : place]):
            if token in self.rules.words["stops"] or not (token[0].isalnum()):
                break
            found.append(token)
        return found

    def _number(self, place: int, person: Person) -> int | None:
        for distance, token in enumerate(self._phrase(place)):
            if token.isdigit():
                return max(1, min(MANY, int(token[:2])))
            if token in self.rules.numbers:
                number = self.rules.numbers[token]
                if number > 1 or not person.collective:
                    # "a women" is a wrong singular, but "this many people" is many
                    return number if number > 1 or distance == 0 or not person.plural else MANY
        return None

    def _said_before(self, place: int, person: Person, found: list[Mention]) -> bool:
        if not any(mention.person.lemma == person.lemma for mention in found):
            return False
        return "the" in self.tokens[max(0, place - 2) : place]

    def _by_pronoun(self) -> list[Mention]:
        """A person from a pronoun at the start ("She just finished chopping"), if the caption names no animal."""
        if not self.rules.words["animals"].isdisjoint(self.tokens):
            return []
        for place, token in enumerate(self.tokens[:2]):
            if token in ("he", "she"):
                gender = self.rules.pronouns.get(token, "neutral")
                return [Mention(place, Person(token, gender, "unstated"), 1)]
        return []

    def _with_pronouns(self, found: list[Mention]) -> list[Mention]:
        """Take the gender of a single person from a pronoun: "a person sitting with a TV behind him"."""
        first = found[0]
        if len(found) != 1 or first.number != 1 or first.person.gender != "neutral":
            return found
        if not self.rules.words["animals"].isdisjoint(self.tokens):
            return found
        said = {self.rules.pronouns[t] for t in self.tokens[first.place :] if t in self.rules.pronouns}
        if len(said) != 1:
            return found
        return [replace(first, person=replace(first.person, gender=said.pop()))]
