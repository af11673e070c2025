"""Loads the rules for captions: word lists in YAML, checked and turned into tables.

Covers: loading the shipped rules or a user's, plurals and verb forms made by rule, the possible meanings of a word.
Does not cover: strict YAML (`documents`), parsing a caption with them (`people`).

Forms of a verb follow the rules of English spelling: ride, rides, riding, rode; run, running (a final consonant after
one short vowel is doubled); carry, carries. Irregular forms are listed and have priority.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from daskt2i import addresses, documents
from daskt2i.addresses import expanded
from daskt2i.errors import ConfigError
from daskt2i.facts.table import AGES

OURS = Path(__file__).parent / "rules.yaml"

VERSION = 1
"""Version of the meaning of the sections. A rules file names the version that it was written for."""

MANY = 3
"""Number of a plural without a number, and of more than two persons: `group`."""

Form = Literal["ing", "s", "base", "past"]

_WORDS = (
    "things", "unreal", "depictions", "imaginary", "body", "kin", "negations", "could_serve", "others", "stops",
    "determiners", "animals", "verbs", "light", "weak",
)  # fmt: skip
_TABLES = ("unless_after", "unless_before", "ages", "pronouns", "irregular", "implied", "named_by_ing", "collectives")
_MAPS = ("plurals", "possessives", "agents", "same", "suffixes")


@dataclass(frozen=True, slots=True)
class Person:
    """The meaning of a person word.

    Attributes:
        lemma: its singular.
        gender: male, female or neutral.
        age: child, teen, adult, elderly or unstated.
        number: 1, 2 or 3 (three or more).
        plural: whether it is a plural, so a number before it counts.
        collective: whether its singular names several persons (family, couple).
        possessive: whether it counts only before a part of the body.
    """

    lemma: str
    gender: str
    age: str
    number: int = 1
    plural: bool = False
    collective: bool = False
    possessive: bool = False


@dataclass(frozen=True, slots=True)
class Verb:
    """A form of a verb: its lemma and the kind of form."""

    lemma: str
    form: Form


@dataclass(frozen=True)
class Rules:
    """The lists as tables. Every word is in lower case.

    Attributes:
        digest: SHA-256 of the file, 64 hex digits; part of a selection's fingerprint.
        persons: word -> person that it names.
        verbs: form -> verb.
        numbers: word -> 1, 2 or 3.
        ages: adjective -> age.
        pronouns: pronoun -> gender.
        implied: thing -> activity.
        words: the other sections that are plain lists.
        tables: the sections that map a word to a list.
        maps: the sections that map a word to a word.
    """

    digest: str
    persons: Mapping[str, Person]
    verbs: Mapping[str, Verb]
    numbers: Mapping[str, int]
    ages: Mapping[str, str]
    pronouns: Mapping[str, str]
    implied: Mapping[str, str]
    words: Mapping[str, frozenset[str]]
    tables: Mapping[str, Mapping[str, frozenset[str]]]
    maps: Mapping[str, Mapping[str, str]]

    def person(self, word: str) -> Person | None:
        """The person that a word names, also a compound: policewoman, salespeople, but not snowman."""
        found = self.persons.get(word)
        if found is None and word[-3:] in ENDINGS:
            return self._compound(word)
        return found

    def _compound(self, word: str) -> Person | None:
        suffixes = self.maps["suffixes"]
        if word in self.words["not_persons"]:
            return None
        for ending, gender in suffixes.items():
            if word.endswith(ending) and len(word) >= len(ending) + 3:
                whole = self.persons.get(ending)
                age = whole.age if whole else "adult"
                return Person(word, gender, age, MANY if whole and whole.plural else 1, bool(whole and whole.plural))
        return None


ENDINGS = frozenset({"man", "men", "son", "ple", "irl", "boy"})
"""Last three letters of the suffixes, for a quick check that excludes most words."""


def load_rules(path: str | Path | None = None) -> str:
    """The checked text of a rules file; by default of the shipped file.

    Raises:
        ConfigError: the file is missing, is not YAML, or has a wrong section. The message names the section.
    """
    place = OURS if path is None else expanded(path, "dataset.facts.rules")
    try:
        place = Path(addresses.absolute(str(place)))
        read = addresses.read_file(place).decode("utf-8")
        text = io.StringIO(read, newline=None).read()  # the digest of the rules does not depend on line ends
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The rules file {place} (dataset.facts.rules) cannot be read ({error}). Nothing was counted; start from a "
            f"copy of {OURS}."
        ) from error
    compile_rules(text, str(place))
    return text


@functools.lru_cache(maxsize=8)
def compile_rules(text: str, where: str = "the rules") -> Rules:
    """The rules from the text of a file, compiled once per process.

    Raises:
        ConfigError: as in `load_rules`.
    """
    try:
        data = documents.read_yaml(text)
    except documents.BadDocument as error:
        raise ConfigError(f"{where} is no valid YAML ({error}). Nothing was counted.") from error
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise ConfigError(
            f"{where} does not have `version: {VERSION}`. Nothing was counted; start from a copy of {OURS}."
        )
    known = {"version", "persons", "numbers", *_WORDS, *_TABLES, *_MAPS}
    if wrong := [f"no section {name}" for name in sorted(known - data.keys())] + [
        f"an unknown section {name}" for name in sorted(map(str, data.keys() - known))
    ]:
        raise ConfigError(f"{where} has {', '.join(wrong)}. Nothing was counted; {OURS} has all sections.")
    reader = _Reader(where)
    suffixes = dict(reader.mapping("suffixes", data["suffixes"]))
    not_persons = reader.words("suffixes.not", suffixes.pop("not", ""))
    words = {name: reader.words(name, data[name]) for name in _WORDS}
    words["things"] |= {plural(word) for word in words["things"]}
    tables = {name: reader.table(name, data[name]) for name in _TABLES}
    maps = {name: reader.texts(name, data[name]) for name in _MAPS if name != "suffixes"}
    maps["suffixes"] = reader.texts("suffixes", suffixes)
    numbers = reader.numbers("numbers", data["numbers"])
    verbs = _verbs(words["verbs"], tables["irregular"])
    return Rules(
        digest=hashlib.sha256(text.encode()).hexdigest(),
        persons=_persons(reader, data["persons"], tables["collectives"], maps["plurals"], maps["possessives"]),
        verbs=verbs,
        numbers=numbers,
        ages=_inverted(tables["ages"]),
        pronouns=_inverted(tables["pronouns"]),
        implied=_inverted(tables["implied"]),
        words={**words, "not_persons": not_persons},
        tables=tables,
        maps=maps,
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads sections, and names the section that is wrong."""

    where: str

    def mapping(self, name: str, value: Any) -> Mapping[Any, Any]:
        if not isinstance(value, dict):
            raise self.wrong(name, "a mapping")
        return value

    def words(self, name: str, value: Any) -> frozenset[str]:
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            found = frozenset(word.lower() for word in value if word.strip())
        elif isinstance(value, str | None):
            found = frozenset((value or "").lower().split())
        else:
            raise self.wrong(name, "words separated by spaces")
        if any(documents.storable(word) != word for word in found):
            raise self.wrong(name, "words that are whole text, without half a surrogate pair")
        return found

    def texts(self, name: str, value: Any) -> dict[str, str]:
        found = {self.key(name, key): text for key, text in self.mapping(name, value).items()}
        if not all(isinstance(text, str) and len(text.split()) == 1 for text in found.values()):
            raise self.wrong(name, "one word for each word")
        return found

    def table(self, name: str, value: Any) -> dict[str, frozenset[str]]:
        return {
            self.key(name, key): self.words(f"{name}.{self.key(name, key)}", text)
            for key, text in self.mapping(name, value).items()
        }

    def numbers(self, name: str, value: Any) -> dict[str, int]:
        """Word -> number. A number from 3 means several: nothing depends on how many."""
        found: dict[str, int] = {}
        for number, listed in self.mapping(name, value).items():
            amount = documents.integer(number)
            if amount is None or amount < 1:
                raise self.wrong(f"{name}.{documents.shown(number)}", "words below a whole number from 1")
            found |= dict.fromkeys(self.words(f"{name}.{amount}", listed), amount)
        return found

    def key(self, name: str, key: Any) -> str:
        if not isinstance(key, str | int) or isinstance(key, bool):  # YAML reads `no` and `on` without quotes as false
            raise self.wrong(name, f"words as keys, so {documents.shown(key)} needs quotes")
        if documents.storable(str(key)) != str(key):
            raise self.wrong(name, "keys that are whole text, without half a surrogate pair")
        return str(key)

    def wrong(self, name: str, wanted: str) -> ConfigError:
        return ConfigError(f"{self.where} is wrong: the section {name} must hold {wanted}. Nothing was counted.")


