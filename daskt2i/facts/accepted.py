"""The rows that a finished store accepted, as a source: what a column of that store is made of.

Covers: rejecting the rows that the store rejected, for the same reason, and refusing a source that has changed.
Does not cover: columns (`encode.columns`), `dataset.where` (`selection`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from daskt2i.config.workflow_file import differences
from daskt2i.errors import FingerprintMismatch, SourceError, StoreError, StoreMissing
from daskt2i.facts.bucketed import buckets_of
from daskt2i.protocols import Source, StampedSource
from daskt2i.store.layout import about_store, checked_layout
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Row, SourceInfo


class AcceptedRows:
    """The rows of a source. A row that a store rejected is rejected here too, for the same reason.

    Args:
        source: the source of the store, with `dataset.where`.
        identity: what the fingerprint says about this source.
        folder: the run folder of the store.

    It stays on the driver. Workers read images by the plain source.

    Attributes:
        buckets: of the source (`bucketed`); none if its rows are not in buckets.

    Raises:
        StoreMissing: there is no store.
        StoreError: chunks of the store are missing, so it is not known which rows it accepts.
        FingerprintMismatch: the store was made from another source.
    """

    def __init__(self, source: Source, identity: Mapping[str, Any], folder: RunFolder) -> None:
        self._source, self._folder = source, folder
        store = ZarrStore(folder)
        about = about_store(store)
        if about is None:
            raise StoreMissing(
                f"There is no latent store in {folder}, so there is nothing to add to. Nothing was started; run encode "
                "first."
            )
        layout = checked_layout(store)
        self._fingerprint, self._rows_per_chunk = str(about["fingerprint"]), int(layout["rows_per_chunk"])
        missing = -(-layout["rows"] // self._rows_per_chunk) - Receipts(folder).count()
        if missing > 0:
            raise StoreError(
                f"{missing:,} chunk{'s' * (missing > 1)} of the store in {folder} {'are' if missing > 1 else 'is'} not "
                "encoded yet, and a column has the rows that the store accepted. Nothing was started; run encode to "
                "its end first."
            )
        info = source.info()
        wanted = {"source": {**identity, **info.content}, "where": info.where}
        there = {"source": about["identity"].get("source"), "where": about["identity"].get("where")}
        if differ := differences(there, wanted):
            raise FingerprintMismatch(
                f"The source has changed since the store in {folder} was made: {'; '.join(differ)}. Nothing was "
                "started; run append if the source has new rows, go back to the data of the store, or encode into "
                "another run folder (out)."
            )
        self._info = replace(info, content={**info.content, "accepted_by": self._fingerprint})
        self.buckets = buckets_of(source)

    def info(self) -> SourceInfo:
        """The info of the source. Its content holds the fingerprint of the store too."""
        return self._info

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """Rows `start <= index < stop`, rejected where the store rejected them.

        Raises:
            SourceError: a receipt of the store is missing or damaged.
        """
        rows = list(self._source.rows(start, stop))
        if not rows:
            return rows
        first, last = rows[0].index // self._rows_per_chunk, rows[-1].index // self._rows_per_chunk
        read = Receipts(self._folder).read_chunks(range(first, last + 1))
        receipts = [one for one in read if one.fingerprint == self._fingerprint]
        if len(receipts) != last + 1 - first:
            raise SourceError(
                f"Receipts of the store in {self._folder} are missing or damaged, so it is not known which rows it "
                "accepts. What is encoded stays; run verify on the store, then encode, and run this command again."
            )
        rejected = {one.row: one for one in itertools.chain.from_iterable(r.rejected for r in receipts)}
        return [
            replace(row, reason=found.reason, detail=found.detail) if (found := rejected.get(row.index)) else row
            for row in rows
        ]

    def read(self, row: Row) -> bytes:
        """The same as `read` of the source, with its errors."""
        return self._source.read(row)

    def stamps(self, rows: Sequence[Row]) -> Sequence[str] | None:
        """The same as `stamps` of the source; None if it has none."""
        return self._source.stamps(rows) if isinstance(self._source, StampedSource) else None
