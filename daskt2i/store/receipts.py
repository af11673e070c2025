"""Receipts: one JSON object for each finished chunk, written last. A chunk without a receipt is not done.

Covers: writing, reading and deleting receipts in a run folder; finding invalid receipts.
Does not cover: publishing (`publishing`), the content of a receipt (`types.Receipt`), whether its shards are intact
(`zarr_store`), whether it belongs to the current settings (`encode` compares fingerprints).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator

from daskt2i.errors import StoreError
from daskt2i.store.publishing.attempts import RECEIPT, Attempt
from daskt2i.store.run_folder import RECEIPTS, RunFolder
from daskt2i.types import Receipt

WITHDRAWN = b'{"withdrawn": true}'
"""Content of a receipt that is being exchanged on an object store (`publishing.exchange`): as if it were missing."""

_NAME = re.compile(re.escape(RECEIPTS) + r"/chunk-([0-9]{7,})\.json")


class Receipts:
    """The receipts of a run folder. Making the object is cheap, and it can be pickled."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def write(self, receipt: Receipt, attempt: Attempt | None = None) -> None:
        """Write a receipt to disk, completely or not at all. First the shards of the chunk must be on disk.

        Args:
            attempt: write it into the place of an attempt, where nobody reads it before the driver publishes it; None
                to write it where it is read.

        Raises:
            StoreError: the receipt names no shard, so it proves nothing.
            StoreFull: no space is left.
            TakenOver: the run of the attempt is over.
        """
        if not receipt.shards:
            raise StoreError(
                f"The receipt of chunk {receipt.chunk} names no shard, so it was not written. Write the chunk first."
            )
        # A file name or caption may hold a lone surrogate; `json.loads` reads it back the same way.
        data = receipt.to_json().encode("utf-8", "surrogatepass")
        if attempt is None:
            self.folder.write(receipt_name(receipt.chunk), data)
        else:
            attempt.write(RECEIPT, data)

    def read(self, on_problem: Callable[[str, str], None] | None = None) -> Iterator[Receipt]:
        """All valid receipts in the order of chunks, one at a time in memory.

        A file that is damaged, edited by hand or not a receipt is not valid. Its chunk is not done.

        Args:
            on_problem: called with the name of each invalid file, and a clause that says why.
        """
        numbered = []
        for name in self.folder.list(RECEIPTS):
            if match := _NAME.fullmatch(name):
                numbered.append((int(match[1]), name))
            elif on_problem:
                on_problem(name, "is not the name of a receipt")
        chunks = {name: chunk for chunk, name in sorted(numbered)}
        for name, found in self.folder.read_many(chunks):
            try:
                if isinstance(found, Exception):
                    raise found
                if found == WITHDRAWN:
                    continue
                receipt = Receipt.from_json(found)
                _check(receipt, chunks[name])
            except FileNotFoundError:
                continue  # deleted after the folder was listed
            except StoreError:
                raise
            except (ValueError, RecursionError, OSError) as error:
                if on_problem:
                    on_problem(name, str(error))
                continue
            yield receipt

    def read_chunks(self, chunks: Iterable[int]) -> Iterator[Receipt]:
        """The receipts of these chunks. It does not list the folder, because a listing over NFS may be a minute old.

        Invalid receipts are left out.
        """
        for _, found in self.folder.read_many(receipt_name(chunk) for chunk in chunks):
            with contextlib.suppress(ValueError, RecursionError):
                if not isinstance(found, Exception):
                    yield Receipt.from_json(found)

    def count(self) -> int:
        """Number of receipts, from one listing of their names. No receipt is read."""
        return sum(_NAME.fullmatch(name) is not None for name in self.folder.list(RECEIPTS))

    def delete(self, chunk: int) -> None:
        """Remove the receipt of a chunk, so that the chunk is not done. It may be missing."""
        self.folder.delete(receipt_name(chunk))


def receipt_name(chunk: int) -> str:
    """The name of the receipt of a chunk in the run folder."""
    return f"{RECEIPTS}/chunk-{chunk:07d}.json"


def _check(receipt: Receipt, chunk: int) -> None:
    """Check what `Receipt.from_json` does not check.

    Raises:
        ValueError: a field has an impossible value.
    """
    numbers = (receipt.chunk, receipt.start, receipt.stop, receipt.accepted, receipt.captions)
    if not all(type(number) is int for number in numbers):
        raise ValueError(f"a count is not a whole number: {numbers}")
    if receipt.chunk != chunk:
        raise ValueError(f"it is the receipt of chunk {receipt.chunk}")
    if not 0 <= receipt.start < receipt.stop or receipt.accepted < 0 or receipt.captions < 0:
        raise ValueError(f"rows {receipt.start} to {receipt.stop} with {receipt.accepted} accepted are impossible")
    rejected = {rejection.row for rejection in receipt.rejected}
    if len(rejected) != len(receipt.rejected) or not all(receipt.start <= row < receipt.stop for row in rejected):
        raise ValueError("a rejected row is listed twice, or it is not in the chunk")
    if not receipt.shards:
        raise ValueError("it names no shard")
    for shard in receipt.shards:
        if not (isinstance(shard.key, str) and type(shard.size) is int and isinstance(shard.sha256, str)):
            raise ValueError("a shard is not a key, a hash and a size")
        if shard.key.startswith("/") or ".." in shard.key.split("/"):
            raise ValueError(f"the shard {shard.key!r} is not inside the store")
