"""Reading ahead: the records of a chunk, in row order, fetched and decoded by threads while the model runs.

Covers: a bounded window of rows in flight, which bytes were read (their hash), the rows that cannot be used.
Does not cover: where bytes come from (`sources`), what a picture must be (`images`).
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
        row: what was read.
        outcome: the record, or why there is none.
        digest: SHA-256 of the image file's bytes; empty where none were read.
        fetch_seconds, decode_seconds: time of the thread that did it.
    """

    row: Row
    outcome: Record | Rejection
    digest: bytes
    fetch_seconds: float
    decode_seconds: float


def read_row(source: Source, row: Row, resolution: int, limits: images.Limits) -> Reading:
    """Fetch and decode one row. Errors that are not the row's own (network, disk) propagate: the chunk is retried."""
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
    """SHA-256 over the image bytes of these rows, as a receipt's `inputs`; decodes nothing."""
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
    """Begins to read at once, and gives the rows in order; at most `window` of them are in flight or waiting.

    Args:
        threads: how many read at once.
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
