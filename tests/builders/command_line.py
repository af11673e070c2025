"""The command line in this process or in one of its own, and what it printed."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer.main

from builders.workflows import child_environment
from daskt2i import workflow


def start(*arguments: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "daskt2i.workflow", *map(str, arguments)]
    # A session of its own: a Ctrl-C for it is none for pytest.
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
        cwd=cwd,
        start_new_session=True,
    )


def spawn(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a user starts it."""
    with start(*arguments, cwd=cwd) as process:
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(list(map(str, arguments)), process.returncode, out, err)


@functools.cache
def application() -> Any:
    """The command line as one command with its commands below it. To make it takes 60 ms."""
    return typer.main.get_command(workflow.app)


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in this process: the same lines, a second sooner."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    given = list(map(str, arguments))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(cwd or Path.cwd()):
        try:
            application()(given, prog_name="python -m daskt2i.workflow")
        except SystemExit as end:
            code = end.code or 0  # type: ignore[assignment]
    return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())


def one_object(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Standard output holds one line, one JSON object."""
    assert done.stdout.endswith("\n"), done.stderr
    assert done.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    """Exit code 1, one line that begins with `error:`, no traceback, nothing on standard output."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert "not foreseen" not in lines[0]
    return lines[0]


def long_lines(text: str, *places: Path) -> list[str]:
    """Lines of more than 80 columns, but for those that hold a path below one of these folders: a path is not cut."""
    lines = [line.rstrip() for line in text.splitlines()]
    return [line for line in lines if len(line) > 80 and not any(str(place) in line for place in places)]
