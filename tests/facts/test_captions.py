"""The word lists give the same facts as a person, measured on pictures that were labelled by hand."""

from __future__ import annotations

import csv
import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from builders import TESTS
from builders.outcomes import sentence_of
from hypothesis import given
from hypothesis import strategies as st

from daskt2i.documents import read_yaml
from daskt2i.errors import ConfigError
from daskt2i.facts.captions.mentions import tokens_of
from daskt2i.facts.captions.people import People, read_tokens
from daskt2i.facts.captions.rules import OURS, Rules, compile_rules, load_rules, plural

LABELS = TESTS / "data" / "coco_mini_labels.csv"


@pytest.fixture(scope="module")
def rules() -> Rules:
    return compile_rules(load_rules())


def read_captions(captions: list[str], rules: Rules) -> People:
    return read_tokens([tokens_of(caption) for caption in captions], rules)


def seen(found: People) -> tuple[str, str, str]:
    return found.gender, found.group, found.age


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A woman on a bench", ("female", "single", "adult")),
        ("Women on a bench", ("female", "group", "adult")),
        ("a women that has her licence", ("female", "single", "adult")),
        ("The woman's hands hold a cup", ("female", "single", "adult")),
        ("two policewomen on horses", ("female", "pair", "adult")),
        ("Salesmen at a stand", ("male", "group", "adult")),
        ("A man and a woman", ("mixed", "pair", "adult")),
        ("A man with two women", ("mixed", "group", "adult")),
        ("A person on a hill", ("neutral", "single", "unstated")),
        ("Some people at a beach", ("neutral", "group", "unstated")),
        ("A rider on a horse", ("neutral", "single", "unstated")),
        ("a male tennis player", ("male", "single", "unstated")),
        ("A couple of kids with a pizza", ("neutral", "pair", "child")),
        ("A group of 5 young men", ("male", "group", "adult")),
        ("an elderly couple", ("neutral", "pair", "elderly")),
        ("A teenage girl", ("female", "single", "teen")),
        ("a woman and her little girl", ("female", "pair", "mixed")),
        ("A family of four", ("neutral", "group", "unstated")),
        ("a person sitting down with a tv behind him", ("male", "single", "unstated")),
        ("She just finished chopping vegetables", ("female", "single", "unstated")),
        ("The man sits. The man eats.", ("male", "single", "adult")),
        ("A MAN’S FACE", ("male", "single", "adult")),
    ],
)
def test_gender_group_and_age_of_a_caption(rules: Rules, caption: str, expected: tuple[str, str, str]) -> None:
    found = read_captions([caption], rules)
    assert found.people
    assert seen(found) == expected


@pytest.mark.parametrize(
    "caption",
    [
        "A snowman in a yard",
        "a statue of a man on a horse",
        "A child's blankets and a teddy bear",
        "A man's tie on a chair",
        "The men's room",
        "An adult panda walks",
        "A baby elephant with its mother",
        "A giraffe and her baby",
        "A sign for a visitor center",
        "A coast guard boat",
        "An airport filled with passenger jets",
        "A couple of dogs",
        "There is a family of elephants",
        "A table with place settings for 7 people",
        "a beach with no people",
        "A German shepherd",
        "a pitcher of beer",
        "Cake batter in a bowl",
        "Two toy people in a kitchen",
        "A living room",
        "",
        "猫が椅子に座っている 🐈",
    ],
)
def test_a_caption_that_mentions_nobody(rules: Rules, caption: str) -> None:
    assert read_captions([caption], rules) == People()


def test_a_woman_is_never_counted_as_a_man(rules: Rules) -> None:
    for form in ("woman", "women", "woman's face", "women's hands", "Businesswoman", "policewomen", "WOMEN"):
        assert read_captions([f"the {form} here"], rules).gender == "female", form


