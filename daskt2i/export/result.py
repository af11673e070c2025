"""What an export has made.

Covers: the result, and how it shows itself.
Does not cover: making it (`driver`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daskt2i.formatting import size
from daskt2i.view import View, Viewed


@dataclass(frozen=True, slots=True, repr=False)
class ExportResult(Viewed):
    """The result of `export`.

    Attributes:
        out: address of the run folder.
        to: the format.
        dest: the folder that was written.
        rows: number of rows in it.
        files, bytes: number and size of its files.
        read_by: how to read it.
    """

    out: str
    to: str
    dest: str
    rows: int
    files: int
    bytes: int
    read_by: str

    def to_json(self) -> dict[str, Any]:
        """The object that `export --json` prints."""
        about = {"out": self.out, "to": self.to, "dest": self.dest}
        return {**about, "rows": self.rows, "files": self.files, "bytes": self.bytes}

    def view(self) -> View:
        """Numbers, and how to read the folder."""
        written = f"{self.files:,} files, {size(self.bytes)}"
        return View(
            f"Exported to {self.dest}", (("rows", f"{self.rows:,}"), ("written", written), ("read", self.read_by))
        )
