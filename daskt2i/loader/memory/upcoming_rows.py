"""Decoded rows in memory, in the order in which batches need them, within a limit of bytes.

Covers: loading the rows of a shard before they are needed, dropping rows when batches have taken them, keeping all rows
if the whole store fits.
Does not cover: which rows are needed when (`dataset`), reading them (`shards`).

Rows are announced in units: the rows of one shard that one stretch of the stream needs. A unit is loaded as soon as
there is room, and at once if a batch waits for it. In an epoch each row is needed once. So the rows of a unit that are
needed at about the same time are one part, which is dropped after the last of their batches, and the rows of the next
stretch take its room. So one window of rows is enough memory to decode each shard once an epoch and never wait.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from daskt2i.loader.memory.loaded_rows import LoadedRows
from daskt2i.loader.sample_order import Sample

Unit = Hashable
"""Name of a unit."""

Parts = list[list[Sample]]
"""Samples of a unit. Those of a part are freed together, when all of them were taken."""

Load = Callable[[Parts], Sequence[LoadedRows]]
"""Loads rows of one shard, in parts. Several threads call it."""


class _Loaded:
    """The rows of a unit, and those that were not taken yet."""

    def __init__(self, parts: Sequence[LoadedRows]) -> None:
        self.parts: dict[int, LoadedRows] = dict(enumerate(parts))
        self.nbytes = sum(part.nbytes for part in parts)
        self.left = [len(part.samples) for part in parts]
        self.places = {
            sample: (number, index) for number, part in enumerate(parts) for index, sample in enumerate(part.samples)
        }

    def taken(self, sample: Sample) -> int:
        """Note that a row was taken, and return the bytes that are free now."""
        number = self.places[sample][0]
        self.left[number] -= 1
        return 0 if self.left[number] else self.parts.pop(number).nbytes


class UpcomingRows:
    """Rows in memory. Several threads may take rows; one thread announces them.

    Args:
        limit: limit in bytes; None keeps every row and loads each unit once.
        load: loads the rows of a unit.
        pool: threads that load.
        row_bytes: expected size of a row, until the first rows are loaded.
    """

    def __init__(self, limit: int | None, load: Load, pool: ThreadPoolExecutor, row_bytes: float) -> None:
        self._limit, self._load, self._pool = limit, load, pool
        self._lock = threading.RLock()  # reentrant, because a finished future calls back in the same thread
        self._queue: deque[Unit] = deque()
        self._rows: dict[Unit, Parts] = {}
        self._loading: dict[Unit, Future[_Loaded]] = {}
        self._held = 0.0
        self._row_bytes, self._loaded = row_bytes, 0
        self._closed = False

    @property
    def row_bytes(self) -> float:
        """Mean size of a row: as expected, or of the rows so far."""
        return self._row_bytes

    @property
    def held(self) -> float:
        """Bytes of all rows in memory, and of those that are being loaded, as expected."""
        return self._held

    def announce(self, units: Mapping[Unit, Parts]) -> None:
        """Rows that batches will take after all that was announced before. A unit that is known is left out."""
        with self._lock:
            for unit, rows in units.items():
                if unit not in self._rows:
                    self._rows[unit] = rows
                    self._queue.append(unit)
            self._fill()

    def require(self, units: Iterable[Unit]) -> None:
        """Load these units now, whether there is room or not, because a batch needs them."""
        with self._lock:
            for unit in units:
                if unit not in self._loading:
                    self._start(unit)

    def take(self, wanted: Sequence[tuple[Unit, Sample]]) -> list[tuple[LoadedRows, int]]:
        """The rows of these samples, after `require`: each as an index in rows that were loaded together. Without
        `limit is None`, each row can be taken once.

        Raises:
            StoreError: a row cannot be read, or it does not match its receipt.
        """
        with self._lock:
            units = {unit: self._loading.get(unit) or self._start(unit) for unit, _ in wanted}
        loaded = {unit: future.result() for unit, future in units.items()}
        found = []
        for unit, sample in wanted:
            number, index = loaded[unit].places[sample]
            found.append((loaded[unit].parts[number], index))
        if self._limit is not None:
            with self._lock:
                self._held -= sum(loaded[unit].taken(sample) for unit, sample in wanted)
                for unit in [unit for unit, rows in loaded.items() if not rows.parts]:
                    self._loading.pop(unit, None)
                    self._rows.pop(unit, None)
                self._fill()
        return found

    def close(self) -> None:
        """Load nothing more, and free all rows."""
        with self._lock:
            self._closed = True
            for future in self._loading.values():
                future.cancel()
            self._queue.clear()
            self._rows.clear()
            self._loading.clear()

    def _fill(self) -> None:
        """Start the next units for which there is room."""
        while self._queue and not self._closed:
            unit = self._queue[0]
            new = unit in self._rows and unit not in self._loading
            if new and self._limit is not None and self._held + self._expected(unit) > self._limit:
                return
            self._queue.popleft()  # first: a unit that is loaded at once calls this method again
            if new:
                self._start(unit)

    def _start(self, unit: Unit) -> Future[_Loaded]:
        rows, expected = self._rows[unit], self._expected(unit)
        self._held += expected
        future = self._loading[unit] = self._pool.submit(lambda: _Loaded(self._load(rows)))
        future.add_done_callback(lambda done: self._arrived(unit, done, expected))
        return future

    def _expected(self, unit: Unit) -> float:
        return self._row_bytes * sum(map(len, self._rows[unit]))

    def _arrived(self, unit: Unit, done: Future[_Loaded], expected: float) -> None:
        with self._lock:
            self._held -= expected
            if self._closed:
                return
            if done.cancelled() or done.exception() is not None:
                self._loading.pop(unit, None)  # the next request loads it again
                return
            rows, size = len(done.result().places), done.result().nbytes
            self._held += size
            known = min(self._loaded, 4096)  # later rows may have longer captions
            self._row_bytes = (self._row_bytes * known + size) / (known + rows) if known else size / rows
            self._loaded += rows
            self._fill()
