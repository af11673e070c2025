"""What arguments of the front object must be, by their names: the same name means the same everywhere.

Covers: kinds and limits of plain arguments, and one sentence for a wrong one.
Does not cover: names of arguments (`verbs`), settings (`config.settings`), clients and schedulers (`schedulers`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from daskt2i.addresses import is_blank
from daskt2i.config.samplers import SAMPLERS
from daskt2i.errors import ConfigError

Rule = tuple[Callable[[Any], bool], str]


def _whole(value: Any, least: int, most: int = 10**9) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most


def _amount(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and float(value) >= 0


def _path(value: Any) -> bool:
    return (
        isinstance(value, str | os.PathLike)
        and isinstance(os.fspath(value), str)
        and "\0" not in os.fspath(value)
        and not is_blank(value)
    )


def _workflow(value: Any) -> bool:
    return not isinstance(value, str | os.PathLike) or _path(value)  # `run_settings` refuses other objects


def _text(value: Any) -> bool:
    # A lone surrogate has no UTF-8, and no tokenizer takes it.
    return isinstance(value, str) and value.encode("utf-8", "ignore").decode() == value


def _texts(value: Any) -> bool:
    return _text(value) or (isinstance(value, Sequence) and not isinstance(value, bytes) and all(map(_text, value)))


def _counts(value: Any) -> bool:
    return _whole(value, 1, 10**6) or (isinstance(value, list | tuple) and all(_whole(one, 1, 10**6) for one in value))


_NUMBER: Rule = (lambda value: _whole(value, 1), "a whole number from 1")
_PATH: Rule = (_path, "a path or an address, neither empty nor with a NUL character")

RULES: dict[str, Rule] = {
    **dict.fromkeys(("out", "path", "images", "captions", "cache_folder", "dest"), _PATH),
    "name": (_path, "the name of a shipped workflow such as demo, or the path of a YAML file"),
    "workflow": (_workflow, "a name or a path, neither empty nor with a NUL character"),
    **dict.fromkeys(("count", "steps", "rows", "top", "n"), _NUMBER),
    **dict.fromkeys(("batch_size", "world_size", "threads"), _NUMBER),
    "cache_bytes": (lambda value: _whole(value, 0, 2**62), "a whole number of bytes from 0"),
    "rank": (lambda value: _whole(value, 0), "a whole number from 0"),
    "workers": (_counts, "a whole number from 1, or a list of such numbers"),
    "seed": (lambda value: _whole(value, 0, 2**62), "a whole number from 0"),
    "sampler": (lambda value: value in SAMPLERS, f"one of {', '.join(SAMPLERS)}"),
    "guidance": (_amount, "a number from 0"),
    "prompts": (_texts, "a text, or a list of texts"),
    "devices": (_texts, "a text such as cpu, or a list of such texts"),
    **dict.fromkeys(("where", "view", "text", "device", "to"), (_text, "a text")),
    "source": (_path, "the name of a source such as folder, or a class path"),
    "storage_options": (lambda value: isinstance(value, Mapping), "a mapping, such as {'anon': True}"),
    "scheduler": (_path, "a text such as local:2, or a cluster file (a Dask client is given as client)"),
    "settings": (lambda value: isinstance(value, Mapping), "a mapping of dotted keys, such as {'train.steps': 100}"),
}
"""Argument -> a test of its value, and words for it."""

_NEEDED = ("path", "name", "text", "count", "top", "n")
"""Arguments that cannot be None; for the others None means the default."""


def check_arguments(arguments: Iterable[tuple[str, Any]]) -> None:
    """Check arguments that a user gave.

    Raises:
        ConfigError: it names the argument, its value, and what it must be.
    """
    for name, value in arguments:
        if name not in RULES or (value is None and name not in _NEEDED):
            continue
        if not RULES[name][0](value):
            shown = " ".join(repr(value).split())  # that of a run has several lines
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            raise ConfigError(f"{name} is {shown}, but it must be {RULES[name][1]}. Nothing was started.")
