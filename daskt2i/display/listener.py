"""Which listener shows progress in the place where Python runs.

Covers: the choice between a notebook, a terminal and a log.
Does not cover: the listeners (`progress`, `notebook`).
"""

from __future__ import annotations

from rich.console import Console

from daskt2i.display.notebook import NotebookProgress
from daskt2i.display.progress import TerminalProgress
from daskt2i.events import Listener
from daskt2i.notebooks import in_notebook


def progress_for(console: Console, plain: bool = False) -> Listener:
    """A line in a notebook, a bar on a terminal, plain lines anywhere else.

    Args:
        console: where to write where no notebook runs; standard error, so that standard output holds results alone.
        plain: plain lines wherever that is, as `--json` wants them.
    """
    return NotebookProgress() if in_notebook() and not plain else TerminalProgress(console, plain)