@pytest.mark.parametrize(
    ("caption", "activities"),
    [
        ("A man rides a wave", ["ride"]),
        ("men riding waves", ["ride"]),
        ("A woman in a kitchen at the sink holding a knife", ["hold"]),
        ("a man is getting ready to serve a tennis ball", ["serve"]),
        ("A boy at a skatepark doing tricks on a skateboard", ["skateboard"]),
        ("A boy performs a skateboarding trick", ["skateboard"]),
        ("A man is on skis with his dog next to him", ["ski"]),
        ("A lone skier", ["ski"]),
        ("A dog that is sitting at a door and a person holding a can", ["hold"]),
        ("A guy is cutting fruit while a dog stands at his feet", ["cut"]),
        ("A man is on a beach with waves crashing nearby", []),
        ("A man next to a parking meter by a dining table", []),
        ("A man in swimming trunks", []),
        ("crowd in stands", []),
        ("Three guys posing together while holding and eating bananas", ["pose", "hold", "eat"]),
        ("A man and his dog cross country skiing", ["ski"]),
        ("people seated at a table", ["sit"]),
        ("Two women lie on the grass and read", ["lie"]),
        ("A woman wearing a hat", ["wear"]),
    ],
)
def test_activities_of_a_caption(rules: Rules, caption: str, activities: list[str]) -> None:
    assert list(read_captions([caption], rules).activities) == activities


def test_captions_of_one_image_are_taken_together(rules: Rules) -> None:
    one = read_captions(["A man skis", "Man skiing", "A skier", "A woman walks", "A man with a dog"], rules)
    assert (one.gender, one.group, one.activities[0]) == ("male", "single", "ski")
    assert read_captions(["a man is served by a woman", "people"], rules).gender == "mixed"
    assert read_captions(["Lego diorama", "A cartoon kitchen with a man", "a toy"], rules) == People()
    assert read_captions([], rules) == People()


def labelled(folder: Path, rules: Rules) -> list[tuple[dict[str, str], People]]:
    document = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    captions: dict[int, list[str]] = {}
    for annotation in document["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    with LABELS.open(encoding="utf-8", newline="") as file:
        labels = {line["file_name"]: line for line in csv.DictReader(file)}
    assert len(labels) == len(document["images"]) == 80
    return [(labels[i["file_name"]], read_captions(captions[i["id"]], rules)) for i in document["images"]]


def test_eighty_pictures_labelled_by_hand(coco_mini: Path, rules: Rules) -> None:
    """These are the figures of docs/benchmarks/insights.md. Its table of errors lists the other pictures."""
    pairs = labelled(coco_mini, rules)
    both = [(label, found) for label, found in pairs if label["people"] == "yes" and found.people]
    wrong = sum((label["people"] == "yes") != found.people for label, found in pairs)
    f1 = 2 * len(both) / (2 * len(both) + wrong)

    def share(what: str) -> float:
        return sum(getattr(found, what) == label[what] for label, found in both) / len(both)

    acting = [(label["activity"], found.activities[:1]) for label, found in both if label["activity"]]
    top = {name for name, _ in Counter(name for name, _ in acting).most_common(10)}
    right = [found == (name,) for name, found in acting if name in top]
    figures = {"f1": f1, "gender": share("gender"), "group": share("group"), "activity": sum(right) / len(right)}
    assert figures["f1"] >= 0.95, figures
    assert figures["gender"] >= 0.9, figures
    assert figures["group"] >= 0.9, figures
    assert figures["activity"] >= 0.8, figures


# The rules


def test_plurals() -> None:
    assert [plural(word) for word in ("boy", "lady", "bus", "coach", "fox")] == [
        "boys",
        "ladies",
        "buses",
        "coaches",
        "foxes",
    ]


def test_forms_of_verbs(rules: Rules) -> None:
    forms = {
        "ride": "rides riding rode", "run": "runs running ran", "carry": "carries carrying carried",
        "ski": "skis skiing",
        "lie": "lies lying lay", "wave": "waves waving waved", "swim": "swims swimming", "play": "plays playing played",
        "eat": "eats eating ate", "catch": "catches catching caught", "canoe": "", "hit": "hitting", "open": "opening",
        "paddle": "paddling", "tie": "tying", "see": "",
    }  # fmt: skip
    for lemma, listed in forms.items():
        for form in listed.split():
            if form != "lay":  # a verb of its own
                assert rules.verbs[form].lemma == lemma, form


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 2}, "version: 1"),
        ({"verbs": None}, "no section verbs"),
        ({"colours": "red"}, "an unknown section colours"),
        ({"plurals": "men"}, "the section plurals must hold a mapping"),
        ({"agents": {"rider": ["ride"]}}, "the section agents must hold one word for each word"),
        ({"persons": [{"gender": "other", "words": "x"}]}, "the section persons must hold genders"),
        ({"animals": 3}, "the section animals must hold words separated by spaces"),
        ({"animals": ["\ud83d"]}, "half a surrogate pair"),
        ({"numbers": {"two": "x"}}, "the section numbers.'two' must hold words below a whole number from 1"),
        ({"numbers": {True: "x"}}, "the section numbers.True must hold"),
        ({"numbers": {1.5: "x"}}, "the section numbers.1.5 must hold"),
        ({"numbers": {0: "x"}}, "the section numbers.0 must hold"),
        ({"numbers": {2: 3}}, "the section numbers.2 must hold words separated by spaces"),
        ({"numbers": "two"}, "the section numbers must hold a mapping"),
        ({"same": {False: "x"}}, "the section same must hold words as keys, so False needs quotes"),
        ({"ages": {None: "x"}}, "the section ages must hold words as keys, so None needs quotes"),
        ({"ages": {"\ud83d": "x"}}, "half a surrogate pair"),
        ({"suffixes": {"man": 3}}, "the section suffixes must hold one word for each word"),
        ({"collectives": {"trio": "x"}}, "the section collectives must hold pair and group"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_users_own_rules_are_checked(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    import yaml

    data = {**yaml.safe_load(OURS.read_text(encoding="utf-8")), **change}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in data.items() if v is not None}), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_rules(path)
    assert sentence in str(caught.value)
    assert "Nothing was counted" in str(caught.value)


