"""The rejected rows of a store by name: which image, and why.

Covers: the rows that the receipts of finished chunks list; the result for text, notebooks and JSON.
Does not cover: their numbers by reason (`store.status`), rejecting them (`encode`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from daskt2i.errors import StoreMissing
from daskt2i.formatting import many
from daskt2i.store.layout import about_store
from daskt2i.store.parts.rows_file import count, is_in, members
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.view import View, Viewed

_SHOWN = 200
"""Rows in a view. JSON has all of them."""


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that is not in the data set.

    Attributes:
        row: number of the row, counted over the store and its parts.
        file_name: the image below the source's image root.
        reason: one of `errors.Reason`.
        detail: one clause; may be empty.
    """

    row: int
    file_name: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, repr=False)
class RejectedRows(Viewed):
    """The rejected rows of all finished chunks of a store and its parts, without those that were removed.

    Attributes:
        out: address of the run folder.
        total: number of rows in finished chunks.
        rows: the rejected ones, in order.
    """

    out: str
    total: int
    rows: tuple[RejectedRow, ...]

    def to_json(self) -> dict[str, Any]:
        """The object that `rejected --json` prints."""
        listed = [{"row": r.row, "file_name": r.file_name, "reason": r.reason, "detail": r.detail} for r in self.rows]
        return {"out": self.out, "rows": self.total, "rejected": listed}

    def view(self) -> View:
        """The file name of each row, and why."""
        shown = [
            (f"{one.row} {' '.join(one.file_name.split())}", f"{one.reason}{f' ({one.detail})' if one.detail else ''}")
            for one in self.rows[:_SHOWN]
        ]
        if more := len(self.rows) - len(shown):
            shown.append((f"and {more:,} more", "--json lists all of them"))
        return View(f"{len(self.rows):,} of {many(self.total, 'row')} rejected", tuple(shown))


def rejected_rows(folder: RunFolder) -> RejectedRows:
    """Read the receipts of a run folder and of its parts, and the file names of the rejected rows.

    Raises:
        StoreMissing: there is no store.
        StoreError: the store is damaged.
    """
    if about_store(ZarrStore(folder)) is None:
        raise StoreMissing(f"There is no latent store in {folder}. Run encode to make one.")
    found: list[RejectedRow] = []
    total = 0
    for member in members(folder):
        store = ZarrStore(member.folder)
        about = about_store(store) or {}
        total -= count(member.removed)
        for receipt in Receipts(member.folder).read():
            if receipt.fingerprint != about.get("fingerprint"):
                continue
            total += receipt.accepted + len(receipt.rejected)
            names = store.read("file_name", receipt.start, receipt.stop) if receipt.rejected else ()
            for one in receipt.rejected:
                if not is_in(np.array([one.row]), member.removed)[0]:
                    name = str(names[one.row - receipt.start])
                    detail = " ".join(one.detail.split())
                    found.append(RejectedRow(member.offset + one.row, name, str(one.reason), detail))
    return RejectedRows(str(folder), total, tuple(found))
