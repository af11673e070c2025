"""What the messages of daskt2i tell a user to do: found in the source, and held against where an error was raised.

Covers: finding messages with advice, by module and function; a context that takes the error of one such place.
Does not cover: doing what a message says (`tests/advice/`), which message has which test (`tests/test_advice.py`).

A message is known by its place and its class, not by its words: those may change.
"""

from __future__ import annotations

import ast
import linecache
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from daskt2i import errors
from daskt2i.errors import Daskt2iError

PACKAGE = Path(errors.__file__).parent

ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Daskt2iError)}
ERRORS -= {"Daskt2iError", "RowRejected"}
"""Classes whose sentence a user reads as advice. The reason of a rejected row tells what is wrong with a file."""

SAYS_WHY = {"wrong", "wrong_at", "kind"}
"""Functions that raise with the words that they are given."""

NOTES = {"notes", "_notes", "warnings", "note", "said"}
"""Where sentences are kept that are no errors."""

NOTE_MAKERS = {"check_disk", "_compared"}
"""Functions whose text becomes a note."""

_VERBS = (
    "add allow answer ask build call change check choose compare convert copy correct create encode expected fetch "
    "fill free get give go have install keep leave let lower look make move name open pass pick point put raise "
    "remove rename repair repeat restore run save say see set start stop take train try turn use wait watch write"
)
ADVICE = re.compile(
    rf"(?:^|[.;:,(\u2026] |\b(?:or|and|then|please|to|just|also|first) )(?:{'|'.join(_VERBS.split())})\b"
    r"|\b(?:it|that|this|they|there) (?:can|must|may) be\b|\bgoes on\b|\bmust be\b|\bis wanted\b|\bare wanted\b"
    r"|\b(?:the|this) same (?:command|method)\b|\bof the form\b|\bdid you mean\b|\bit takes \w|\bopens? it\b"
    r"|\bneeds? (?:an?|no|at least|[0-9])\b|\bmakes (?:a|one)\b|pip install|; there are\b|`[a-z]|--[a-z]",
    re.IGNORECASE,
)
"""Words that ask for something: a verb that begins a sentence or a clause, what a value can be, what is needed."""


_PLACE = re.compile(r"[\w/]+\.py:[\w.]+ \w+")


@cache
def _said(module: str) -> tuple[tuple[str, str], ...]:
    """Place and class, and text, of each message of a module (`room/module.py`). Nothing is imported for it."""
    return tuple((f"{module}:{place} {kind}", text) for place, kind, text in _Module(PACKAGE / module).said())