def test_a_users_own_rules_are_used(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = OURS.read_text(encoding="utf-8").replace("words: boy son", "words: knabe boy son")
    path.write_text(text, encoding="utf-8")
    mine = compile_rules(load_rules(path))
    assert seen(read_captions(["two knabes"], mine)) == ("male", "pair", "child")
    assert mine.digest != compile_rules(load_rules()).digest
    path.write_bytes(text.replace("\n", "\r\n").encode())
    assert compile_rules(load_rules(path)).digest == mine.digest, "line ends do not count"


def test_numbers_in_quotes_and_odd_words_are_taken(tmp_path: Path) -> None:
    import yaml

    data = yaml.safe_load(OURS.read_text(encoding="utf-8"))
    data["numbers"] = {"1": "a", 2: "two", 5: "five"}
    data["verbs"] = "y e x ie ride"  # a letter is no verb, and no error either
    data["animals"] = ["", " ", "Dog"]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    found = compile_rules(load_rules(path))
    assert (found.numbers["a"], found.numbers["five"], found.words["animals"]) == (1, 5, {"dog"})
    assert found.verbs["riding"].lemma == "ride"


def test_a_section_that_occurs_twice_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OURS.read_text(encoding="utf-8") + "\nnumbers: {2: two}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml is no valid YAML \(the key 'numbers' occurs twice"):
        load_rules(path)


SECTIONS = ["persons", "numbers", "verbs", "suffixes", "plurals", "ages", "collectives", "animals", "version"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "y", "men", "not", "pair", "male"]),
    lambda below: (
        st.lists(below, max_size=2)
        | st.dictionaries(st.sampled_from(["pair", "words", "gender", "age", 1, True, "not", "man"]), below, max_size=3)
    ),
    max_leaves=5,
)


@functools.cache
def ours() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(OURS.read_bytes())
    return found


@given(st.sampled_from(SECTIONS), VALUES)
def test_any_value_of_a_section_gives_rules_or_one_sentence(section: str, value: Any) -> None:
    import yaml

    small: dict[str, Any] = {name: type(one)() for name, one in ours().items() if name != "version"}
    text = yaml.safe_dump({**small, "version": 1, section: value})
    found = sentence_of(ConfigError, compile_rules, text, "mine.yaml")
    if isinstance(found, Rules):
        read_captions(["two men ride", "y"], found)


@pytest.mark.parametrize("text", ["[1, 2", "version: 1\nx: !!python/object:os.system x", "", "3"])
def test_a_file_that_is_not_a_rules_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        load_rules(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_rules(tmp_path / "nowhere.yaml")
