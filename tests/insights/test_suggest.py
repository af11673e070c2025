"""Suggestions are captions of the store, continue the typed text, and do not repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders.coco import settings, write_coco
from builders.command_line import one_error, one_object, run

from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.errors import StoreError, StoreMissing
from daskt2i.executors.serial import SerialExecutor
from daskt2i.insights.suggest import Suggestions

CAPTIONS = [
    "A man on a surfboard.",
    "a man on a surfboard",
    "A man on a bike",
    "A man on a bench reads a book",
    "A man on a bench",
    "A man on a horse in a field",
    "A manhole cover",
    "A woman rides a horse",
    "Two dogs on a couch",
    "A dog",
    "",
    "...",
]


def texts(asked: Suggestions, text: str, count: int = 8) -> list[str]:
    return [one.text for one in asked.suggest(text, count)]


def test_completions_continue_the_typed_text_the_most_frequent_first() -> None:
    asked = Suggestions(CAPTIONS)
    assert len(asked) == 9
    found = asked.suggest("a man on a ")
    assert {one.text for one in found} == {text for text in CAPTIONS if text.startswith("A man on")}
    assert found[0].times + found[1].times == 3  # surfboard twice; bench in two captions, and the shorter one is shown
    assert {one.why for one in found} == {"goes on"}
    assert next(one for one in found if "surfboard" in one.text).times == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A MAN on a  h", ["A man on a horse in a field"]),
        ("a manh", ["A manhole cover"]),
        ("two", ["Two dogs on a couch"]),
        ("zzz", []),
        ("a zzz", []),
        ("horse rides", ["A woman rides a horse"]),
        ("couch", ["Two dogs on a couch"]),
        ("!?", None),
        ("", None),
        ("a man on a surfboard", ["A man on a surfboard."]),
        ("a man on a surfboard in the sea", []),
    ],
)  # fmt: skip
def test_suggestions_for_words_parts_of_words_and_no_text(text: str, expected: list[str] | None) -> None:
    found = texts(Suggestions(CAPTIONS), text)
    if expected is None:  # nothing is typed yet
        assert len(found) == 8
    else:
        assert found == expected


def test_a_complete_word_does_not_match_a_longer_word() -> None:
    assert len(texts(Suggestions(CAPTIONS), "a man ")) == 5
    assert "A manhole cover" not in texts(Suggestions(CAPTIONS), "a man ")
    assert "A manhole cover" in texts(Suggestions(CAPTIONS), "a man")


@pytest.mark.parametrize("text", ["", "a", "a m", "a man on a", "dog"])
def test_there_are_no_repeats_and_at_most_the_requested_number(text: str) -> None:
    rng = np.random.default_rng(0)
    states = rng.standard_normal((len(CAPTIONS), 16)).astype(np.float16)
    for count in (1, 3, 20):
        found = Suggestions(CAPTIONS, states).suggest(text, count)
        assert len(found) <= count
        keys = [one.text.lower().strip(" .") for one in found]
        assert len(keys) == len(set(keys))
        assert all(one.text in [caption.strip() for caption in CAPTIONS] for one in found)
    assert Suggestions(CAPTIONS).suggest(text, 0) == []


def test_similar_meaning_is_found_by_the_pooled_states() -> None:
    """The caption says "wave riders" for surfing. Its state is near the states of the surfboards."""
    captions = [*CAPTIONS, "Wave riders", "A pizza"]
    states = np.zeros((len(captions), 8), np.float16)
    for row, caption in enumerate(captions):
        states[row, len(caption) % 3] = 0.1
        states[row, 3 if "urf" in caption or "ave" in caption else 4 + row % 4] = 1
    found = Suggestions(captions, states).suggest("a man on a surf", 2)
    assert [(one.text, one.why) for one in found] == [
        ("A man on a surfboard.", "goes on"),
        ("Wave riders", "means similar"),
    ]
    # With a state of the text, no caption needs to continue the text.
    wanted = np.eye(8)[3]
    assert Suggestions(captions, states).suggest("zzz", 2, wanted)[0].text in ("A man on a surfboard.", "Wave riders")


def test_a_store_with_one_caption_or_without_captions() -> None:
    assert texts(Suggestions(["A dog"], np.ones((1, 4), np.float16)), "a") == ["A dog"]
    assert Suggestions([]).suggest("a") == []
    assert Suggestions(["..."]).suggest("") == []


def test_a_store_suggests_its_accepted_captions(tmp_path: Path) -> None:
    coco = write_coco(tmp_path / "data", missing=[0])
    encode(prepare(settings(coco, None), tmp_path / "out"), SerialExecutor())
    asked = Suggestions.of_store(tmp_path / "out")
    assert len(asked) == 10  # 12 captions, two of them of a row that is missing
    assert "A man rides a bike" not in texts(asked, "a man", 20)
    assert texts(asked, "a man s")[0] == "A man sits"
    assert [s.why for s in Suggestions.of_store(tmp_path / "out" / "latents.zarr").suggest("a man s", 4)] == [
        "goes on", "means similar", "means similar", "means similar",
    ]  # fmt: skip
    told = one_object(run("suggest", "a man s", "-o", tmp_path / "out", "--count", "2", "--json"))
    assert told["suggestions"][0] == {"text": "A man sits", "times": 1, "why": "goes on"}
    assert "A man sits" in run("suggest", "a man s", "-o", tmp_path / "out").stdout


def test_a_missing_store_and_a_store_without_captions_raise_errors(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing):
        Suggestions.of_store(tmp_path)
    assert "There is no latent store" in one_error(run("suggest", "a", "-o", tmp_path / "nowhere"))
    coco = write_coco(tmp_path / "data", [["a man"]] * 2, missing=[0, 1])
    (coco / "images" / "others").mkdir()
    encode(prepare(settings(coco, None), tmp_path / "out"), SerialExecutor())
    with pytest.raises(StoreError, match="no captions yet"):
        Suggestions.of_store(tmp_path / "out")
