"""Errors in IPython on a terminal look different; outside of IPython nothing changes.

`display/test_notebook.py` tests the kernel of a notebook.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from builders.workflows import child_environment

from daskt2i.errors import Interrupted, StoreError
from daskt2i.notebooks import html_text, in_notebook, render_traceback

RED, END = "\x1b[31m", "\x1b[39m"


class Broken(StoreError):
    """An error of another package, whose `__str__` fails."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Worse(Broken):
    """An error on which every attribute access fails."""

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError(name)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreError("The disk is full."), f"{RED}StoreError{END}: The disk is full."),
        (Interrupted("Stopped."), f"{RED}Interrupted{END}: Stopped."),
        (StoreError(), f"{RED}StoreError{END}: no message"),
        (Broken("x"), f"{RED}Broken{END}: its message cannot be shown"),
    ],
)
def test_ipython_shows_the_class_and_the_message_of_an_error(error: BaseException, said: str) -> None:
    assert render_traceback(error) == [said, "%tb shows the traceback."]


def test_an_error_with_broken_attributes_shows_its_class() -> None:
    assert "Worse" in render_traceback(Worse("x"))[0]


def test_notes_of_one_line_are_shown_and_longer_notes_are_not() -> None:
    error = StoreError("Full.")
    error.add_note("on host:17")
    error.add_note("Traceback:\n  far away\n")
    assert render_traceback(error)[1:-1] == ["on host:17"]


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a < b & c", "a &lt; b &amp; c"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://a.b\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title\x07end\x1b", "end"),
        ("\x1b[38;5;28;01mdeep\x1b[39;00m\x1b(B", "deepB"),
    ],
)
def test_html_text_removes_terminal_codes(text: str, html: str) -> None:
    assert html_text(text) == html


def test_plain_python_shows_the_usual_traceback_and_does_not_import_ipython() -> None:
    code = "import sys, daskt2i.errors as e; assert 'IPython' not in sys.modules; raise e.StoreError('Full.')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=child_environment())
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith("daskt2i.errors.StoreError: Full.\n")
    assert not in_notebook()


def test_ipython_on_a_terminal_shows_the_message_and_the_traceback_after_tb() -> None:
    pytest.importorskip("IPython", reason="needs the extra `test` (ipykernel)")
    typed = [
        "from daskt2i.errors import Interrupted, StoreError",
        "from daskt2i.notebooks import in_notebook",
        "from daskt2i.display.listener import progress_for",
        "from rich.console import Console",
        "in_notebook(), type(progress_for(Console())).__name__",
        "raise StoreError('The disk is full.') from OSError('no space')",
        "print('between')",
        "%tb",
        "print('between')",
        "raise Interrupted('Stopped.')",
    ]
    command = [
        sys.executable,
        "-m",
        "IPython",
        "--simple-prompt",
        "--no-banner",
        "--no-confirm-exit",
        "--colors=nocolor",
    ]
    ended = subprocess.run(
        [*command, "--HistoryManager.enabled=False"],
        input="\n".join(typed) + "\n",
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    first, asked, last = ended.stdout.split("between\n")
    assert "(False, 'TerminalProgress')" in first
    assert f"{RED}StoreError{END}: The disk is full.\n%tb shows the traceback.\n" in first
    assert "Traceback" not in first
    assert "Traceback (most recent call last)" in asked
    assert "OSError: no space" in asked
    assert f"{RED}Interrupted{END}: Stopped.\n" in last