def _inverted(table: Mapping[str, frozenset[str]]) -> dict[str, str]:
    return {word: key for key, words in table.items() for word in words}


def _persons(
    reader: _Reader,
    groups: Any,
    collectives: Mapping[str, frozenset[str]],
    plurals: Mapping[str, str],
    possessives: Mapping[str, str],
) -> dict[str, Person]:
    if not isinstance(groups, list) or not all(isinstance(group, dict) and "words" in group for group in groups):
        raise reader.wrong("persons", "a list of {gender, age, words}")
    found: dict[str, Person] = {}
    for group in groups:
        gender, age = group.get("gender"), group.get("age", "unstated")
        if gender not in ("male", "female", "neutral") or age not in AGES[1:]:
            raise reader.wrong("persons", "genders male, female or neutral, and ages child, teen, adult, elderly")
        for word in reader.words("persons", group["words"]):
            found[word] = Person(word, gender, age)
    irregular = set(plurals.values())
    for word, person in list(found.items()):
        if word not in irregular:
            found.setdefault(plural(word), Person(word, person.gender, person.age, MANY, plural=True))
    for form, word in plurals.items():
        if word in found:
            found[form] = Person(word, found[word].gender, found[word].age, MANY, plural=True)
    for form, word in possessives.items():
        if word in found:
            found[form] = Person(word, found[word].gender, found[word].age, MANY, plural=True, possessive=True)
    for kind, words in collectives.items():
        if kind not in ("pair", "group"):
            raise reader.wrong("collectives", "pair and group")
        for word in words:
            number = 2 if kind == "pair" else MANY
            found[word] = Person(word, "neutral", "unstated", number, collective=True)
            found.setdefault(plural(word), Person(word, "neutral", "unstated", MANY, collective=True, plural=True))
    return found


