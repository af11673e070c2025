"""Reading ahead: threads read and decode the rows of a chunk while the model runs, and give them in row order.

Covers: a bounded window of rows, the hash of the bytes that were read, rows that cannot be used, reads that fail for a
while or do not return, the number of threads.
Does not cover: where bytes come from (`sources`), decoding and checking images (`images`), which error may pass
(`faults`).

The threads are daemons. A read on a mount whose server is gone never returns, and the process must be able to end.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

from daskt2i.encode.chunks.stamps import of_read
from daskt2i.errors import ReadStalled, Reason, RowRejected
from daskt2i.faults.patience import fetched, patiently, stalled
from daskt2i.images import read as images
from daskt2i.images.framing import Framing
from daskt2i.protocols import Source
from daskt2i.retries import READ_SECONDS, TRANSPORT_SECONDS
from daskt2i.types import Record, Rejection, Row

_LOOK_SECONDS = 1.0
"""How often a waiting consumer looks after the read that it waits for."""

_FETCHING = 8
"""Largest number of threads where fetching takes longer than decoding: they wait for a network, and not for a core."""

_END_SECONDS = 5.0
"""How long to wait at the end for reads that nobody wants any more."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One row, read or rejected.

    Attributes:
        row: the row.
        outcome: the record, or the rejection.
        digest: SHA-256 of the image file's bytes; empty if no bytes were read.
        stamp: digits of the file that was opened, from `chunks.stamps`; "" if it is not known.
        fetch_seconds, decode_seconds: time of the reading thread.
    """

    row: Row
    outcome: Record | Rejection
    digest: bytes
    stamp: str
    fetch_seconds: float
    decode_seconds: float


@dataclass(frozen=True, slots=True)
class Care:
    """How reads are looked after.

    Attributes:
        patience: seconds to try again while the network fails.
        timeout: seconds that one read may take.
        look: called about once a second in the thread that waits for a row. It may raise, to stop waiting. It gets a
            clause that says what is awaited, when that began, on the clock `time.monotonic`, and after how many seconds
            it is given up.
    """

    patience: float = TRANSPORT_SECONDS
    timeout: float = READ_SECONDS
    look: Callable[[str, float, float], None] = lambda what, since, limit: None


def read_row(
    source: Source, row: Row, framing: Framing, limits: images.Limits, fetch: Callable[[Row], bytes] | None = None
) -> Reading:
    """Fetch and decode one row. Other errors (network, disk, access) are raised, so that the chunk is retried.

    Args:
        fetch: reads the bytes; `source.read` without it.
    """
    fetch = fetch or source.read
    begun = fetched = time.perf_counter()
    digest, stamp = b"", ""
    outcome: Record | Rejection
    try:
        if row.reason is not None:
            raise RowRejected(row.reason, row.detail)
        if not row.captions:
            raise RowRejected(Reason.NO_CAPTION)
        data = _twice(fetch, row)
        fetched = time.perf_counter()
        digest, stamp = hashlib.sha256(data).digest(), of_read(row, data)
        try:
            picture = images.read_framed(data, framing, limits, row.image_id)
        except RowRejected:
            again = fetch(row)  # a server that ends early, without an error, is no property of the image
            if again == data:
                raise
            digest, stamp = hashlib.sha256(again).digest(), of_read(row, again)
            picture = images.read_framed(again, framing, limits, row.image_id)
        outcome = Record(row, picture.pixels, picture.source_size, picture.crop_box, picture.more)
    except RowRejected as error:
        outcome = Rejection(row.index, row.image_id, error.reason, error.detail)
    return Reading(row, outcome, digest, stamp, fetched - begun, time.perf_counter() - fetched)


def without_picture(row: Row) -> Reading:
    """One row whose picture nobody needs: a column of text. Nothing is read."""
    reason = row.reason or (None if row.captions else Reason.NO_CAPTION)
    outcome: Record | Rejection = Record(row, np.zeros((0, 0, 3), np.uint8), (0, 0), (0, 0, 0, 0))
    if reason is not None:
        outcome = Rejection(row.index, row.image_id, reason, row.detail)
    return Reading(row, outcome, b"", "", 0.0, 0.0)


def _twice(fetch: Callable[[Row], bytes], row: Row) -> bytes:
    """The bytes of a row. Damage on the way, as a checksum shows it, is no property of the image: it is read again."""
    try:
        return fetch(row)
    except RowRejected as error:
        if error.reason is not Reason.UNREADABLE_IMAGE:
            raise
        return fetch(row)


def inputs_digest(rows: Iterable[Row], read: Callable[[Row], bytes]) -> str:
    """SHA-256 over the image bytes of these rows, like `inputs` of a receipt. It decodes nothing.

    Args:
        read: gives the bytes of an image file, or raises `RowRejected`.
    """
    total = hashlib.sha256()
    for row in rows:
        if row.usable:
            with contextlib.suppress(RowRejected):
                total.update(hashlib.sha256(read(row)).digest())
    return total.hexdigest()


@dataclass(slots=True, eq=False)
class _Task:
    """A row to read. `begun` is set while its bytes are fetched; `said`, `failing`, `limit` while it is tried again."""

    row: Row
    future: Future[Reading] = field(default_factory=Future)
    begun: float | None = None
    said: str = ""
    failing: float | None = None
    limit: float = 0.0

    def tell(self, text: str, limit: float) -> None:
        self.failing = (self.failing or time.monotonic()) if text else None
        self.said, self.limit = text, limit


@dataclass(slots=True)
class ReaderCount:
    """How many threads read for this process. There are more of them while the model waits for pictures.

    A CPU model takes longer than decoding, so two threads are enough. A GPU takes the pictures of many.

    Attributes:
        now: number of threads.
        most: their largest number, if decoding takes longer than fetching: the cores of this worker.
    """

    now: int
    most: int
    _waits: int = 0
    _fetch: float = 0.0
    _decode: float = 0.0

    def saw(self, ready: bool, reading: Reading) -> bool:
        """Whether one more thread should start, after the model asked for a picture.

        Args:
            ready: whether the picture was there already.
            reading: the picture.
        """
        self._fetch += reading.fetch_seconds
        self._decode += reading.decode_seconds
        self._waits = 0 if ready else self._waits + 1
        most = max(self.most, _FETCHING) if self._fetch > self._decode else self.most
        if self._waits < 2 * self.now or self.now >= most:
            return False
        self._waits, self.now = 0, self.now + 1
        return True


class _Closed(Exception):
    """Nobody waits for the row any more."""


class _Readers:
    """Threads that read rows."""

    def __init__(self, read: Callable[[_Task], Reading], threads: int) -> None:
        self._read = read
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        for _ in range(threads):
            self.add()

    def add(self) -> None:
        """Start one more thread."""
        name = f"daskt2i-read_{len(self._threads)}"
        self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
        self._threads[-1].start()

    def begin(self, row: Row) -> _Task:
        task = _Task(row)
        self._tasks.put(task)
        return task

    def end(self, seconds: float) -> None:
        """End the threads. One whose read does not return is left behind."""
        for _ in self._threads:
            self._tasks.put(None)
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if task.future.set_running_or_notify_cancel():
                try:
                    task.future.set_result(self._read(task))
                except BaseException as error:
                    task.future.set_exception(error)
            del task  # its picture must not wait here for the next row


@contextlib.contextmanager
def reading_ahead(
    source: Source,
    rows: Iterable[Row],
    framing: Framing,
    limits: images.Limits,
    *,
    threads: int | ReaderCount,
    window: int,
    care: Care = Care(),
) -> Iterator[Iterator[Reading]]:
    """Start to read at once, and give the rows in order. At most `window` rows are being read or waiting.

    Args:
        threads: number of reading threads; a `ReaderCount` may grow, and is used again for the next chunk.
        window: rows ahead of the consumer; each holds one decoded picture.
        care: how reads that fail or hang are looked after.

    Raises (when the row is reached):
        AccessRefused, TransportFailed, ReadStalled: the row could not be read, or its read did not return.
        Exception: another error of the source.
    """
    left = iter(rows)
    closed = threading.Event()

    def pause(seconds: float) -> None:
        if closed.wait(seconds):
            raise _Closed

    def read(task: _Task) -> Reading:
        def once(row: Row) -> bytes:
            task.begun = time.monotonic()
            try:
                return fetched(source, row)
            finally:
                task.begun = None

        def fetch(row: Row) -> bytes:
            return patiently(lambda: once(row), row.file_name, care.patience, task.tell, pause)

        return read_row(source, task.row, framing, limits, fetch)

    count = threads if isinstance(threads, ReaderCount) else ReaderCount(threads, threads)
    readers = _Readers(read, count.now)

    def begin(count: int) -> Iterator[_Task]:
        return (readers.begin(row) for row in itertools.islice(left, count))

    ahead = deque(begin(window))

    def readings() -> Iterator[Reading]:
        for number in itertools.count():
            if not ahead:
                return
            ready = ahead[0].future.done()
            reading = _awaited(ahead[0], care)
            ahead.popleft()
            ahead.extend(begin(1))
            # The pictures of the first batch are never there before the model asks for them.
            if isinstance(threads, ReaderCount) and number >= window // 2 and count.saw(ready, reading):
                readers.add()
            yield reading

    seconds = _END_SECONDS
    try:
        yield readings()
    except ReadStalled:
        seconds = 0.0
        raise
    finally:
        closed.set()
        for task in ahead:
            task.future.cancel()
        readers.end(seconds)


def _awaited(task: _Task, care: Care) -> Reading:
    """The reading of a task.

    Raises:
        ReadStalled: its read does not return.
    """
    while True:
        try:
            return task.future.result(_LOOK_SECONDS)
        except TimeoutError:
            if task.future.done():
                return task.future.result()
        now, begun, failing = time.monotonic(), task.begun, task.failing
        if failing is not None:
            care.look(task.said, failing, task.limit)
        elif begun is not None:
            care.look(f"the read of {task.row.file_name} does not return", begun, care.timeout)
        else:
            care.look("", now, care.timeout)
        if begun is not None and now - begun > care.timeout:
            raise stalled(task.row.file_name, care.timeout)
