"""Choosing the listener that shows progress: for a notebook, a terminal or a log.

Covers: the choice.
Does not cover: the listeners (`progress`, `notebook`).
"""

from __future__ import annotations

from rich.console import Console

from daskt2i.display.notebook import NotebookProgress
from daskt2i.display.progress import TerminalProgress
from daskt2i.events import Listener
from daskt2i.notebooks import in_notebook


def progress_for(console: Console, plain: bool = False) -> Listener:
    """Make a listener: a line in a notebook, a bar on a terminal, plain lines anywhere else.

    Args:
        console: where to write outside of notebooks. Use standard error, because results go to standard output.
        plain: whether to write plain lines everywhere, as `--json` needs.
    """
    return NotebookProgress() if in_notebook() and not plain else TerminalProgress(console, plain)
