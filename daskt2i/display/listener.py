"""Choosing the listener that shows progress: for a notebook, a terminal or a log.

Covers: the choice, and what `progress` of a run may be.
Does not cover: the listeners (`progress`, `notebook`).
"""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from daskt2i.display.notebook import NotebookProgress
from daskt2i.display.progress import TerminalProgress
from daskt2i.errors import ConfigError
from daskt2i.events import Event, Listener, ignore
from daskt2i.notebooks import in_notebook


def progress_for(console: Console, plain: bool = False) -> Listener:
    """Make a listener: a line in a notebook, a bar on a terminal, plain lines anywhere else.

    Args:
        console: where to write outside of notebooks. Use standard error, because results go to standard output.
        plain: whether to write plain lines everywhere, as `--json` needs.
    """
    return NotebookProgress() if in_notebook() and not plain else TerminalProgress(console, plain)


def listener_for(progress: bool | Callable[[Event], None], console: Callable[[], Console]) -> Listener:
    """The listener of a run: True shows progress, False shows nothing, a function is the listener.

    Args:
        console: makes the place where progress is written outside of notebooks.

    Raises:
        ConfigError: it is none of them.
    """
    if isinstance(progress, bool):
        return progress_for(console()) if progress else ignore
    if not callable(progress):
        raise ConfigError(
            f"progress is {progress!r}; give True, False, or a function that takes an event. Nothing was started."
        )
    return progress
