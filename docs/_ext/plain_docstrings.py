"""Docstrings as this project writes them, made ready for reStructuredText.

An indented block after a paragraph is code, and a table of `|` lines is shown as it stands. reStructuredText would make
block quotes and substitutions of them. A single back quote is code already (`default_role` in conf.py).

The docstring of a property is a sentence: napoleon would read what stands before its first colon as a type.

Covers: docstrings that autodoc shows.
Does not cover: sections such as `Args:`, which napoleon reads.
"""

import re

from docutils import nodes
from sphinx.application import Sphinx

SECTIONS = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Note|Example):$")
VALUES = ("property", "attribute", "data")
HIDDEN = "\ue000"
"""Stands for a colon while napoleon reads."""


def ready(lines: list[str]) -> list[str]:
    """The lines of a docstring, with indented blocks and tables as literal blocks."""
    made: list[str] = []
    code = False
    for number, line in enumerate(lines):
        before = lines[number - 1] if number else ""
        starts = line.startswith(("    ", "| ")) and not before.strip()
        if starts and not code and not _in_section(lines[:number]):
            made += ["::", ""]
            code = True
        if code and line.strip() and not line.startswith((" ", "|")):
            code = False
        made.append(f"    {line}" if code and line.startswith("|") else line)
    return made


def _in_section(lines: list[str]) -> bool:
    """Whether an indented line after these belongs to a section such as `Args:`."""
    flush = [line for line in lines if line.strip() and not line.startswith(" ")]
    return bool(flush) and bool(SECTIONS.match(flush[-1]))


def _before_napoleon(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = ready(lines)
    if what in VALUES and lines:
        lines[0] = lines[0].replace(":", HIDDEN)


def _after_napoleon(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = [line.replace(HIDDEN, ":") for line in lines]


def _signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """A protocol is not called, so it has no signature."""
    return ("", returns) if getattr(obj, "_is_protocol", False) else None


def _dash(app: Sphinx, doctree: nodes.document) -> None:
    """Sphinx puts two hyphens between a parameter and its meaning."""
    for text in list(doctree.findall(nodes.Text)):
        if text.startswith(" -- ") and text.parent is not None:
            text.parent.replace(text, nodes.Text(f" – {text.removeprefix(' -- ')}"))


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", _after_napoleon, priority=600)
    app.connect("autodoc-process-signature", _signature)
    app.connect("doctree-read", _dash)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
