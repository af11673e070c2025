"""A directive that writes the commands of daskt2i, with their help and options, from the program itself.

    ```{commands}
    daskt2i.workflow.app
    ```

Covers: a Typer app with groups below it. Each command has a section: usage, help, tables of its arguments and options.
Does not cover: settings, which `--set` reaches (reference/config.md).

Typer brings a click of its own, so nothing here asks for click's classes.
"""

import importlib
from typing import Any

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PROGRAM = "python -m daskt2i.workflow"


def commands(group: Any, before: str = "") -> list[tuple[str, Any]]:
    """Every command that does something, by its words after the program, in the order of `--help`."""
    found: list[tuple[str, Any]] = []
    for name, command in group.commands.items():
        words = f"{before}{name}"
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            found += commands(command, f"{words} ")
        else:
            found.append((words, command))
    return found


class Commands(SphinxDirective):
    """`commands`: its content is the dotted name of a Typer app."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """A section for each command."""
        module, _, name = self.content[0].strip().rpartition(".")
        group = typer.main.get_command(getattr(importlib.import_module(module), name))
        self.env.note_reread()  # the program may change while this page does not
        return [self._section(words, command) for words, command in commands(group)]

    def _section(self, words: str, command: Any) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(words)], names=[nodes.fully_normalize_name(words)])
        section += nodes.title("", words)
        self.state.document.note_explicit_target(section, section)
        context = command.context_class(command, info_name=words)
        pieces = [piece.upper().strip("{}") for piece in command.collect_usage_pieces(context)]
        usage = " ".join([PROGRAM, words, *pieces])
        section += nodes.literal_block(usage, usage, language="text")
        for paragraph in (command.help or "").split("\n\n"):
            section += _paragraph(" ".join(paragraph.split()))
        shown = [one for one in command.params if not getattr(one, "hidden", False)]
        for kind in ("argument", "option"):
            records = [one.get_help_record(context) for one in shown if one.param_type_name == kind]
            if records:
                section += _table(kind.capitalize(), records)
        return section


def _paragraph(text: str) -> nodes.paragraph:
    """A paragraph in which back quotes are code, as in docstrings."""
    parts = text.split("`")
    made = (nodes.literal(part, part) if place % 2 else nodes.Text(part) for place, part in enumerate(parts) if part)
    return nodes.paragraph("", "", *made)


def _table(heading: str, records: list[tuple[str, str]]) -> nodes.table:
    body = [_row(_paragraph(f"`{written}`"), _paragraph(meaning)) for written, meaning in records]
    return nodes.table(
        "",
        nodes.tgroup(
            "",
            nodes.colspec(colwidth=38),
            nodes.colspec(colwidth=62),
            nodes.thead("", _row(_paragraph(heading), _paragraph("Meaning"))),
            nodes.tbody("", *body),
            cols=2,
        ),
        classes=["options"],
    )


def _row(*cells: nodes.Node) -> nodes.row:
    return nodes.row("", *(nodes.entry("", cell) for cell in cells))


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    app.add_directive("commands", Commands)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
