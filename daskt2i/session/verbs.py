"""How a method of the front object is called: a sentence for a wrong name, for a closed run, and for Ctrl-C.

Covers: arguments and attributes that are not there, with the right ones in the sentence.
Does not cover: what the methods do (`daskt2i.run`).
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from daskt2i.errors import Interrupted, UnknownArgument

P = ParamSpec("P")
R = TypeVar("R")


def explain_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """A function that says which arguments it takes when it is called with others.

    Raises:
        UnknownArgument: an argument that it does not take; too many, or too few.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UnknownArgument(_wrong(_name(function, args), signature, kwargs, error)) from None
        return function(*args, **kwargs)

    return call


def verb(method: Callable[P, R]) -> Callable[P, R]:
    """A method of a run: it refuses where the run is closed, and Ctrl-C becomes a sentence.

    Raises:
        ConfigError: the run is closed.
        Interrupted: the user pressed Ctrl-C, or the stop button.
    """
    explained = explain_arguments(method)

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        run: Any = args[0]
        run._ready()
        try:
            result = explained(*args, **kwargs)
        except Interrupted:
            raise
        except KeyboardInterrupt:
            raise Interrupted("Stopped. What is committed stays; call the same method again to go on.") from None
        run._succeeded()
        return result

    return call


def nearest(name: str, names: Iterable[str]) -> str:
    """`" Did you mean train?"`, or "" where nothing is near."""
    found = difflib.get_close_matches(name, list(names), 1)
    return f" Did you mean {found[0]}?" if found else ""


def _name(function: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """As the user knows it: `Run.sample`, `Run`, `open_run`."""
    if "." not in function.__qualname__ or not args:
        return function.__name__
    owner = type(args[0]).__name__
    return owner if function.__name__ == "__init__" else f"{owner}.{function.__name__}"


def _wrong(name: str, signature: inspect.Signature, given: dict[str, Any], error: TypeError) -> str:
    taken = [one for one in signature.parameters if one != "self"]
    unknown = [one for one in given if one not in taken]
    takes = f"It takes {', '.join(taken)}." if taken else "It takes no arguments."
    if not unknown:
        return f"{name}: {error}. {takes} Nothing was started."
    return f"{name} has no argument {unknown[0]!r}.{nearest(unknown[0], taken)} {takes} Nothing was started."
