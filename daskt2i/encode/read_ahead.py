"""Reading ahead: threads read and decode the rows of a chunk while the model runs, and give them in row order.

Covers: a bounded window of rows, the hash of the bytes that were read, rows that cannot be used.
Does not cover: where bytes come from (`sources`), decoding and checking images (`images`).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from daskt2i.errors import Reason, RowRejected
from daskt2i.images import read as images
from daskt2i.protocols import Source
from daskt2i.types import Record, Rejection, Row


@dataclass(frozen=True, slots=True)
class Reading:
    """One row, read or rejected.

    Attributes:
        row: the row.
        outcome: the record, or the rejection.
        digest: SHA-256 of the image file's bytes; empty if no bytes were read.
        fetch_seconds, decode_seconds: time of the reading thread.
    """

    row: Row
    outcome: Record | Rejection
    digest: bytes
    fetch_seconds: float
    decode_seconds: float


def read_row(source: Source, row: Row, resolution: int, limits: images.Limits) -> Reading:
    """Fetch and decode one row. Other errors (network, disk) are raised, so that the chunk is retried."""
    begun = fetched = time.perf_counter()
    digest = b""
    outcome: Record | Rejection
    try:
        if row.reason is not None:
            raise RowRejected(row.reason, row.detail)
        if not row.captions:
            raise RowRejected(Reason.NO_CAPTION)
        data = source.read(row)
        fetched = time.perf_counter()
        digest = hashlib.sha256(data).digest()
        picture = images.read(data, resolution, limits)
        outcome = Record(row, picture.pixels, picture.source_size, picture.crop_box)
    except RowRejected as error:
        outcome = Rejection(row.index, row.image_id, error.reason, error.detail)
    return Reading(row, outcome, digest, fetched - begun, time.perf_counter() - fetched)


def inputs_digest(source: Source, rows: Iterable[Row]) -> str:
    """SHA-256 over the image bytes of these rows, like `inputs` of a receipt. It decodes nothing."""
    total = hashlib.sha256()
    for row in rows:
        if row.usable:
            with contextlib.suppress(RowRejected):
                total.update(hashlib.sha256(source.read(row)).digest())
    return total.hexdigest()


@contextlib.contextmanager
def reading_ahead(
    source: Source, rows: Iterable[Row], resolution: int, limits: images.Limits, *, threads: int, window: int
) -> Iterator[Iterator[Reading]]:
    """Start to read at once, and give the rows in order. At most `window` rows are being read or waiting.

    Args:
        threads: number of reading threads.
        window: rows ahead of the consumer; each holds one decoded picture.
    """
    left = iter(rows)
    with ThreadPoolExecutor(threads, thread_name_prefix="daskt2i-read") as pool:

        def begin(count: int) -> Iterator[Future[Reading]]:
            return (pool.submit(read_row, source, row, resolution, limits) for row in itertools.islice(left, count))

        ahead = deque(begin(window))

        def readings() -> Iterator[Reading]:
            while ahead:
                reading = ahead.popleft().result()
                ahead.extend(begin(1))
                yield reading

        try:
            yield readings()
        finally:
            for future in ahead:
                future.cancel()
