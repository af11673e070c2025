"""The exchange of a chunk that is visible: its receipt goes, the new shards come, then the new receipt.

Covers: withdrawing a receipt; finishing an exchange that ended between the two receipts, or taking it back.
Does not cover: chunks that were not visible before, former runs (`publication`).

The receipt that was there is kept beside its successor (`replaced.json`) until the successor is visible. On a file
system it is moved there. On an object store a deletion cannot depend on the run, and a driver may sleep before it. So
there the receipt is overwritten: by a copy of an object in the place of the attempt, which is gone after a take-over.

An object store may do a request whose answer never came later, for as long as its source is there. So an exchange that
fails there goes forward only, until nothing is left that a late request could copy. It goes back only if what the
worker wrote is not whole.
"""

from __future__ import annotations

import contextlib

from daskt2i.store.partial_files import flush_folder
from daskt2i.store.publishing.attempts import RECEIPT, REPLACED, staged_name
from daskt2i.store.publishing.fenced import FencedFolder
from daskt2i.store.publishing.moves import move, write_new
from daskt2i.store.receipts import WITHDRAWN, receipt_name
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Receipt, Shard

BLANK = "blank.json"
"""On object stores: the object of an attempt that overwrites the receipt of its chunk."""


class Exchange:
    """Exchanges receipts of a run folder, as the run of `folder`."""

    def __init__(self, folder: FencedFolder) -> None:
        self.folder, self.plain, self._store = folder, folder.plain, ZarrStore(folder.plain)

    def withdraw(self, chunk: int, place: str) -> None:
        """Keep the visible receipt of a chunk, if there is one, beside its successor, and make it invisible."""
        name = receipt_name(chunk)
        if self.plain.is_local:
            if self.plain.exists(name):
                move(self.plain, name, f"{place}/{REPLACED}")
                # on disk before the first shard changes
                flush_folder(self.plain.local_path(place))
                flush_folder(self.plain.local_path(name).parent)
            return
        old = visible(self.plain, chunk)
        if old is not None:
            write_new(self.plain, f"{place}/{REPLACED}", old)
            write_new(self.plain, f"{place}/{BLANK}", WITHDRAWN)
            self.folder.bring(f"{place}/{BLANK}", name)

    def finish(self, place: str) -> bool:
        """Finish an exchange that ended between the old and the new receipt of a chunk; or take it back.

        Returns:
            whether the chunk has a receipt now.

        Raises:
            TakenOver: another run took over.
            Exception: what the disk, the store or the network answered. The exchange can be finished later.
        """
        if not self.plain.is_local:
            self.plain.delete(f"{place}/{BLANK}")  # else a late request could still overwrite a receipt with it
            try:
                return self._forward(place) or self._back(place, drop=True)
            except FileNotFoundError:
                return False
        problem: OSError | None = None
        try:
            if self._forward(place):
                return True
        except FileNotFoundError:
            pass
        except OSError as error:
            problem = error
        with contextlib.suppress(FileNotFoundError):
            if self._back(place):
                return True
        if problem is not None:  # a disk that did not answer says nothing about what the worker wrote
            raise problem
        return False

    def _forward(self, place: str) -> bool:
        receipt = _receipt(self.plain, f"{place}/{RECEIPT}")
        if receipt is None:
            return False
        if visible(self.plain, receipt.chunk) is not None:
            return True
        waiting = [shard for shard in receipt.shards if self._has(f"{place}/{staged_name(shard.key)}", shard)]
        if not all(shard in waiting or self._is_visible(shard) for shard in receipt.shards):
            return False
        for shard in waiting:
            self.folder.bring(f"{place}/{staged_name(shard.key)}", self._name(shard))
        self.folder.bring(f"{place}/{RECEIPT}", receipt_name(receipt.chunk))
        return True

    def _back(self, place: str, drop: bool = False) -> bool:
        """Make the old receipt visible again.

        Args:
            drop: first remove what the worker wrote, so that no late request can copy it under the old receipt.
        """
        old = _receipt(self.plain, f"{place}/{REPLACED}")
        if old is None:
            return False
        if visible(self.plain, old.chunk) is not None:
            return True
        if drop:
            for name in self.plain.list(place):
                if not name.endswith(f"/{REPLACED}"):
                    self.plain.delete(name)
        if not all(self._is_visible(shard) for shard in old.shards):
            return False
        self.folder.bring(f"{place}/{REPLACED}", receipt_name(old.chunk))
        return True

    def _name(self, shard: Shard) -> str:
        return f"{self._store.name}/{shard.key}"

    def _is_visible(self, shard: Shard) -> bool:
        return self._has(self._name(shard), shard)

    def _has(self, name: str, shard: Shard) -> bool:
        """Whether an object has the bytes of a shard. If the disk or the store does not answer, it raises an error."""
        return self.plain.size(name) == shard.size and self.plain.sha256(name) == shard.sha256


def visible(folder: RunFolder, chunk: int) -> bytes | None:
    """The receipt of a chunk that readers see; None if there is none."""
    try:
        data = folder.read(receipt_name(chunk))
    except FileNotFoundError:
        return None
    return None if data == WITHDRAWN else data


def _receipt(folder: RunFolder, name: str) -> Receipt | None:
    try:
        return Receipt.from_json(folder.read(name))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
