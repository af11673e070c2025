"""How far a run folder has come, from its receipts alone. Imports no torch and no zarr, so it answers at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from daskt2i.errors import StoreMissing
from daskt2i.plan import ChunkGrid
from daskt2i.store.lock import holder
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import MANIFEST, RunFolder
from daskt2i.store.zarr_store import ZarrStore


@dataclass(slots=True)
class RunStatus:
    """What is in a run folder now.

    Attributes:
        rows, chunks: of the whole store; `done` of the chunks have a receipt.
        rows_done: rows of those chunks: accepted and rejected ones.
        held_by: who is encoding into it, or "".
        manifest: whether the run was finished.
        left_out: rows of the source that `dataset.where` left out; None where it was made without one.
    """

    out: str
    store: str
    rows: int
    chunks: int
    precision: str
    random_weights: bool
    done: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    captions: int = 0
    bytes: int = 0
    held_by: str = ""
    manifest: bool = False
    left_out: int | None = None

    @property
    def rows_done(self) -> int:
        """Rows that have been decided."""
        return self.accepted + sum(self.rejected.values())

    def to_json(self) -> dict[str, Any]:
        """The object that `status --json` prints."""
        return {
            "out": self.out,
            "store": self.store,
            "rows": self.rows,
            "rows_done": self.rows_done,
            "accepted": self.accepted,
            "rejected": dict(sorted(self.rejected.items())),
            "captions": self.captions,
            "chunks": {"done": self.done, "open": self.chunks - self.done},
            "bytes": self.bytes,
            "precision": self.precision,
            "random_weights": self.random_weights,
            "running": self.held_by,
            "complete": self.manifest and self.done == self.chunks,
            **({} if self.left_out is None else {"left_out": self.left_out}),
        }


def status(folder: RunFolder) -> RunStatus:
    """Read the receipts of a run folder.

    Raises:
        StoreMissing: there is no store.
    """
    store = ZarrStore(folder)
    attributes = store.attributes()
    if attributes is None:
        raise StoreMissing(f"There is no latent store in {folder}. Run encode to make one.")
    layout, about = store.layout(), attributes["daskt2i"]
    found = RunStatus(
        out=str(folder),
        store=store.address,
        rows=layout["rows"],
        chunks=len(ChunkGrid(layout["rows"], layout["rows_per_chunk"])),
        precision=about["identity"]["precision"],
        random_weights=about["random_weights"],
        held_by=holder(folder),
        manifest=folder.exists(MANIFEST),
        left_out=about["identity"].get("where", {}).get("left_out"),
    )
    for receipt in Receipts(folder).read():
        if receipt.fingerprint != about["fingerprint"]:
            continue
        found.done += 1
        found.accepted += receipt.accepted
        found.rejected.update(str(r.reason) for r in receipt.rejected)
        found.captions += receipt.captions
        found.bytes += sum(s.size for s in receipt.shards)
    return found
