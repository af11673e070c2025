"""Notebooks and IPython: whether one runs here, and how an error of ours looks in it.

Covers: one sentence in place of a traceback, and the traceback folded; text that is safe in HTML.
Does not cover: progress in a notebook (`display.notebook`), what the errors say (`errors`).

IPython is no dependency. Where it runs, it is imported already.
"""

from __future__ import annotations

import re
import sys
import traceback
from html import escape
from types import TracebackType
from typing import Any

_ESCAPE_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?", re.DOTALL)
_RED, _PLAIN = "\x1b[31m", "\x1b[39m"


def running_shell() -> Any | None:
    """The shell of IPython or of a notebook's kernel in which we run, or None."""
    find = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return None if find is None else find()


def in_notebook() -> bool:
    """Whether a kernel runs us: a notebook in JupyterLab, VS Code or Colab. IPython on a terminal is none."""
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(running_shell()).__mro__)


def without_codes(text: str) -> str:
    """Text without the colour codes of terminals."""
    return _ESCAPE_CODES.sub("", text)


def html_text(text: str) -> str:
    """Text as HTML that shows it: escaped, without the colour codes of terminals."""
    return escape(without_codes(text))


def render_traceback(error: BaseException) -> list[str]:
    """What IPython shows in place of a traceback: the class and the sentence. Never raises.

    In a notebook the traceback is displayed as well, folded. `%tb` shows it in full, there and on a terminal.
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
        return str(error) or "no message"
    except Exception:
        return "its message cannot be shown"


def _short_notes(error: BaseException) -> list[str]:
    """Such as "on host:pid". A long note is the traceback of another process."""
    notes = getattr(error, "__notes__", None)
    if not isinstance(notes, list):  # anything may have been put there
        return []
    return [note for note in notes if isinstance(note, str) and "\n" not in note.strip()]


def _callers() -> set[str]:
    """Names of IPython's functions that want to know: `showtraceback` at the end of a cell, `tb` for the magic `%tb`.

    IPython also asks for its history, and would have the traceback displayed a second time.
    """
    found, frame = set(), sys._getframe().f_back
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("IPython."):
            found.add(frame.f_code.co_name)
        frame = frame.f_back
    return found


def _full(error: BaseException) -> list[str]:
    """As IPython shows it, in its colours."""
    try:
        found: list[str] = running_shell().InteractiveTB.structured_traceback(  # type: ignore[union-attr]
            type(error), error, _without_shell(error.__traceback__)
        )
    except Exception:
        return _plain(error)
    return found


def _plain(error: BaseException) -> list[str]:
    return "".join(traceback.format_exception(type(error), error, _without_shell(error.__traceback__))).splitlines()


def _without_shell(frames: TracebackType | None) -> TracebackType | None:
    """Without the frames of IPython that ran the cell."""
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
