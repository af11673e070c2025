"""Standard output and standard error of a command: printing on them never ends it.

    guard_streams()         # once, at the start of the process

Covers: a reader that has gone (`| head`), a stream that is closed (`>&-`), a stream whose encoding lacks a character.
Does not cover: what is printed (`console`), a full disk behind standard output (`console`).
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO


class PatientStream:
    """A text stream. When its reader has gone, what is written goes nowhere, and the work continues."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text. Returns the number of characters."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._forget()
            return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what is buffered."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._forget()

    def _forget(self) -> None:
        """Point the descriptor to nowhere, so that what is still buffered does no harm at the end of the process."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Any:
        return iter(self._stream)


def guard_streams() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams that cannot fail because of their reader or their encoding.

    A closed descriptor is opened to nowhere. Otherwise the next file that is opened would take its number, and would
    get what a library writes on standard error.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = os.fdopen(os.dup(number), "w", encoding="utf-8")
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, PatientStream(stream))


def takes(stream: Any, text: str) -> bool:
    """Whether a stream's encoding has all characters of a text."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
