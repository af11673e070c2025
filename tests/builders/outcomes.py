"""What a call gives: its value, or its error if that is of the kind that it may raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def sentence_of(kind: type[Exception] | tuple[type[Exception], ...], call: Callable[..., Any], *arguments: Any) -> Any:
    """The value of a call, or one `Sentence`: its error is of that kind, and its message has one line. Others pass."""
    try:
        return call(*arguments)
    except kind as error:
        return Sentence(str(error))


class Sentence(str):
    """The message of an error."""

    __slots__ = ()

    def __new__(cls, text: str) -> Sentence:
        assert text
        assert "\n" not in text
        return super().__new__(cls, text)
