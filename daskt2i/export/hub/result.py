"""What a push has sent, or would send.

Covers: the result, and how it shows itself.
Does not cover: sending (`driver`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daskt2i.formatting import size
from daskt2i.store.columns.places import COLUMNS
from daskt2i.store.run_folder import PARTS
from daskt2i.view import View, Viewed


@dataclass(frozen=True, slots=True, repr=False)
class PushResult(Viewed):
    """The result of `push`.

    Attributes:
        out: address of the run folder.
        to: the repository, `OWNER/NAME`.
        files: name -> size in bytes, of all files that make the data set, without the data card.
        sent: number of files that were sent now; the others were there. 0 after `dry_run`.
        sent_bytes: their size.
        removed: number of files that the repository had from an older push, and that are no more.
        dry_run: whether nothing was sent, and the hub was not asked.
        address: the address for `open_store`.
        link: the page of the repository; "" after `dry_run`.
    """

    out: str
    to: str
    files: Mapping[str, int]
    sent: int
    sent_bytes: int
    removed: int
    dry_run: bool
    address: str
    link: str

    def to_json(self) -> dict[str, Any]:
        """The object that `push --json` prints."""
        return {
            "out": self.out,
            "to": self.to,
            "files": dict(self.files),
            "bytes": sum(self.files.values()),
            "sent": self.sent,
            "sent_bytes": self.sent_bytes,
            "removed": self.removed,
            "dry_run": self.dry_run,
            "address": self.address,
            "link": self.link,
        }

    def view(self) -> View:
        """Numbers, the parts of the run folder, and how to read it there."""
        whole = _files(list(self.files.values()))
        read_by = f'daskt2i.open_store("{self.address}")'
        if self.dry_run:
            parts: dict[str, list[int]] = {}
            for name, count in self.files.items():
                parts.setdefault(_part(name), []).append(count)
            listed = ((name, _files(counts)) for name, counts in parts.items())
            return View(f"Would be pushed to {self.to}", (("files", whole), *listed, ("read", read_by)))
        sent = f"{self.sent:,} files, {size(self.sent_bytes)}"
        if self.removed:
            sent += f"; {self.removed:,} old files removed"
        rows = (("files", whole), ("sent now", sent), ("page", self.link), ("read", read_by))
        return View(f"Pushed to {self.to}", rows)


def _files(sizes: list[int]) -> str:
    return f"{len(sizes):,} file{'s' * (len(sizes) != 1)}, {size(sum(sizes))}"


def _part(name: str) -> str:
    """The array or folder of a file: `latents.zarr/latent_mean`; a file directly in the run folder is its own part.

    A column is one (`columns/t5`), and so is a part of the rows with its columns (`parts/0001`).
    """
    folders = name.split("/")[:-1]
    if not folders:
        return name
    if folders[0] in (COLUMNS, PARTS):
        return "/".join(folders[:2])
    depth = next((place + 2 for place, one in enumerate(folders) if one.endswith(".zarr")), len(folders))
    return "/".join(folders[:depth])
