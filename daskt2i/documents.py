"""Strict reading of JSON and YAML that a user wrote, and what counts as text and as a number there.

Covers: text from bytes; JSON and YAML in which nothing is lost or grows (a doubled key, text after the end, aliases
that multiply, circles, deep nesting, endless numbers); ids; text that UTF-8 can hold.
Does not cover: what the documents mean (`sources.coco_index`, `facts`, `config.workflow_file`), fetching their bytes
(`addresses`).

A library's reader keeps the last value of a doubled key and says nothing, so a part of the file would be gone.

JSON's `NaN` is read, because many tools write it into values that nobody uses. Where a value is used, NaN is refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import yaml

MOST_DEPTH = 100
"""Levels of nesting in YAML."""

MOST_VALUES = 1_000_000
"""Values in YAML, after every alias is written out. Ten lines of aliases can stand for 10^9 values."""

MOST_INTEGER = 2**64
"""Integers in YAML are smaller. Python cannot even print one of 5,000 digits."""

WAS_IT_CUT = "(was it cut?)"
"""What is asked about a file that ends early: a download that broke off is the usual cause."""

_DIGITS = re.compile(r"-?[0-9]{1,19}")
_PART = re.compile(r"\.|[eE][+-]?|u[0-9a-fA-F]{0,4}")
"""What is left of a JSON number or of an escape in a text, if the file ends in it."""

_SURROGATES = re.compile("[\ud800-\udfff]")
NOT_OF_PATHS = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Half surrogate pairs, but for those with which Python writes the bytes of a file name that is not UTF-8."""


class BadDocument(ValueError):
    """A document cannot be used. The message is a clause: "the key 'images' occurs twice in one object"."""


