"""Checks `dataset.where`, an expression over the facts of a row, and evaluates it with simpleeval.

    people and group == "single" and min(width, height) >= 256 and not duplicate

Covers: names of facts and columns, numbers, texts, lists of them after `in`; `and or not`, comparisons, `in`,
`+ - * / // %`, and `min`, `max`, `abs`. Anything else is refused, such as attributes, indices, other calls and
comprehensions.
Does not cover: finding the facts (`survey`), choosing the rows (`selection`).

The check (docs/decisions/0004-where.md) walks the syntax tree with a list of allowed nodes. For each part it knows the
kind: yes or no, a number, a text or a list of words. Its error points to the wrong place. simpleeval evaluates checked
expressions, with its nodes, operators and functions restricted to the same list.
"""

from __future__ import annotations

import ast
import difflib
import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from daskt2i.errors import ConfigError
from daskt2i.facts.table import FACTS, NUMBER, TEXT, WORDS, YES_NO, Fact

MOST_CHARACTERS = 2000
MOST_DEPTH = 40

NO_COLUMNS: Mapping[str, Fact] = {}

_FUNCTIONS = {"min": min, "max": max, "abs": abs}
_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked `where`.

    Attributes:
        text: the expression in Python's own spacing and quotes, so spelling it differently gives the same fingerprint.
        names: the facts in it, sorted.
    """

    text: str
    names: tuple[str, ...]

    @property
    def needs_pictures(self) -> bool:
        """Whether image files must be read to evaluate it."""
        return any(FACTS[name].picture for name in self.names if name in FACTS)

    def keeps(self, values: Mapping[str, Any]) -> bool:
        """Whether a row with these facts is kept. A division by zero (an image of height 0) does not keep it.

        A number that is too large for a float counts as infinite, as in IEEE 754.

        Args:
            values: the values of all `names`.
        """
        evaluator, tree = _evaluator(self.text)
        evaluator.names = dict(values)
        try:
            return bool(evaluator.eval(self.text, previously_parsed=tree))
        except ZeroDivisionError:
            return False


@dataclass(frozen=True, slots=True)
class Asked:
    """Where an expression stands, for messages.

    Attributes:
        setting: the setting or the argument.
        still: what is still true if it is wrong.
    """

    setting: str = "dataset.where"
    still: str = "Nothing was encoded"


AT_ENCODE = Asked()


def parse_where(text: str, columns: Mapping[str, Fact] = NO_COLUMNS, asked: Asked = AT_ENCODE) -> Expression:
    """Check an expression.

    Args:
        columns: further names that it may have. A fact comes before a column of the same name.
        asked: where the expression stands.

    Raises:
        ConfigError: it is not an expression, or it names an unknown fact. The message shows the place.
    """
    stripped = text.strip()
    if not stripped or len(stripped) > MOST_CHARACTERS or "\0" in stripped:
        raise ConfigError(
            f"{asked.setting} is {'too long or has a NUL character' if stripped else 'empty'}. Give an expression such "
            f'as `people and group == "single"`, of at most {MOST_CHARACTERS} characters. {asked.still}.'
        )
    check = _Check(" ".join(stripped.splitlines()), {**columns, **FACTS}, asked)
    tree = check.parsed()
    if (kind := check.kind(tree)) != YES_NO:
        raise check.wrong(tree, f"the expression gives {kind}, but it must give yes or no; compare it with a value")
    return Expression(ast.unparse(tree), tuple(sorted(check.names)))


@dataclass(slots=True)
class _Check:
    text: str
    facts: Mapping[str, Fact]
    asked: Asked
    names: set[str] = field(default_factory=set)
    depth: int = 0

    def wrong(self, node: ast.AST, why: str) -> ConfigError:
        # Python counts columns in bytes of UTF-8.
        raw = self.text.encode()
        start, stop = getattr(node, "col_offset", 0), getattr(node, "end_col_offset", None) or len(raw)
        return self.wrong_at(len(raw[:start].decode()), len(raw[:stop].decode()), why)

    def wrong_at(self, start: int, stop: int, why: str) -> ConfigError:
        shown = f"{self.text[:start]}>>>{self.text[start:stop]}<<<{self.text[stop:]}"
        return ConfigError(
            f"{self.asked.setting} is wrong at character {start + 1}, `{shown}`: {why}. {self.asked.still}."
        )

    def parsed(self) -> ast.expr:
        try:
            return _parsed(self.text)
        except SyntaxError as error:
            start = max(0, min((error.offset or 1) - 1, len(self.text)))
            end = error.end_offset - 1 if error.end_offset and error.end_offset - 1 > start else start + 1
            raise self.wrong_at(start, min(end, len(self.text)), f"this is not an expression ({error.msg})") from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise self.wrong_at(0, len(self.text), f"this is not an expression ({type(error).__name__})") from error

    def kind(self, node: ast.expr) -> str:
        """The kind of value that a part gives.

        Raises:
            ConfigError: the part is not allowed, or its own parts have wrong kinds.
        """
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise self.wrong(node, f"this is nested more than {MOST_DEPTH} levels deep")
        found = self._kind(node)
        self.depth -= 1
        return found

    def _kind(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=bool()):
                return YES_NO
            case ast.Constant(value=int() | float()):
                return NUMBER
            case ast.Constant(value=str()):
                return TEXT
            case ast.Name(id=name):
                return self._named(node, name)
            case ast.BoolOp(values=values):
                for value in values:
                    self._want(value, YES_NO)
                return YES_NO
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self._want(operand, YES_NO)
                return YES_NO
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                self._want(operand, NUMBER)
                return NUMBER
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _ARITHMETIC):
                self._want(left, NUMBER)
                self._want(right, NUMBER)
                return NUMBER
            case ast.Compare(left=first, ops=comparisons, comparators=others):
                for one, comparison, other in zip([first, *others], comparisons, others, strict=False):
                    self._compare(one, comparison, other)
                return YES_NO
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and args:
                for argument in args:
                    self._want(argument, NUMBER)
                if (name == "abs") != (len(args) == 1):
                    raise self.wrong(node, "abs takes one number, min and max take two or more")
                return NUMBER
            case ast.Call():
                raise self.wrong(node, "only min, max and abs can be called, with numbers")
            case _:
                raise self.wrong(
                    node,
                    "this is not allowed here; an expression may have facts, numbers, texts, comparisons, and, or, "
                    "not, in, + - * / // % and min, max, abs",
                )

    def _named(self, node: ast.expr, name: str) -> str:
        fact = self.facts.get(name)
        if fact is None:
            close = difflib.get_close_matches(name, self.facts, 1, 0.6)
            hint = f"did you mean {close[0]}?" if close else ""
            quoted = [f for f, about in FACTS.items() if name in about.values and name]
            if quoted:
                hint = f'did you mean {quoted[0]} == "{name}"?'
            hint = f"{hint} " if hint else ""
            columns = ", ".join(one for one in self.facts if one not in FACTS)
            others = f"; the columns are {columns}" if columns else ""
            raise self.wrong(node, f"there is no fact named {name}; {hint}the facts are {', '.join(FACTS)}{others}")
        self.names.add(name)
        return fact.kind

    def _want(self, node: ast.expr, wanted: str) -> None:
        found = self.kind(node)
        if found != wanted:
            raise self.wrong(node, f"this is {found}, but it must be {wanted}")

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> None:
        if isinstance(op, ast.In | ast.NotIn):
            self._contains(left, right)
        elif isinstance(op, _ORDER):
            self._want(left, NUMBER)
            self._want(right, NUMBER)
        elif isinstance(op, ast.Eq | ast.NotEq):
            kinds = self.kind(left), self.kind(right)
            if kinds[0] != kinds[1] or kinds[0] == WORDS:
                raise self.wrong(right, f"{kinds[0]} cannot be compared with {kinds[1]}")
            self._known(left, right)
            self._known(right, left)
        else:
            raise self.wrong(right, "`is` does not compare values; write ==")

    def _contains(self, left: ast.expr, right: ast.expr) -> None:
        found = self.kind(left)
        if isinstance(right, ast.List | ast.Tuple):
            for item in right.elts:
                if not _is_value(item) or self.kind(item) != found:
                    raise self.wrong(item, f"a list after `in` must hold values of the kind left of it ({found})")
                self._known(left, item)
        elif (kind := self.kind(right)) not in (TEXT, WORDS) or found != TEXT:
            raise self.wrong(right, f"`in` finds a text in a text or in a list of words, not {found} in {kind}")

    def _known(self, name: ast.expr, value: ast.expr) -> None:
        """Refuse a value that the fact never has. It is a typing error, and would silently keep no row."""
        if isinstance(name, ast.Name) and isinstance(value, ast.Constant):
            values = self.facts[name.id].values
            if values and value.value not in values:
                known = ", ".join(v or "empty" for v in values)
                raise self.wrong(value, f"{name.id} never has this value; it can be {known}")


def _is_value(node: ast.expr) -> bool:
    """Whether a part of an expression is a plain value. Python reads -1 as a minus before the number 1."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        node = node.operand
    return isinstance(node, ast.Constant)


