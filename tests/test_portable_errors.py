"""Errors arrive from another process unchanged, by pickle and by JSON, whatever arguments their constructors take."""

from __future__ import annotations

import copyreg
import json
import pickle
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from daskt2i.errors import ConfigError, Daskt2iError, ExecutorError, Reason, RowRejected, StoreFull
from daskt2i.portable_errors import TREE, from_json, portable, to_json


@pytest.fixture(autouse=True)
def without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has used Dask pickles exceptions with functions of tblib; a process of a pool does not."""
    for kind in [kind for kind in copyreg.dispatch_table if issubclass(kind, BaseException)]:
        monkeypatch.delitem(copyreg.dispatch_table, kind)


def by_pickle(error: Exception) -> Any:
    """The way through a process pool."""
    return pickle.loads(pickle.dumps(portable(error)))


def by_json(error: Exception) -> Any:
    """The way from a rank."""
    return from_json(json.loads(json.dumps(to_json(error))))


def by_both(error: Exception) -> Any:
    """The way from a rank through the task that started it."""
    return pickle.loads(pickle.dumps(by_json(error)))


both_ways = pytest.mark.parametrize("send", [by_pickle, by_json, by_both])
Send = Callable[[Exception], Any]

SENTENCE = "It stopped. What is committed stays; run the same command again."
ARGUMENTS: dict[type[Daskt2iError], tuple[Any, ...]] = {RowRejected: (Reason.MISSING_FILE, "a.png")}
the_tree = pytest.mark.parametrize("kind", TREE.values(), ids=list(TREE))


def made(kind: type[Daskt2iError]) -> Daskt2iError:
    """A raised error with a traceback, a cause and a note."""
    error = kind(*ARGUMENTS.get(kind, (SENTENCE,)))
    error.add_note("on here:1")
    try:
        try:
            raise ZeroDivisionError("below")
        except ZeroDivisionError as cause:
            raise error from cause
    except Daskt2iError as raised:
        return raised


class ThreeWanted(Exception):
    """Can be pickled but not unpickled."""

    def __init__(self, what: str, code: int, where: str) -> None:
        super().__init__(f"{what} {code} at {where}")


class WithLock(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class OwnStoreFull(StoreFull):
    """A third-party error whose constructor makes the message."""

    ends_run = False

    def __init__(self, bucket: str, quota: int, used: int) -> None:
        super().__init__(f"{bucket} holds {used} of {quota} bytes.")
        self.quota = quota


class OwnNumbered(StoreFull):
    """A third-party error that uses the arguments of OSError."""

    def __init__(self, code: int) -> None:
        super().__init__(code, "no space", "a.zarr")


class OwnRejected(RowRejected):
    """A subclass of an error that takes more than a message."""

    def __init__(self, name: str) -> None:
        super().__init__(Reason.MISSING_FILE, f"no {name}")


class OwnWithLock(OwnStoreFull):
    """A third-party error that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("b", 2, 1)
        self.lock = threading.Lock()


@both_ways
@the_tree
def test_an_error_of_the_tree_arrives_as_it_left(kind: type[Daskt2iError], send: Send) -> None:
    left = made(kind)
    arrived = send(left)
    assert type(arrived) is kind
    assert (str(arrived), arrived.args) == (str(left), left.args)
    assert arrived.ends_run is kind.ends_run
    assert arrived.__notes__ == ["on here:1"]
    assert arrived.caused_by == left.caused_by == "ZeroDivisionError"


@both_ways
@the_tree
def test_ends_run_of_a_single_error_arrives_with_it(kind: type[Daskt2iError], send: Send) -> None:
    left = made(kind)
    left.ends_run = not kind.ends_run
    assert send(left).ends_run is not kind.ends_run


@both_ways
def test_an_error_without_notes_and_cause_arrives_without(send: Send) -> None:
    arrived = send(ConfigError("It is wrong."))
    assert (arrived.caused_by, hasattr(arrived, "__notes__")) == ("", False)
    assert json.dumps(to_json(ConfigError("m"))) == '{"type": "ConfigError", "message": "m"}'


@both_ways
def test_a_rejected_row_keeps_its_reason(send: Send) -> None:
    arrived = send(RowRejected(Reason.NO_CAPTION, "it is blank"))
    assert (arrived.reason, arrived.detail) == (Reason.NO_CAPTION, "it is blank")
    assert isinstance(arrived.reason, Reason)


def foreign_below_ours() -> list[Any]:
    return [
        pytest.param(OwnStoreFull("b", 10, 10), StoreFull, id="three wanted"),
        pytest.param(OwnNumbered(28), StoreFull, id="numbered"),
        pytest.param(OwnRejected("a.png"), RowRejected, id="more than a sentence"),
    ]


@pytest.mark.parametrize(("left", "nearest"), foreign_below_ours())
def test_a_third_party_class_arrives_unchanged_by_pickle_and_as_the_nearest_known_class_by_json(
    left: Daskt2iError, nearest: type[Daskt2iError]
) -> None:
    pickled, told = by_pickle(left), by_json(left)
    assert (type(pickled), type(told)) == (type(left), nearest)
    assert str(pickled) == str(told) == str(left)
    assert pickled.ends_run == told.ends_run == left.ends_run
    assert {**pickled.__dict__} == left.__dict__
    assert getattr(pickled, "errno", None) == getattr(left, "errno", None)


