"""Progress of a run folder: its receipts, its trainings. It imports no torch and no zarr, so it answers at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from daskt2i.errors import StoreMissing
from daskt2i.formatting import counted, many, size
from daskt2i.store.artifacts.finished import PIPELINE_FOLDER, VAE_FOLDER, ModelFolder, TrainingProgress, progress
from daskt2i.store.columns.places import column_folder, columns_of, is_complete
from daskt2i.store.layout import about_store
from daskt2i.store.parts.places import parts_begun
from daskt2i.store.parts.rows_file import Member, members, still_there
from daskt2i.store.publishing.lock import Holder, holder
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import MANIFEST, PIPELINE, STANDSTILL, TRAIN, RunFolder
from daskt2i.store.views import grid_of
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.view import View, Viewed


@dataclass(frozen=True, slots=True, repr=False)
class RunStatus(Viewed):
    """The contents of a run folder now.

    Attributes:
        rows, chunks: numbers of rows and chunks of the whole store; `done` chunks have a receipt.
        rows_done: rows of these chunks, accepted and rejected.
        held_by: the process that encodes into the folder, or "".
        manifest: whether the manifest exists, so the encode is finished.
        waiting: what the running encode waits for, one sentence each; empty if everything moves.
        left_out: rows of the source that `dataset.where` left out; None if `dataset.where` was not set.
        trained: the trainings in the folder, with the state of their models.
        columns: name of a column of the store -> whether it is complete.
        parts: name of a part (`append`) -> its rows; 0 if it was begun and is not shown.
        removed: rows that were removed. `accepted` and `rejected` do not count them; all other numbers do.
    """

    out: str
    store: str
    rows: int
    chunks: int
    precision: str
    random_weights: bool
    done: int = 0
    accepted: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    captions: int = 0
    bytes: int = 0
    held_by: str = ""
    manifest: bool = False
    left_out: int | None = None
    waiting: tuple[str, ...] = ()
    trained: tuple[TrainingProgress, ...] = ()
    columns: Mapping[str, bool] = field(default_factory=dict)
    parts: Mapping[str, int] = field(default_factory=dict)
    removed: int = 0

    @property
    def rows_done(self) -> int:
        """Rows that are accepted or rejected, also if they were removed later."""
        return self.accepted + sum(self.rejected.values()) + self.removed

    @property
    def complete(self) -> bool:
        """Whether every chunk is done and the manifest exists."""
        return self.manifest and self.done == self.chunks

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
            "complete": self.complete,
            **({} if self.left_out is None else {"left_out": self.left_out}),
            **({"waiting": list(self.waiting)} if self.waiting else {}),
            **({"trained": {one.training: one.to_json() for one in self.trained}} if self.trained else {}),
            **({"columns": dict(self.columns)} if self.columns else {}),
            **({"parts": dict(self.parts)} if self.parts else {}),
            **({"removed": self.removed} if self.removed else {}),
        }

    def view(self) -> View:
        """Rows and chunks so far, the store, and the process that encodes into it."""
        total = sum(self.rejected.values())
        removed = f", {self.removed:,} removed" if self.removed else ""
        counts = f"{self.accepted:,} accepted, {total:,} rejected{removed}"
        rows = [("rows", f"{self.rows_done:,} of {self.rows:,}: {counts}")]
        if total:
            rows.append(("rejected", counted(self.rejected)))
        if self.left_out is not None:
            rows.append(("left out", f"{many(self.left_out, 'row')}, by dataset.where"))
        random = ", RANDOM WEIGHTS: for speed tests only" if self.random_weights else ""
        rows += [
            ("chunks", f"{self.done:,} of {self.chunks:,} done"),
            ("captions", f"{self.captions:,}"),
            ("precision", self.precision + random),
            ("store", f"{self.store} ({size(self.bytes)})"),
            *(
                ("part", f"{name}: {many(count, 'row')}" if count else f"{name}, not complete")
                for name, count in self.parts.items()
            ),
            *(("column", f"{name}{'' if whole else ', not complete'}") for name, whole in self.columns.items()),
            ("running", self.held_by or "no"),
            *(("stands still", one) for one in self.waiting),
            *((PIPELINE if one.training == TRAIN else "vae", one.said) for one in self.trained),
        ]
        return View(
            "The encode is complete" if self.complete else "The encode is not complete",
            tuple(rows),
            done=self.rows_done / max(1, self.rows),
            rejected=total / max(1, self.rows),
        )


def status(folder: RunFolder) -> RunStatus:
    """Read the receipts of a run folder.

    Raises:
        StoreMissing: there is no store.
    """
    store = ZarrStore(folder)
    about = about_store(store)
    if about is None and (held := holder(folder)).words:
        raise StoreMissing(f"There is no latent store in {folder} yet. It is in use by {held.words}.")
    if about is None:
        raise StoreMissing(f"There is no latent store in {folder}. Run encode to make one.")
    grid = grid_of(store.layout(), about)
    counts, rejected = Counter[str](), Counter[str]()
    stores = members(folder)
    for each in stores:
        _count(each, counts, rejected)
    parts = dict.fromkeys(parts_begun(folder), 0)
    for part in stores[1:]:
        there = ZarrStore(part.folder)
        of_part = grid_of(there.layout(), about_store(there) or {})
        counts.update(rows=of_part.filled, chunks=len(of_part))
        parts[part.name] = of_part.filled
    held = holder(folder)
    return RunStatus(
        out=str(folder),
        store=store.address,
        rows=grid.filled + counts["rows"],
        chunks=len(grid) + counts["chunks"],
        precision=str(about["identity"].get("precision", "unknown")),
        random_weights=about["random_weights"],
        done=counts["done"],
        accepted=counts["accepted"],
        rejected=rejected,
        captions=counts["captions"],
        bytes=counts["bytes"],
        held_by=held.words,
        waiting=_waiting(folder) if held.words else (),
        manifest=folder.exists(MANIFEST),
        left_out=(about["identity"].get("where") or {}).get("left_out"),
        parts=parts,
        removed=counts["removed"],
        columns={name: is_complete(column_folder(folder, name)) for name in columns_of(folder)},
        trained=tuple(one for model in (PIPELINE_FOLDER, VAE_FOLDER) if (one := _progress(folder, model, held))),
    )


def _count(store: Member, counts: Counter[str], rejected: Counter[str]) -> None:
    """Add what the receipts of a store say, without the rows that were removed."""
    fingerprint = (about_store(ZarrStore(store.folder)) or {}).get("fingerprint")
    for receipt in Receipts(store.folder).read():
        if receipt.fingerprint != fingerprint:
            continue
        accepted, there, gone = still_there(receipt, store.removed)
        bytes_ = sum(shard.size for shard in receipt.shards)
        counts.update(done=1, accepted=accepted, captions=receipt.captions, bytes=bytes_, removed=gone)
        rejected.update(str(row.reason) for row in there)


def _progress(folder: RunFolder, model: ModelFolder, held: Holder) -> TrainingProgress | None:
    runs = held.known and held.label == model.training  # of a lock object one look cannot tell
    return progress(folder, model, held.steps if runs else None)


def _waiting(folder: RunFolder) -> tuple[str, ...]:
    """What the running encode waits for. A killed one may have left the object behind."""
    try:
        found = json.loads(folder.read(STANDSTILL))["waiting"]
        return tuple(str(one) for one in found)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()
