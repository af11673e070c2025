"""Blocks of code in Markdown pages: finding them, taking shell blocks apart, and checking what they say.

Covers: fenced and indented blocks, words of shell commands, whether a command line and a setting exist.
Does not cover: running a block, and what stands in for what a machine cannot have (`tests/docs/test_code_blocks.py`).
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from markdown_it import MarkdownIt
from pydantic import BaseModel

from builders import TESTS
from builders.command_line import application
from daskt2i.config.component import SHIPPED, Component
from daskt2i.config.settings import Workflow
from daskt2i.config.workflow_file import load_workflow

TOP = TESTS.parent
SHELL, PYTHON, OTHERS = "sh", "python", ("yaml", "json", "text")
_SHELL_WORDS = ("python", "python3", "pip", "daskt2i", "dask", "srun", ".", "cd", "git")


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Attributes:
        page: from the top of the repository, e.g. `docs/how-to/images.md`.
        line: of the page, from 1.
        language: `sh`, `python`, `yaml`, `json` or `text`; "" for a block that names none and looks like none.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that this block is, for the blocks below it: its first line is a comment with a name."""
        match = re.match(r"# ([\w/.-]+\.(?:py|ya?ml))\n", self.text)
        return match[1] if match and self.language in ("python", "yaml") else None


def blocks(page: Path) -> list[Block]:
    """Every block of a page but MyST's directives."""
    found = []
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type not in ("fence", "code_block") or token.info.startswith("{"):
            continue
        assert token.map is not None
        language = token.info.strip() or _guess(token.content)
        found.append(Block(page.relative_to(TOP).as_posix(), token.map[0] + 1, language, token.content))
    return found


def _guess(text: str) -> str:
    """The language of a block that names none, as indented blocks cannot."""
    words = text.split()
    if words and words[0] in _SHELL_WORDS:
        return SHELL
    try:
        ast.parse(text)
    except SyntaxError:
        return ""
    return PYTHON


def commands(text: str) -> list[list[str]]:
    """The simple commands of a shell block, as words. Only `&&` and new lines stand between them.

    `> FILE` is left out: what a command prints is shown in a test anyway.

    Raises:
        ValueError: a quote is open, or something else stands between two commands.
    """
    found: list[list[str]] = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        reader = shlex.shlex(line, posix=True, punctuation_chars=True)
        reader.whitespace_split = True
        words: list[str] = []
        for word in reader:
            if word == "&&":
                found.append(words)
                words = []
            elif word == ">":
                next(reader)
            elif set(word) <= set("();<>|&"):
                raise ValueError(f"{word!r} in {line!r}: this test reads commands that stand one after the other")
            else:
                words.append(word)
        if words:
            found.append(words)
    return found


def ours(words: list[str]) -> list[str] | None:
    """The words after `python -m daskt2i.workflow` or `daskt2i`; None for another program."""
    for program in (["python", "-m", "daskt2i.workflow"], ["daskt2i"]):
        if words[: len(program)] == program:
            return words[len(program) :]
    return None


def options(words: list[str]) -> tuple[str, Mapping[str, Any]]:
    """The name of the command, and its options by the names of their parameters.

    Raises:
        Exception: there is no such command or option, or a value is of the wrong kind: what typer raises.
    """
    command = application()
    names: list[str] = []
    words = list(words)
    while hasattr(command, "commands"):
        assert {*words[:1]} & {*command.commands}, f"there is no command {' '.join([*names, *words[:1]])}"
        names.append(words.pop(0))
        command = command.commands[names[-1]]
    context = command.make_context(names[-1], words)
    return " ".join(names), context.params


def sets_of(values: Mapping[str, Any]) -> list[str]:
    """The `--set` texts of a command."""
    return list(values.get("set_") or ())


def unknown_settings(keys: list[str], workflow: str = "demo") -> list[str]:
    """Those keys, such as `run.batch`, that are no setting. Arguments of components are those of their classes."""
    return [key for key in keys if not _is_setting(key, workflow)]


def keys_of(data: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a mapping, down to its values."""
    for key, value in data.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from keys_of(value, f"{prefix}{key}.")


def _is_setting(key: str, workflow: str) -> bool:
    kinds: list[Any] = [Workflow]
    parts = key.split(".")
    for place, part in enumerate(parts):
        if Component in kinds:
            return part == "class" or part in _arguments(".".join(parts[:place]), workflow)
        if dict in kinds:  # such as the config of a diffusers model
            return True
        fields = [_field(kind, part) for kind in kinds if issubclass(kind, BaseModel)]
        field = next((one for one in fields if one is not None), None)
        if field is None:
            return False
        kinds = [one for one in _flat(field.annotation) if isinstance(one, type)]
    return True


def _field(kind: type[BaseModel], name: str) -> Any:
    """The field of this name in a file, which is its alias if it has one; None if there is none."""
    return next((one for field, one in kind.model_fields.items() if name == (one.alias or field)), None)


def _flat(annotation: Any) -> Iterator[Any]:
    """The classes in an annotation: `dict[str, Any] | None` has `dict`."""
    inner = get_args(annotation)
    origin = getattr(annotation, "__origin__", annotation)
    if isinstance(origin, type) and origin is not type(None):
        yield origin
    for one in inner if origin is not dict else ():
        yield from _flat(one)


def _arguments(setting: str, workflow: str) -> set[str]:
    """What the class of a component takes, in a shipped workflow; of a source, what any shipped one takes."""
    if setting == "dataset.source":  # `--images` and `--source` name its class
        sources = [Component.model_validate({"class": path}) for path in SHIPPED if ".sources." in path]
        return {name for one in sources for name in inspect.signature(one._factory(setting)).parameters}
    found: Any = load_workflow(workflow)
    for part in setting.split("."):
        found = getattr(found, part)
    assert isinstance(found, Component)
    return set(inspect.signature(found._factory(setting)).parameters)