@cache
def modules() -> tuple[str, ...]:
    """The modules of daskt2i, as `room/module.py`."""
    return tuple(path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py")))


@cache
def messages(module: str) -> dict[str, list[str]]:
    """Place and class -> the texts of a module's messages that hold advice."""
    found: dict[str, list[str]] = defaultdict(list)
    if module != "errors.py":
        for place, text in _said(module):
            if ADVICE.search(text):
                found[place].append(text)
    return dict(found)


def places() -> set[str]:
    """The places and classes of all messages, with advice or without."""
    return {place for module in modules() for place, _ in _said(module)}


class _Module:
    def __init__(self, path: Path) -> None:
        self._tree = ast.parse(path.read_text(encoding="utf-8"))
        self._top = {node.name: node for node in ast.walk(self._tree) if isinstance(node, ast.FunctionDef)}
        self._constants = {
            target.id: node.value
            for node in self._tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def said(self) -> Iterator[tuple[str, str, str]]:
        """(function, class or `Note`, text) of each message."""
        yield from self._below(self._tree, [], None)

    def _below(
        self, node: ast.AST, place: list[str], function: ast.FunctionDef | None
    ) -> Iterator[tuple[str, str, str]]:
        for child in ast.iter_child_nodes(node):
            inside, around = place, function
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inside = [*place, child.name]
                around = child if isinstance(child, ast.FunctionDef) else None
            kind, parts = self._message(child, place)
            if kind:
                yield ".".join(place), kind, " ".join(self._text(part, function, 0) for part in parts)
            yield from self._below(child, inside, around)

    def _message(self, node: ast.AST, place: list[str]) -> tuple[str, list[ast.expr]]:
        if isinstance(node, ast.Return) and node.value and place and place[-1] in NOTE_MAKERS:
            return "Note", [node.value]
        if isinstance(node, ast.keyword) and node.arg in NOTES:
            return "Note", [node.value]
        if isinstance(node, ast.Assign) and any(_name(target) in NOTES for target in node.targets):
            return "Note", [node.value]
        if not isinstance(node, ast.Call):
            return "", []
        name = _name(node.func)
        if name in ERRORS or name == "Note" or name in SAYS_WHY:
            return ("ConfigError" if name in SAYS_WHY else name), list(node.args)
        if name in ("append", "extend") and isinstance(node.func, ast.Attribute) and _name(node.func.value) in NOTES:
            return "Note", list(node.args)
        return "", []

    def _text(self, node: ast.AST | None, function: ast.FunctionDef | None, depth: int) -> str:
        """The words of an expression, and those of the names and functions of this module that are in it."""
        if node is None or depth > 3:
            return "…"
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else "…"
        if isinstance(node, ast.JoinedStr):
            return "".join(self._text(part, function, depth) for part in node.values)
        if isinstance(node, ast.FormattedValue):
            return self._text(node.value, function, depth)
        if isinstance(node, ast.Name):
            given = [
                one.value
                for one in ast.walk(function or ast.Module([], []))
                if isinstance(one, ast.Assign | ast.AnnAssign | ast.AugAssign)
                for target in (one.targets if isinstance(one, ast.Assign) else [one.target])
                if _name(target) == node.id
            ] or [self._constants.get(node.id)]
            return " ".join(self._text(one, function, depth + 1) for one in given)
        if isinstance(node, ast.Call) and _name(node.func) in self._top and _name(node.func) not in SAYS_WHY:
            called = self._top[_name(node.func)]
            words = [one.value for one in ast.walk(called) if isinstance(one, ast.Return) and one.value]
            arguments = [self._text(one, function, depth + 1) for one in node.args]
            return " ".join([*(self._text(one, called, depth + 1) for one in words), *arguments])
        if isinstance(node, ast.Compare | ast.Attribute | ast.Subscript | ast.comprehension):
            return "…"
        return " ".join(self._text(child, function, depth) for child in ast.iter_child_nodes(node)) or "…"


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


@contextmanager
def told(place: str) -> Iterator[pytest.ExceptionInfo[Daskt2iError]]:
    """The block ends with the error of this place, such as `config/changes.py:Changes.apply ConfigError`.

    The place is that of the innermost frame of daskt2i, or a function that it calls for the error it raises. So no
    other message can be taken for it.
    """
    assert place in messages(place.partition(":")[0]), f"there is no message with advice at {place}"
    where, _, kind = place.partition(" ")
    with pytest.raises(getattr(errors, kind)) as info:
        yield info
    assert type(info.value).__name__ == kind
    raised, line, trace = "", "", info.value.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        path = Path(code.co_filename)
        if path.is_relative_to(PACKAGE):
            raised = f"{path.relative_to(PACKAGE).as_posix()}:{code.co_qualname.replace('<locals>.', '')}"
            line = linecache.getline(code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    made_for = f"raise {where.rpartition(':')[2].rpartition('.')[2]}(" in line.replace("self.", "")
    assert where == raised or made_for, f"raised by {raised}: {info.value}"


def covers(place: str) -> None:
    """The test around it is about this place: that of a note, or of an error that comes from another process."""
    assert place in messages(place.partition(":")[0]), f"there is no message with advice at {place}"


@cache
def places_with_tests(folder: Path) -> dict[str, list[str]]:
    """Place -> the tests of a folder that name it: in `told`, in `covers`, or as a parameter for one of these.

    A test that names a place twice counts twice.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.rglob("test_*.py")):
        for function in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and _PLACE.fullmatch(node.value):
                    found[node.value].append(f"{path.relative_to(folder.parent).as_posix()}::{function.name}")
    return dict(found)
