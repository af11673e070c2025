"""`dataset.where` accepts only expressions over facts, and an error points to the wrong place."""

from __future__ import annotations

from typing import Any

import pytest
from builders.outcomes import sentence_of
from hypothesis import given
from hypothesis import strategies as st

from daskt2i.errors import ConfigError
from daskt2i.facts.expression import MOST_DEPTH, Expression, parse_where
from daskt2i.facts.table import FACTS

ROW: dict[str, Any] = {
    "people": True, "gender": "male", "age": "adult", "group": "single", "activity": "ride",
    "activities": ("ride", "hold"), "captions": 5, "words": 12, "file_name": "val/1.jpg", "image_id": 7,
    "licence": "CC BY", "persons": -1, "width": 640, "height": 480, "bytes": 1000, "format": "JPEG", "mode": "RGB",
    "usable": True, "reason": "", "duplicate": False, "exact_duplicate": False,
}  # fmt: skip


def keeps(text: str, **changes: Any) -> bool:
    expression = parse_where(text)
    return expression.keeps({name: {**ROW, **changes}[name] for name in expression.names})


def test_the_row_has_all_facts() -> None:
    assert list(ROW) == list(FACTS)


@pytest.mark.parametrize(
    "text",
    [
        "people",
        'people and group == "single" and min(width, height) >= 256 and not duplicate',
        "'ride' in activities",
        "gender in ['male', 'female']",
        "gender in ('male',)",
        "group not in ['pair', 'group']",
        "persons in [-1, +2]",
        "'val/' in file_name",
        "1.2 < width / height < 1.4",
        "abs(width - height) == 160 and max(1, 2, 3) == 3",
        "image_id % 2 == 1 and image_id // 2 == 3 and -image_id < 0",
        "reason == ''",
        "persons in (-1, +1)",
        "people == True",
        "  people\n and usable ",
        "True",
    ],
)
def test_an_expression_that_is_true_keeps_the_row(text: str) -> None:
    assert keeps(text)
    assert not keeps(f"not ({text.strip()})")


def test_a_division_by_zero_does_not_keep_the_row_and_raises_nothing() -> None:
    assert not keeps("width / height > 1", width=0, height=0)
    assert not keeps("width / height <= 1", width=0, height=0)


