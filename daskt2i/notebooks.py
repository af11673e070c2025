"""Notebooks and IPython: detecting them, and showing the errors of daskt2i in them.

Covers: a message instead of a traceback, with the traceback folded below it; text that is safe in HTML; a warning of
tqdm that helps nobody.
Does not cover: progress in a notebook (`display.notebook`), the errors and their messages (`errors`).

IPython is not a dependency. If it runs, it is already imported.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
import warnings
from contextlib import suppress
from html import escape
from types import TracebackType
from typing import Any

from daskt2i.redact import without_secret

_ESCAPE_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?", re.DOTALL)
_RED, _PLAIN = "\x1b[31m", "\x1b[39m"


def running_shell() -> Any | None:
    """The running shell of IPython or of a notebook's kernel, or None."""
    find = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return None if find is None else find()


def in_notebook() -> bool:
    """Whether this is a notebook in JupyterLab, VS Code or Colab. False for IPython on a terminal."""
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(running_shell()).__mro__)


def prepare_notebook() -> None:
    """Import tqdm without its warning about a missing ipywidgets. diffusers and transformers would show it in a cell.

    Outside of notebooks it does nothing.
    """
    if in_notebook() and "tqdm.auto" not in sys.modules:
        with warnings.catch_warnings(), suppress(ImportError):
            warnings.simplefilter("ignore")
            importlib.import_module("tqdm.auto")


def without_codes(text: str) -> str:
    """The text without terminal colour codes."""
    return _ESCAPE_CODES.sub("", text)


def html_text(text: str) -> str:
    """The text escaped for HTML, without terminal colour codes."""
    return escape(without_codes(text))


def render_traceback(error: BaseException) -> list[str]:
    """The lines that IPython shows instead of a traceback: the class and the message. Never raises.

    A notebook also displays the traceback, folded. `%tb` shows the full traceback in a notebook and on a terminal.
    """
    try:
        callers = _callers()
        if "tb" in callers:
            return _full(error)
        said = [f"{_RED}{type(error).__name__}{_PLAIN}: {_message(error)}", *_short_notes(error)]
        if not in_notebook():
            return [*said, "%tb shows the traceback."]
        if "showtraceback" in callers:
            _display_folded(error)
        return said
    except Exception:
        return [type(error).__name__]


def _message(error: BaseException) -> str:
    try:
        return without_secret(str(error)) or "no message"
    except Exception:
        return "its message cannot be shown"


def _short_notes(error: BaseException) -> list[str]:
    """Notes of one line, such as "on host:pid". A longer note is the traceback of another process."""
    notes = getattr(error, "__notes__", None)
    if not isinstance(notes, list):  # other code may have put anything there
        return []
    return [note for note in notes if isinstance(note, str) and "\n" not in note.strip()]


def _callers() -> set[str]:
    """Names of the IPython functions that called us: `showtraceback` at the end of a cell, `tb` for the magic `%tb`.

    IPython also asks for its history. Without this check it would display the traceback twice.
    """
    found, frame = set(), sys._getframe().f_back
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("IPython."):
            found.add(frame.f_code.co_name)
        frame = frame.f_back
    return found


def _full(error: BaseException) -> list[str]:
    """The traceback as IPython shows it, in colour."""
    try:
        found: list[str] = running_shell().InteractiveTB.structured_traceback(  # type: ignore[union-attr]
            type(error), error, _without_shell(error.__traceback__)
        )
    except Exception:
        return _plain(error)
    return [without_secret(line) for line in found]


def _plain(error: BaseException) -> list[str]:
    lines = traceback.format_exception(type(error), error, _without_shell(error.__traceback__))
    return without_secret("".join(lines)).splitlines()


def _without_shell(frames: TracebackType | None) -> TracebackType | None:
    """The frames without those of IPython, which ran the cell."""
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith("IPython."):
        frames = frames.tb_next
    return frames


def _display_folded(error: BaseException) -> None:
    from IPython.display import display

    text = html_text("\n".join(_plain(error)))
    html = (
        '<details style="font-size:var(--jp-ui-font-size1, 13px)">'
        '<summary style="cursor:pointer;opacity:.75">Traceback</summary>'
        f'<pre style="overflow-x:auto;font-size:inherit">{text}</pre></details>'
    )
    display({"text/html": html, "text/plain": "(%tb shows the traceback.)"}, raw=True)