def text_of(raw: bytes) -> str:
    """Text of UTF-8, UTF-16 or UTF-32 bytes, with or without a byte order mark.

    Raises:
        BadDocument: the bytes are not such text.
    """
    coding = json.detect_encoding(raw)
    try:
        return raw.decode(coding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        name = coding.upper().removesuffix("-SIG")
        early = f"it ends early {WAS_IT_CUT}, and " if error.end >= len(raw) and len(raw) - error.start < 4 else ""
        raise BadDocument(f"{early}it is not {name} text ({error.reason} at byte {error.start:,})") from error


def read_json(text: str, thin: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value of a JSON text.

    Args:
        thin: what to keep of each object below the top, so that a large file needs little memory; default all.

    Raises:
        BadDocument: it is not one complete JSON value, or an object has a key twice.
    """
    top: dict[str, Any] = {}

    def checked(pairs: list[tuple[str, Any]]) -> Any:
        nonlocal top
        # The top object is the last one that ends. No key tells it apart: entries may have the same keys.
        top = item = dict(pairs)
        if len(item) != len(pairs):
            raise BadDocument(_doubled([key for key, _ in pairs]))
        return item if thin is None else thin(item)

    if not text or text.isspace():
        raise BadDocument("it is not complete and valid JSON: it is empty")
    try:
        found = json.loads(text, object_pairs_hook=checked)
    except BadDocument:
        raise
    except RecursionError as error:
        raise BadDocument("it is not complete and valid JSON: it is nested too deeply") from error
    except ValueError as error:
        said = "a number has too many digits" if "digits" in str(error) else str(error)
        early = f"it ends early {WAS_IT_CUT}, and " if _ends_early(text, error) else ""
        raise BadDocument(f"{early}it is not complete and valid JSON: {said}") from error
    return top if text[: text.find("{") + 1].strip() == "{" else found


def _ends_early(text: str, error: ValueError) -> bool:
    """Whether a JSON text is in order up to its end, and goes on there."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    rest = text[error.pos :].rstrip()
    in_a_word = any(word.startswith(rest) for word in ("true", "false", "null", "NaN", "-Infinity", "Infinity"))
    in_a_number_or_escape = _PART.fullmatch(rest) is not None
    return in_a_word or in_a_number_or_escape or error.msg.startswith("Unterminated string")


def _doubled(keys: list[Any]) -> str:
    key = next(key for key, count in Counter(keys).items() if count > 1)
    among = ", ".join(_short(one) for one in dict.fromkeys(keys[:12])) + ", …" * (len(set(keys)) > 12)
    return f"the key {_short(key)} occurs twice in one object (its keys are {among})"


def _short(key: object) -> str:
    return repr(storable(key) if isinstance(key, str) else key)[:60]


def read_yaml(text: str | bytes) -> Any:
    """The value of a YAML text of plain values: mappings, lists, text, numbers, yes and no, dates, null.

    Raises:
        BadDocument: it is not one YAML document, a mapping has a key twice, or a value is no plain value.
    """
    if isinstance(text, bytes):
        text = text_of(text)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            loader.examine(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except BadDocument:
        raise
    except RecursionError as error:
        raise BadDocument("it is nested too deeply") from error
    # ValueError: a date such as 2020-13-01. The others: numbers and dates that PyYAML's own patterns do not foresee.
    except (yaml.YAMLError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError) as error:
        raise BadDocument(" ".join(str(error).split()) or type(error).__name__) from error


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which refuses what would be lost or what JSON cannot hold."""

    def examine(self, top: yaml.Node) -> None:
        """Refuse doubled keys, circles, deep nesting, and aliases that stand for too many values.

        Each node is looked at once, before values are made: then merged keys (`<<`) would stand beside a mapping's own.
        """
        sizes: dict[int, int] = {}

        def size(node: Any, depth: int) -> int:
            if depth > MOST_DEPTH:
                raise BadDocument(f"it is nested more than {MOST_DEPTH} levels deep")
            if isinstance(node, yaml.ScalarNode):
                return 1
            known = sizes.get(id(node))
            if known == 0:
                raise BadDocument(f"the value that begins in line {_line(node)} contains itself (an alias)")
            if known is None:
                sizes[id(node)] = 0
                below = node.value
                if isinstance(node, yaml.MappingNode):
                    self._require_different([key for key, _ in node.value])
                    below = [one for pair in node.value for one in pair]
                known = sizes[id(node)] = 1 + sum(size(one, depth + 1) for one in below)
            if known > MOST_VALUES:
                raise BadDocument(f"it has more than {MOST_VALUES:,} values, with its aliases (*) written out")
            return known

        size(top, 0)

    def _require_different(self, keys: list[Any]) -> None:
        seen = set()
        for node in keys:
            if isinstance(node, yaml.ScalarNode) and node.tag != _MERGE:
                key = self.construct_object(node, deep=True)
                if key in seen:
                    raise BadDocument(f"the key {_short(key)} occurs twice in one mapping, again in line {_line(node)}")
                seen.add(key)

    def flatten_mapping(self, node: Any) -> None:
        """Merge keys (`<<`): a mapping's own keys win, then those of the mapping that is named first.

        PyYAML compares keys by the place of their text in memory, so there it depends on the length of a key who wins.
        """
        own = [pair for pair in node.value if pair[0].tag != _MERGE]
        merged = []
        for key, value in node.value:
            if key.tag == _MERGE:
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(source, yaml.MappingNode):
                        raise BadDocument(f"`<<` in line {_line(key)} merges what is no mapping")
                    self.flatten_mapping(source)
                    merged += source.value
        kept: dict[Any, Any] = {}
        for key, value in [*own, *merged]:
            kept.setdefault((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key), (key, value))
        node.value = list(kept.values())

    def text(self, node: Any) -> str:
        found = str(self.construct_scalar(node))
        if not _SURROGATES.search(found):
            return found
        whole = found.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")  # pairs, as JSON writes
        if NOT_OF_PATHS.search(whole):
            raise BadDocument(f"line {_line(node)} has half a surrogate pair, which is not text")
        return whole

    def integer(self, node: Any) -> int | str:
        """An integer. `2:00:00` is text, as in YAML 1.2: YAML 1.1 takes it for 7,200 sixtieths of an hour."""
        if ":" in node.value:
            return self.text(node)
        long = len(str(node.value)) > 200  # Python refuses to read 5,000 digits, with a sentence about itself
        found = 0 if long else int(self.construct_yaml_int(node))
        if long or abs(found) >= MOST_INTEGER:
            raise BadDocument(
                f"line {_line(node)} has a number of {len(node.value):,} characters, which is too large; "
                "if it is text, it needs quotes"
            )
        return found

    def number(self, node: Any) -> float | str:
        """A number. `1:30.5` is text, as in `integer`."""
        return self.text(node) if ":" in node.value else float(self.construct_yaml_float(node))

    def no_plain_value(self, node: Any) -> Any:
        kind = node.tag.rpartition(":")[2]
        raise BadDocument(f"line {_line(node)} has a value of the kind !!{kind}, which no setting takes")


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.text)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.number)
for _kind in ("binary", "set", "omap", "pairs"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.no_plain_value)


_MERGE = "tag:yaml.org,2002:merge"


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1


def integer(value: object) -> int | None:
    """A 64-bit integer, also if it is digits in quotes; None for all other values."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    return None


def storable(text: object) -> str:
    """Text that UTF-8 can hold; "" for a value that is not text. Half a surrogate pair becomes a question mark."""
    if not isinstance(text, str):
        return ""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def shown(value: object, most: int = 60) -> str:
    """A value for a message, on one line and short. Nested values are cut, and an endless number is not written out."""
    if isinstance(value, int) and abs(value) >= 10**100:
        return "a number of more than 100 digits"
    if isinstance(value, str):
        value = storable(value[: most + 1])
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits in a list, or a list in itself
        text = type(value).__name__
    return text if len(text) <= most else f"{text[: most - 1]}…"
