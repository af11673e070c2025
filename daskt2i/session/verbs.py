"""Calling a method of the front object: clear messages for a wrong argument, a closed run, and Ctrl-C.

Covers: messages about unknown arguments and attributes, which name the right ones.
Does not cover: what the methods do (`daskt2i.run`).
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from daskt2i.errors import Interrupted, UnknownArgument
from daskt2i.notebooks import prepare_notebook
from daskt2i.session.arguments import check_arguments

P = ParamSpec("P")
R = TypeVar("R")


def explain_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function, so that a call with wrong arguments raises an error that names the right ones.

    Raises:
        UnknownArgument: an argument is unknown, or there are too many or too few.
        ConfigError: an argument has the wrong kind.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UnknownArgument(_wrong(_name(function, args), signature, kwargs, error)) from None
        check_arguments(bound.arguments.items())
        return function(*args, **kwargs)

    return call


def verb(method: Callable[P, R]) -> Callable[P, R]:
    """Wrap a method of a run, so that it refuses a closed run and turns Ctrl-C into an `Interrupted`.

    Raises:
        ConfigError: the run is closed.
        Interrupted: the user pressed Ctrl-C, or the stop button of the notebook.
    """
    explained = explain_arguments(method)

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        run = _owner(method, args)
        run._ready()
        prepare_notebook()
        try:
            result = explained(*args, **kwargs)
        except Interrupted:
            raise
        except KeyboardInterrupt:
            raise Interrupted("Stopped. What is committed stays; call the same method again to continue.") from None
        run._succeeded()
        return result

    return call


def reader(method: Callable[P, R]) -> Callable[P, R]:
    """Wrap a method of a run that only reads the run folder. It works on a closed run too."""
    explained = explain_arguments(method)

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        run = _owner(method, args)
        prepare_notebook()
        result = explained(*args, **kwargs)
        run._succeeded()
        return result

    return call


def _owner(method: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The run of a call."""
    if not args:
        raise UnknownArgument(
            f"{method.__qualname__} was called on the class. Nothing was started; make a run, and call "
            f"run.{method.__name__}()."
        )
    return args[0]


def nearest(name: str, names: Iterable[str]) -> str:
    """`" Did you mean train?"`, or "" if no name is similar."""
    found = difflib.get_close_matches(name, list(names), 1)
    return f" Did you mean {found[0]}?" if found else ""


def _name(function: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """The name that the user knows: `Run.sample`, `Run`, `open_run`."""
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
