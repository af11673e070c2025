"""JSON and YAML of users: what they say is read as it is, and what would be lost is refused with a clause."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import yaml
from builders.outcomes import sentence_of
from hypothesis import given
from hypothesis import strategies as st

from daskt2i import documents
from daskt2i.documents import BadDocument, integer, read_json, read_yaml, shown, storable, text_of

WHOLE = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
"""Text without half surrogate pairs."""

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | WHOLE,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(WHOLE, below, max_size=4),
    max_leaves=12,
)


# ---- JSON --------------------------------------------------------------------------------------------------------


@given(PLAIN, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"]), st.booleans())
def test_any_json_is_read_as_it_is(value: Any, coding: str, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    raw = text.encode(coding)
    if coding == "utf-16-le" and len(text) < 2:
        return  # two bytes tell nothing about the coding
    assert read_json(text_of(raw)) == value


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_a_json_value_or_a_clause(raw: bytes) -> None:
    sentence_of(BadDocument, lambda: read_json(text_of(raw)))


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ('{"images": [1], "info": {}, "images": [2]}', "the key 'images' occurs twice in one object (its keys are"),
        (r'{"images": [1], "\u0069mages": [2]}', "the key 'images' occurs twice"),
        ('{"a": [{"id": 1, "id": 1}]}', "the key 'id' occurs twice"),
        ('{"": 1, "": 2}', "the key '' occurs twice"),
        (r'{"\ud800": 1, "\ud800": 2}', "the key '?' occurs twice"),
        ("", "it is empty"),
        (" \n\t", "it is empty"),
        ('{"a": 1', "Expecting"),
        ('{"a": 1} {"a": 1}', "Extra data"),
        ('{"a": 1}\0', "Extra data"),
        ("{'a': 1}", "Expecting property name"),
        ('{"a": ' + "9" * 5000 + "}", "a number has too many digits"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
    ids=lambda text: text[:20],
)
def test_json_in_which_something_would_be_lost_is_refused(text: str, clause: str) -> None:
    with pytest.raises(BadDocument) as caught:
        read_json(text)
    assert clause in str(caught.value)
    assert len(str(caught.value)) < 300


def test_json_that_ends_early_is_asked_whether_it_was_cut() -> None:
    whole = json.dumps({"images": [{"id": 1, "x": -1.5e-3}, True, None, "\u00e9 \\ \n"], "b": {"c": float("nan")}})
    for text in (whole, whole.replace("\\u00e9", "é")):
        raw = text.encode()
        for end in range(1, len(raw)):
            with pytest.raises(BadDocument, match=r"it ends early \(was it cut\?\), and it is not "):
                read_json(text_of(raw[:end]))
    for wrong in ("{'a': 1}", '{"a": 1} x', '{"a": tru}', '{"a": "\\u12"}', "<html>", '{"a": 1 "b": 2}', ""):
        with pytest.raises(BadDocument) as caught:
            read_json(wrong)
        assert "cut" not in str(caught.value), wrong


def test_the_top_object_is_told_by_its_place() -> None:
    assert read_json('{"a": {"a": {"a": 1}}, "b": [{"a": 2}]}', lambda item: len(item)) == {"a": 1, "b": [1]}
    assert read_json(' {"a": 1}', lambda item: "below") == {"a": 1}
    assert read_json('[{"a": 1}, 2]', lambda item: "below") == ["below", 2]
    assert read_json('"{"', lambda item: "below") == "{"
    assert read_json("{}", lambda item: "below") == {}


@pytest.mark.parametrize(
    ("raw", "coding"),
    [
        (b'{"a": "\xff"}', "UTF-8"),
        (b"\xef\xbb\xbf\xff", "UTF-8"),
        (b"\xff\xfe\x00", "UTF-16"),
        (b"\xed\xa0\x80", "UTF-8"),
        (b"\x00\x00\xfe\xff\xff", "UTF-32"),
    ],
)
def test_bytes_that_are_no_text_are_refused(raw: bytes, coding: str) -> None:
    with pytest.raises(BadDocument, match=rf"not {coding} text .* at byte \d"):
        text_of(raw)


# ---- YAML --------------------------------------------------------------------------------------------------------


@given(PLAIN)
def test_any_plain_value_is_read_from_yaml_as_it_is(value: Any) -> None:
    assert read_yaml(yaml.safe_dump(value)) == value


@given(st.text(alphabet="abc01:-&*<!|>'\"{}[],#%@`? \n\t.~\\xue_", max_size=30) | st.binary(max_size=30))
def test_any_text_gives_a_yaml_value_or_a_clause(text: str | bytes) -> None:
    repr(sentence_of(BadDocument, read_yaml, text))


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{here}: &{here} [{', '.join([f'*{above}'] * 10)}]\n" for above, here in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("run: {batch: 1}\nname: x\nrun: {batch: 2}", "the key 'run' occurs twice in one mapping, again in line 3"),
        ("a: {b: 1, b: 1}", "the key 'b' occurs twice"),
        ("? a\n: 1\n? a\n: 2", "the key 'a' occurs twice"),
        ("1: a\n0x1: b", "the key 1 occurs twice"),
        ("yes: a\non: b", "the key True occurs twice"),
        ("x: &x {a: 1}\ny: {<<: *x, b: 1, b: 2}", "the key 'b' occurs twice"),
        ("a: &a [1, *a]", "contains itself"),
        ("a: &a {b: {c: *a}}", "contains itself"),
        (LAUGHS, "more than 1,000,000 values"),
        ("[" * 102 + "]" * 102, "more than 100 levels deep"),
        ("[" * 500, "nested too deeply"),
        ("a: " + "9" * 5000, "line 1 has a number of 5,000 characters"),
        ("a: 0x" + "f" * 5000, "line 1 has a number of 5,002 characters"),
        ("rev: 1234567890123456789012345678901234567890", "if it is text, it needs quotes"),
        ('a: "\\ud83d"', "half a surrogate pair"),
        ("a: 2020-13-01", "month must be in"),
        ("a: 1\n---\na: 2", "expected a single document"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a: !!binary aGk=", "the kind !!binary"),
        ("a: !!set {b, c}", "the kind !!set"),
        ("a: {<<: 3}", "`<<` in line 1 merges what is no mapping"),
        ("[1]: 2", "unhashable key"),
        ("a: \x01", "special characters are not allowed"),
    ],
    ids=lambda text: text[:20],
)
def test_yaml_in_which_something_would_be_lost_or_grow_is_refused(text: str, clause: str) -> None:
    with pytest.raises(BadDocument) as caught:
        read_yaml(text)
    assert clause in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_time_without_quotes_is_text_and_no_number_to_the_base_of_60() -> None:
    text = "a: 2:00:00\nb: 1:30.5\nc: [90:00, -1:30]\n2:00: d\ne: 1.5e+3\nf: 0x10"
    found = read_yaml(text)
    assert found == {"a": "2:00:00", "b": "1:30.5", "c": ["90:00", "-1:30"], "2:00": "d", "e": 1500.0, "f": 16}


def test_anchors_and_merged_keys_still_work() -> None:
    text = "a: &a {x: {<<: {y: 1}, y: 2}}\nb: {<<: *a, z: 3}\nc: {<<: *a, x: 4}\nd: [*a, *a]"
    inside = {"x": {"y": 2}}
    assert read_yaml(text) == {"a": inside, "b": {**inside, "z": 3}, "c": {"x": 4}, "d": [inside, inside]}
    # The merged mapping lies deeper than the one that merges it, so it is made later.
    assert read_yaml("a: {b: {c: &c {<<: {d: 1}, d: 2}}}\ne: {<<: *c}")["e"] == {"d": 2}
    both = "a: &a {long: 1, b: 1}\nb: &b {long: 2, c: 2}\nd: {<<: [*a, *b], c: 3}"
    assert read_yaml(both)["d"] == {"long": 1, "b": 1, "c": 3}


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_yaml_of_other_editors_is_read(coding: str) -> None:
    assert read_yaml("a: ü\r\nb: 1\r\n".encode(coding)) == {"a": "ü", "b": 1}
    assert read_yaml(b"") is None
    assert read_yaml(b"# nothing") is None


def test_a_surrogate_pair_as_json_writes_it_is_one_character() -> None:
    assert read_yaml('a: "\\ud83d\\ude00"') == {"a": "\U0001f600"}


def test_a_path_that_is_not_utf_8_survives() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert read_yaml(yaml.safe_dump({"images": name})) == {"images": name}


# ---- values ------------------------------------------------------------------------------------------------------


@given(
    st.integers(-(2**64), 2**64) | st.floats() | st.text(max_size=5) | st.booleans() | st.none() | st.lists(st.none())
)
def test_an_integer_has_64_bits_and_may_be_in_quotes(value: Any) -> None:
    found = integer(value)
    if isinstance(value, int) and not isinstance(value, bool):
        assert found == (value if -(2**63) <= value < 2**63 else None)
        assert integer(str(value)) == found
    elif not isinstance(value, str):
        assert found is None


@given(st.text())
def test_storable_text_can_be_written_and_whole_text_stays(text: str) -> None:
    found = storable(text)
    found.encode()
    assert len(found) == len(text)
    assert found == text or any("\ud800" <= letter <= "\udfff" for letter in text)


@pytest.mark.parametrize(
    "value",
    [10**5000, [10**5000], "x" * 10**6, "\ud800", math.nan, None, {"a": 1}, [[[]]] * 1000],
    ids=lambda v: type(v),
)
def test_a_value_in_a_message_is_short_and_whole_text(value: Any) -> None:
    text = shown(value)
    assert 0 < len(text) <= 60
    text.encode()


def test_a_list_that_contains_itself_can_be_shown() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert documents.shown(deep) == "list"
    while deep:  # Python would free it level by level, on the stack
        deep = deep.pop()