def plural(word: str) -> str:
    """The regular plural of an English noun."""
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh")) else f"{word}s"


def _verbs(lemmas: Iterable[str], irregular: Mapping[str, frozenset[str]]) -> dict[str, Verb]:
    """Form -> verb, for every form of every lemma. A base form has priority over other forms of other verbs."""
    found: dict[str, Verb] = {}
    for lemma in sorted(lemmas):
        ing, past = _participles(lemma)
        found.setdefault(ing, Verb(lemma, "ing"))
        found.setdefault(past, Verb(lemma, "past"))
        found.setdefault(plural(lemma), Verb(lemma, "s"))
    for lemma, forms in sorted(irregular.items()):
        for form in forms:
            kind: Form = "ing" if form.endswith("ing") else "s" if form.endswith("s") and form != lemma else "past"
            found[form] = Verb(lemma, kind)
    for lemma in lemmas:
        found[lemma] = Verb(lemma, "base")
    return found


def _participles(lemma: str) -> tuple[str, str]:
    """The regular -ing and -ed forms."""
    if lemma.endswith("ie"):
        return f"{lemma[:-2]}ying", f"{lemma}d"
    if lemma.endswith("e") and not lemma.endswith(("ee", "oe", "ye")):
        return f"{lemma[:-1]}ing", f"{lemma}d"
    if lemma.endswith("y") and lemma[-2:-1] not in "aeiou":
        return f"{lemma}ing", f"{lemma[:-1]}ied"
    short = len(lemma) >= 3 and lemma[-1] not in "aeiouwxy" and lemma[-2] in "aeiou" and lemma[-3] not in "aeiou"
    # Verbs of one syllable double the consonant (run, running). Longer verbs that do are listed; COCO has none.
    if short and sum(letter in "aeiou" for letter in lemma) == 1:
        return f"{lemma}{lemma[-1]}ing", f"{lemma}{lemma[-1]}ed"
    ending = "d" if lemma.endswith("e") else "ed"
    return f"{lemma}ing", f"{lemma}{ending}"
