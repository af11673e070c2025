"""Every message that tells a user to do something has a test that does it.

Covers: which messages there are (found in the source by `builders.advice`), which test each of them has, and why some
have none.
Does not cover: the tests themselves. They are in `tests/advice/`, one file for some rooms, and take an error with
`told("room/module.py:Class.function SomeError")`, which checks that it was raised there.

A message is known by the module, the function and the class of the error; its words may change. A function may have
several messages of one class: it has as many tests at least.
"""

from __future__ import annotations

import ast
from collections import Counter

import pytest
from builders import TESTS
from builders.advice import ADVICE, messages, places, tested

ELSEWHERE: dict[str, tuple[str, ...]] = {}
"""Place -> tests outside of `tests/advice/` that provoke the message and do what it says."""

NOT_HERE: dict[str, str] = {}
"""Place -> why nothing here does what its message says."""


def known() -> Counter[str]:
    """How many tests, or reasons for having none, there are for each place."""
    found = Counter({place: len(tests) for place, tests in tested(TESTS / "advice").items()})
    found.update({place: len(tests) for place, tests in ELSEWHERE.items()})
    found.update(NOT_HERE.keys())
    return found


@pytest.mark.parametrize("place", sorted(messages()))
def test_a_message_that_tells_what_to_do_has_a_test_that_does_it(place: str) -> None:
    texts = messages()[place]
    assert known()[place] >= len(texts), (
        f"{place} tells a user to do something, and has {known()[place]} tests for {len(texts)} messages. Write a test "
        "in tests/advice/ that provokes the message and does what it says, name one in ELSEWHERE, or say in NOT_HERE "
        f"why that cannot be done: {texts}"
    )


def test_the_tables_name_messages_that_are_there() -> None:
    assert sorted({*ELSEWHERE, *NOT_HERE, *tested(TESTS / "advice")} - places()) == []


def test_the_tests_that_are_named_are_there() -> None:
    wrong = []
    for test in (one for tests in ELSEWHERE.values() for one in tests):
        path, _, name = test.partition("::")
        functions = ast.walk(ast.parse((TESTS / path).read_text(encoding="utf-8")))
        if name not in {node.name for node in functions if isinstance(node, ast.FunctionDef)}:
            wrong.append(test)
    assert wrong == []


@pytest.mark.parametrize(
    "text",
    [
        "It was not touched. Encode again.",
        "images and captions belong together; give both.",
        "It is held by another; wait until that ends.",
        "Nothing was started; the same command goes on.",
        "pad is 'x'; it can be length or full.",
    ],
)
def test_advice_is_recognised(text: str) -> None:
    assert ADVICE.search(text)


@pytest.mark.parametrize("text", ["The file is empty.", "Chunk 3 is encoded again: a shard is missing."])
def test_what_only_tells_is_no_advice(text: str) -> None:
    assert not ADVICE.search(text)