def test_a_third_party_class_that_cannot_be_pickled_arrives_as_the_nearest_class_of_the_tree() -> None:
    left = OwnWithLock()
    left.add_note("on here:1")
    arrived = by_pickle(left)
    assert type(arrived) is StoreFull
    assert (str(arrived), arrived.ends_run) == ("b holds 1 of 2 bytes.", False)
    assert arrived.__notes__[0] == "on here:1"
    assert "OwnWithLock" in arrived.__notes__[1]


def raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as found:
        found.add_note("on here:1")
        return found


def foreign() -> list[Any]:
    many = [ValueError("v"), KeyError("k"), torch.OutOfMemoryError("o"), ThreeWanted("w", 2, "x"), WithLock("l")]
    return [pytest.param(error, id=type(error).__name__) for error in many]


@pytest.mark.parametrize("error", foreign())
def test_an_error_outside_the_tree_arrives_by_json_as_executor_error(error: Exception) -> None:
    said = f"{type(error).__name__}: {error}"
    arrived = by_json(raised(error))
    assert type(arrived) is ExecutorError
    assert (str(arrived), arrived.ends_run, arrived.caused_by) == (said, False, type(error).__name__)
    assert arrived.__notes__[0] == "on here:1"
    assert "in raised" in arrived.__notes__[-1]


@pytest.mark.parametrize("error", foreign()[:3])
def test_an_error_outside_the_tree_arrives_unchanged_by_pickle(error: Exception) -> None:
    arrived = by_pickle(error)
    assert (type(arrived), str(arrived)) == (type(error), str(error))


@pytest.mark.parametrize("error", foreign()[3:])
def test_an_error_outside_the_tree_that_does_not_survive_pickling_arrives_as_executor_error(error: Exception) -> None:
    arrived = by_pickle(raised(error))
    assert type(arrived) is ExecutorError
    assert str(arrived) == f"{type(error).__name__}: {error}"
    assert arrived.__notes__[0] == "on here:1"
    assert "in raised" in arrived.__notes__[-1]


@pytest.mark.parametrize("wanted", [True, False], ids=["raised from it", "raised while it was handled"])
def test_a_cause_that_cannot_be_pickled_is_removed_and_named(wanted: bool) -> None:
    """Dask sends causes too. For an error with such a cause it would send only the `repr`."""
    try:
        try:
            raise WithLock("the words of the cause")
        except WithLock as cause:
            raise ConfigError("It is wrong.") from (cause if wanted else None)
    except ConfigError as error:
        left: Any = portable(error)
    assert type(left) is ConfigError
    assert left.__cause__ is left.__context__ is None
    assert left.caused_by == ("WithLock" if wanted else "")
    assert ("the words of the cause" in left.__notes__[-1]) is wanted


def test_a_cause_that_pickles_stays_with_its_error() -> None:
    left = made(ConfigError)
    assert portable(left) is left
    assert isinstance(left.__cause__, ZeroDivisionError)


def test_a_circle_of_causes_comes_to_an_end() -> None:
    error, other = ConfigError("It is wrong."), ValueError("v")
    error.__cause__, other.__cause__ = other, error
    assert portable(error) is error


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"type": "ConfigError", "message": "m"}, ConfigError),
        ({"type": "RowRejected", "message": "m"}, Daskt2iError),
        ({"type": "RowRejected", "message": "m", "arguments": ["no-caption", "other"]}, Daskt2iError),
        ({"type": "RowRejected", "message": "m", "arguments": [1, 2, 3]}, Daskt2iError),
        ({"type": "os", "message": "m"}, Daskt2iError),
        ({"type": "Reason", "message": "no-caption"}, Daskt2iError),
        ({"type": "ConfigError", "message": "m", "notes": 1, "cause": None, "ends_run": "x"}, ConfigError),
        ({}, Daskt2iError),
    ],
    ids=str,
)
def test_any_json_gives_an_error_of_the_tree_with_its_message(told: dict[str, Any], kind: type[Daskt2iError]) -> None:
    error = from_json(told)
    assert (type(error), str(error)) == (kind, str(told.get("message")))
    assert error.ends_run is kind.ends_run


def test_an_error_without_the_arguments_of_its_class_is_its_nearest_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast(dict[str, Any], TREE), "OwnStoreFull", OwnStoreFull)
    assert type(from_json({"type": "OwnStoreFull", "message": "m"})) is StoreFull


def test_a_third_party_class_with_the_name_of_a_class_of_the_tree_is_not_mistaken_for_it() -> None:
    namesake = type("StoreFull", (ConfigError,), {})
    assert type(by_json(namesake("m"))) is ConfigError


def test_arguments_that_json_cannot_hold_are_not_sent() -> None:
    arrived = by_json(ConfigError("m", {1}))
    assert (type(arrived), str(arrived)) == (ConfigError, str(ConfigError("m", {1})))
