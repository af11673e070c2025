"""Printing of the command line. Nothing else prints.

Results go to standard output. Progress, notes and errors go to standard error.

Covers: one JSON object or a table, messages with options in place of arguments.
Does not cover: exit codes and errors (`endings`), closed pipes and encodings (`streams`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from daskt2i.cli.streams import takes
from daskt2i.errors import Daskt2iError
from daskt2i.os_errors import meaning_of
from daskt2i.redact import without_secret

_WIDE = 10_000
"""Columns of a pipe and of a file."""


def width(stream: TextIO | None) -> int | None:
    """The width of a console, or None: rich finds it out. Without columns (`COLUMNS=0`) it would print nothing.

    A pipe and a file have no width. There a path must stay on one line, because a program may read it.
    """
    columns = os.environ.get("COLUMNS")
    if columns == "0":
        return 80
    return None if columns or (stream is not None and stream.isatty()) else _WIDE


out = Console(soft_wrap=False, highlight=False, width=width(sys.stdout))
err = Console(stderr=True, highlight=False, width=width(sys.stderr))


def write(data: dict[str, Any], as_json: bool, table: Any) -> None:
    """Print a result on standard output: as one JSON object, or as a table.

    Raises:
        Daskt2iError: it cannot be printed, because the disk behind standard output is full or failed.
    """
    try:
        if as_json:
            text = json.dumps(data, ensure_ascii=False)
            sys.stdout.write((text if takes(sys.stdout, text) else json.dumps(data)) + "\n")
            sys.stdout.flush()
        else:
            out.print(table)
    except OSError as error:
        why = meaning_of(error)
        raise Daskt2iError(
            f"The result cannot be printed on standard output: {why.says if why else error}. The work itself is "
            "done, and what is committed stays."
        ) from error


_OPTIONS = {
    **{
        name: f"--{name}"
        for name in ("out", "source", "images", "captions", "where", "scheduler", "workflow", "prompts", "ids")
    },
    **{name: f"--{name}" for name in ("pretrained", "lora", "reference", "weights")},
    "lora_scale": "--lora-scale",
    "devices": "--devices",
    "html": "--html",
    "settings": "--set",
}
"""Messages name an argument in brackets, such as `(out)`. Here it is an option."""


def as_options(text: str) -> str:
    """A message with options in place of arguments: `"(out)"` becomes `"(--out)"`."""

    def named(found: re.Match[str]) -> str:
        words = found.group(1).split(", ")
        return f"({', '.join(_OPTIONS[word] for word in words)})" if set(words) <= _OPTIONS.keys() else found.group(0)

    return re.sub(r"\((\w+(?:, \w+)*)\)", named, text)


def complain(text: str, style: str = "red") -> None:
    """Print a message on standard error, without secrets. If it cannot be printed, that is no error."""
    encoding = getattr(err.file, "encoding", None) or "utf-8"
    plain = as_options(without_secret(text)).encode(encoding, "backslashreplace").decode(encoding)
    with contextlib.suppress(OSError):
        err.print(Text(plain, style=style), soft_wrap=True)