def test_spacing_and_quotes_do_not_change_an_expression() -> None:
    assert parse_where('people   and gender=="male"').text == parse_where("(people and gender == 'male')").text
    assert parse_where("people and width > 3").needs_pictures
    assert not parse_where("people").needs_pictures


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("peple", ">>>peple<<<", "did you mean people?"),
        ("people and male", "and >>>male<<<", 'did you mean gender == "male"?'),
        ("zzz", ">>>zzz<<<", "the facts are people, gender"),
        ('group == "sngle"', '== >>>"sngle"<<<', "it can be none, single, pair, group"),
        ("gender in ['man']", "[>>>'man'<<<]", "gender never has this value"),
        ("width", ">>>width<<<", "the expression gives a number"),
        ("people and width", "and >>>width<<<", "this is a number, but it must be yes or no"),
        ("people > 3", ">>>people<<< >", "this is yes or no, but it must be a number"),
        ("gender == 3", "== >>>3<<<", "a text cannot be compared with a number"),
        ("activities == 'ride'", "== >>>'ride'<<<", "cannot be compared with"),
        ("3 in activities", "in >>>activities<<<", "finds a text"),
        ("people and (", "and >>>(<<<", "never closed"),
        ("people gender", ">>>gender<<<", "this is not an expression"),
        ("people = True", ">>>=<<< True", "this is not an expression"),
        ("import os", ">>>import<<< os", "this is not an expression"),
        ("people; people", ">>>;<<<", "this is not an expression"),
        ("__import__('os').system('true')", ">>>__import__('os').system('true')<<<", "only min, max and abs"),
        ("open('/etc/passwd')", ">>>open('/etc/passwd')<<<", "only min, max and abs"),
        ("gender.upper() == 'MALE'", ">>>gender.upper()<<<", "only min, max and abs"),
        ("gender.__class__", ">>>gender.__class__<<<", "not allowed here"),
        ("activities[0] == 'ride'", ">>>activities[0]<<<", "not allowed here"),
        ("[x for x in activities]", ">>>[x for x in activities]<<<", "not allowed here"),
        ("(lambda: people)()", ">>>(lambda: people)()<<<", "only min, max and abs"),
        ("people if people else people", ">>>people if people else people<<<", "not allowed here"),
        ("width ** 9999999", ">>>width ** 9999999<<<", "not allowed here"),
        ("f'{people}' == 'x'", ">>>f'{people}'<<<", "not allowed here"),
        ("people is True", "is >>>True<<<", "write =="),
        ("min(width) > 3", ">>>min(width)<<<", "abs takes one number"),
        ("min(width, key=3) > 3", ">>>min(width, key=3)<<<", "only min, max and abs"),
        ("max(*activities) > 3", ">>>*activities<<<", "not allowed here"),
        ("width in [height]", ">>>height<<<", "must hold values"),
        ("(x := 3) > 2", ">>>x := 3<<<", "not allowed here"),
        ("'ü' in activities and peple", "and >>>peple<<<", "did you mean people?"),
        ("not " * 100 + "people", ">>>", "nested more than"),
        ("(" * 300 + "people" + ")" * 300, ">>>", "this is not an expression"),
        ("", "", "dataset.where is empty"),
        ("   ", "", "dataset.where is empty"),
        ("people or " * 400 + "people", "", "too long"),
        ("people\0", "", "NUL character"),
    ],
    ids=lambda value: value[:30],
)
def test_a_wrong_expression_is_refused_and_the_message_points_to_the_place(text: str, place: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_where(text)
    assert place in str(caught.value)
    assert why in str(caught.value)
    assert "Nothing was encoded" in str(caught.value)


def test_the_deepest_accepted_expression_can_be_evaluated() -> None:
    assert keeps("not " * (2 * ((MOST_DEPTH - 2) // 2)) + "people")


def test_the_evaluator_itself_allows_no_more_than_the_check() -> None:
    """This is a second barrier: simpleeval would not run what the check lets through by mistake."""
    import ast

    import simpleeval

    from daskt2i.facts.expression import _evaluator

    evaluator, _ = _evaluator("people")
    for text in ("people.__class__", "people[0]", "[x for x in people]", "f'{people}'", "2 ** 3", "people if 1 else 2"):
        with pytest.raises((simpleeval.InvalidExpression, KeyError)):
            evaluator.eval(text, previously_parsed=ast.parse(text, mode="eval").body)
    assert sorted(evaluator.functions) == ["abs", "max", "min"]


HUGE = "9" * 330


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"{HUGE} / 2 > words", True),
        (f"-{HUGE} / 2 > words", False),
        (f"words / {HUGE} < 1", True),
        (f"{HUGE} * 1.5 > words", True),
        (f"{HUGE} - 1.5 > words", True),
        (f"{HUGE} + words == {HUGE[:-1]}9 + 12", True),
        (f"{HUGE} * {HUGE} > 1.5", True),
        (f"{HUGE} // 2.5 > words", False),  # infinity // 2.5 is no number, and no comparison with it is true
        (f"{HUGE} % 2.5 > words", False),
        (f"{HUGE} // 7 > words and {HUGE} % 7 >= 0", True),
        ("1e999 > words", True),
        ("1e308 * 10 > words", True),
        ("1e999 - 1e999 == 0", False),
        ("0x" + "f" * 1900 + " > words", True),
        ("max(1e999, width) / 0 > 1", False),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_numbers_that_are_too_large_for_a_float_count_as_infinite(text: str, kept: bool) -> None:
    assert keeps(text) is kept


def test_advice_of_python_about_texts_is_not_shown(recwarn: pytest.WarningsRecorder) -> None:
    assert not keeps(r"'\d' in file_name")
    assert len(recwarn) == 0


NUMBERS = st.sampled_from(["width", "words", "image_id", "0", "2", "1.5", "-1", "1e308", "1e999", HUGE, "0x1F", "True"])
TEXTS = st.sampled_from(
    ["gender", "file_name", "'male'", "'a' 'b'", "r'\\d'", "'\\ud800'", "activities", "people", "None"]
)


def _larger(below: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(
        ["+", "-", "*", "/", "//", "%", "<", ">", "==", "!=", "in", "and", "or", "**", "@", "<<", "if", "is"]
    )
    return st.one_of(
        st.builds("({} {} {})".format, below, operators, below),
        st.builds("{} {} {}".format, below, operators, below),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max", "abs", "pow", "width"]), below, below),
        st.builds("not {}".format, below),
        st.builds("[{}, {}]".format, below, below),
        st.builds("-{}".format, below),
    )


EXPRESSIONS = st.recursive(NUMBERS | TEXTS, _larger, max_leaves=12)


@given(
    EXPRESSIONS
    | EXPRESSIONS.map("{} > 1".format)
    | st.text(max_size=30)
    | st.text("()[]{}'\"-+*~,:.#\\ a1", max_size=40)
)
def test_any_text_gives_a_value_or_one_sentence(text: str) -> None:
    expression = sentence_of(ConfigError, parse_where, text)
    if isinstance(expression, Expression):
        assert keeps(text) in (True, False)
        assert parse_where(expression.text).text == expression.text  # the text in a fingerprint means the same


@given(
    st.text(max_size=10),
    st.integers(0, 4),
    st.sampled_from(["(", "[", "-", "not ", "1+", "min(", "'", "\\", "a if ", "{"]),
)
def test_text_that_repeats_itself_gives_one_sentence(text: str, more: int, part: str) -> None:
    for count in (10**more, 2000 // len(part)):
        with pytest.raises(ConfigError):
            parse_where(part * count + text + "$")