@functools.lru_cache(maxsize=8)
def _evaluator(text: str) -> tuple[Any, ast.expr]:
    """simpleeval, restricted to what `_Check` allows, and the syntax tree of a checked text."""
    import operator

    from simpleeval import EvalWithCompoundTypes

    allowed: dict[Any, Any] = {
        ast.Add: _safe(operator.add), ast.Sub: _safe(operator.sub), ast.Mult: _safe(operator.mul),
        ast.Div: _safe(operator.truediv), ast.FloorDiv: _safe(operator.floordiv), ast.Mod: _safe(operator.mod),
        ast.Eq: operator.eq, ast.NotEq: operator.ne,
        ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Not: operator.not_,
        ast.USub: operator.neg, ast.UAdd: operator.pos, ast.In: lambda x, y: x in y, ast.NotIn: lambda x, y: x not in y,
    }  # fmt: skip
    nodes = (
        ast.Expr, ast.Constant, ast.Name, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.Call, ast.List,
        ast.Tuple,
    )  # fmt: skip
    evaluator = EvalWithCompoundTypes(operators=allowed)
    evaluator.functions = dict(_FUNCTIONS)  # the argument `functions` would only add to list, dict, …
    evaluator.nodes = {node: handler for node, handler in evaluator.nodes.items() if node in nodes}
    return evaluator, _parsed(text)


def _parsed(text: str) -> ast.expr:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's advice about texts such as "\d" is not for a user of this language
        return ast.parse(text, mode="eval").body


def _safe(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """An operation whose operands become floats, possibly infinite ones, if they are too large for it."""

    def operate(left: Any, right: Any) -> Any:
        try:
            return operation(left, right)
        except OverflowError:  # an integer beyond 1.8e308 meets a float or a division
            return operation(_as_float(left), _as_float(right))

    return operate


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
