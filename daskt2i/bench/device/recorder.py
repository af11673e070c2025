"""What the measuring process tells the command: lines of JSON in a file, one thing a line.

Covers: writing and reading the lines. A line is written at once, so what was measured survives the end of the process.
Does not cover: measuring (the parts), making a report (`driver`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from daskt2i.bench.report import Value

Kind = Literal["begin", "end", "failed", "cell", "fact", "note", "tell"]


@dataclass(slots=True)
class Recorder:
    """Writes lines.

    Args:
        path: the file; lines are added at its end.
    """

    path: Path
    part: str = ""
    deadline: float = 0.0

    def begin(self, part: str, seconds: float) -> None:
        """A part begins, and has this many seconds."""
        self.part, self.deadline = part, time.monotonic() + seconds
        self._write("begin", part=part, seconds=seconds)

    def left(self) -> float:
        """Seconds that the part still has."""
        return self.deadline - time.monotonic()

    def cell(self, values: Mapping[str, Value], *flags: str) -> None:
        """One line of the table."""
        self._write("cell", values={"part": self.part, **values}, flags=list(flags))

    def fact(self, name: str, value: Any) -> None:
        """One fact, a JSON value. A mapping is added to what was told under this name before."""
        self._write("fact", name=name, value=value)

    def note(self, text: str) -> None:
        """A sentence for the report."""
        self._write("note", text=text)

    def tell(self, text: str) -> None:
        """A line of progress."""
        self._write("tell", text=text)

    def failed(self, why: str) -> None:
        """The part failed."""
        self._write("failed", part=self.part, why=why)

    def end(self) -> None:
        """The part is done."""
        self._write("end", part=self.part)

    def _write(self, kind: Kind, **values: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")


class Lines:
    """Reads the lines of a file that another process writes."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """The whole lines that were added since the last call."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            yield json.loads(line)
