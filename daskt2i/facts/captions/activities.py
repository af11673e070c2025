"""Finds the activities of the people in one caption: lemmas of the verbs that belong to person words.

Covers: which person a verb belongs to, light verbs (getting ready to serve), activities without a verb (on a
skateboard).
Does not cover: forms of verbs (`rules`), several captions together (`people`).

A verb belongs to the person word before it, up to the next person, the clause of another subject, or the end of the
sentence. This uses no grammar. docs/benchmarks/insights.md gives the error rate.
"""

from __future__ import annotations

from collections.abc import Sequence

from daskt2i.facts.captions.mentions import Mention
from daskt2i.facts.captions.rules import Rules

_ENDS = frozenset(".;:")
_PREPOSITIONS = frozenset(
    ("in", "of", "at", "from", "by", "for", "with", "into", "on", "to", "during", "after", "before", "about", "than")
)
_NEXT_SUBJECT = frozenset({"while", "as"})


def activities_of(tokens: list[str], mentions: Sequence[Mention], rules: Rules) -> dict[str, float]:
    """Lemma -> weight: 1 for the first verb of a person, 0.5 for each further verb, 0.25 for a weak verb."""
    weights: dict[str, float] = {}
    heads = {mention.place for mention in mentions}
    for mention in mentions:
        for lemma, weight in _verbs_of(tokens, mention, heads, rules):
            lemma = rules.maps["same"].get(lemma, lemma)
            weights[lemma] = max(weight, weights.get(lemma, 0.0))
    return weights


def _verbs_of(tokens: list[str], mention: Mention, heads: set[int], rules: Rules) -> list[tuple[str, float]]:
    """The verbs that belong to one mention, with their weights."""
    found: list[tuple[str, float]] = []
    weak: list[str] = []
    light: set[str] = set()
    words = rules.words
    end = len(tokens)
    for place in range(mention.place + 1, len(tokens)):
        token = tokens[place]
        if place in heads or token in _ENDS:
            end = place
            break
        if token in words["animals"] and not _NEXT_SUBJECT.isdisjoint(tokens[mention.place + 1 : place]):
            end = place
            break
        verb = rules.verbs.get(token)
        if verb is None or not _is_verb(tokens, place, mention, bool(light), rules):
            continue
        if verb.lemma in words["light"]:
            light.add(verb.lemma)
        elif verb.lemma in words["weak"]:
            weak.append(verb.lemma)
        elif verb.lemma not in {lemma for lemma, _ in found}:
            found.append((verb.lemma, 0.5 if found else 1.0))
    if found:
        return found
    if implied := _implied(tokens[mention.place : end], light, rules):
        return [(implied, 1.0)]
    if agent := rules.maps["agents"].get(mention.person.lemma):
        return [(agent, 1.0)]
    return [(lemma, 0.25) for lemma in weak[:1]]


def _is_verb(tokens: list[str], place: int, mention: Mention, after_light: bool, rules: Rules) -> bool:
    """Whether a word that can be a verb is a verb of this person here."""
    words = rules.words
    verb, last = rules.verbs[tokens[place]], tokens[place - 1]
    following = tokens[place + 1] if place + 1 < len(tokens) else ""
    if verb.form == "ing":
        if last in words["determiners"] or last in _PREPOSITIONS or last in rules.ages:
            return False
        if following in rules.tables["named_by_ing"].get(tokens[place], ()):
            return False
        # "is on a beach with waves crashing": the verb belongs to the waves
        return not (after_light and place >= 2 and tokens[place - 2] == "with")
    near = place == mention.place + 1
    if verb.form == "past":
        was = any(rules.verbs[t].lemma == "be" for t in tokens[max(0, place - 2) : place] if t in rules.verbs)
        return was or near or verb.lemma == "sit"
    if verb.form == "base":
        joined = last == "to" and after_light
        return joined or (near and (mention.person.plural or mention.number > 1 or mention.person.collective))
    if near:
        return True
    noun = last in words["determiners"] or last in words["stops"] or last in rules.numbers or last in rules.ages
    return not noun and last not in rules.verbs and not last.isdigit() and (verb.lemma == "be" or last.isalpha())


def _implied(tokens: list[str], light: set[str], rules: Rules) -> str | None:
    """The activity of a phrase without a telling verb: "doing tricks on a skateboard", "is on skis"."""
    doing = bool(light & {"do", "perform", "try", "attempt", "practice"})
    for place, token in enumerate(tokens):
        word = token[:-2] if token.endswith("'s") else token
        activity = rules.implied.get(word)
        if activity is None and word.endswith("ing") and doing and word in rules.tables["named_by_ing"]:
            activity = rules.verbs[word].lemma if word in rules.verbs else None
        if activity and (doing or "on" in tokens[max(0, place - 3) : place]):
            return activity
    return None
