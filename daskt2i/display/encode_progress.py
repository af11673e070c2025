"""Progress of encoding, computed from its events.

Covers: rows and images per second from receipts, failed chunks, how an encode ended.
Does not cover: how it looks (`progress`, `notebook`), the plan and the totals (`encode`).
"""

from __future__ import annotations

from daskt2i.display.rate import RecentRate
from daskt2i.display.stage_progress import Line, StageProgress, Tone
from daskt2i.errors import sentence
from daskt2i.events import ChunkDone, ChunkFailed, ChunkSent, ChunksFound, Event, Moving, Waiting, WorkersReady
from daskt2i.formatting import many, waiting_words, workers_words
from daskt2i.types import Receipt

AGAIN = "; it is tried again after the others"
"""The end of the line about a failed chunk that will be retried."""


class EncodeProgress(StageProgress):
    """The progress of encoding `total` rows."""

    what, unit = "encoding", "rows"

    def __init__(self, total: int, now: float) -> None:
        super().__init__(total, now)
        self._workers, self._before = 1, 0
        self._arrived = False
        self._failed: set[int] = set()
        self._flying: set[int] = set()
        self._open = 0

    def hear(self, event: Event, now: float) -> list[Line]:
        if isinstance(event, Waiting):
            self._waits(now, event.seconds)
            text = waiting_words(event.what, event.where, event.seconds, event.limit, event.chunk)
            return [Line(text, Tone.NOTE)]
        if isinstance(event, Moving | ChunkDone | ChunkFailed):
            self._waits_since = None
        if isinstance(event, ChunksFound):
            self._open = event.done.count(0)
        if isinstance(event, ChunkSent):
            self._flying.add(event.chunk)
        if isinstance(event, ChunkFailed):
            self._flying.discard(event.chunk)
            self._open -= event.final
        if isinstance(event, WorkersReady):
            info = event.executor_info
            self.running, self._workers = True, info.workers
            self._before = self.done = event.rows_done
            before = f", {many(event.chunks_done, 'chunk')} done before" * bool(event.chunks_done)
            return [Line(workers_words(info.workers, info.threads, info.most_threads) + before)]
        if isinstance(event, ChunkDone):
            self._add(event.receipt, now)
            return []
        if isinstance(event, ChunkFailed):
            self._rate.add(now, 0)
            if event.final:
                self._failed.add(event.chunk)
            said = sentence(event.error)
            said = said if event.final else f"{said.removesuffix('.')}{AGAIN}"
            return [Line(f"chunk {event.chunk} failed: {said}", Tone.FAILURE, event.chunk)]
        return super().hear(event, now)

    def _add(self, receipt: Receipt, now: float) -> None:
        rows = receipt.stop - receipt.start
        if not self._arrived:
            self._arrived = self.running = True
            chunks = -(-(self.total - self.done) // max(1, rows))  # there may be fewer chunks than workers
            self._rate = RecentRate(max(1, min(self._workers, chunks)))
        seconds = receipt.seconds
        self._rate.add(now, rows, seconds.get("total", 0.0) - seconds.get("load", 0.0))
        self._failed.discard(receipt.chunk)
        self._flying.discard(receipt.chunk)
        self._open -= 1
        self.done += rows

    def figures(self, now: float) -> str:
        rate = self.per_second(now)
        if rate is None:
            return "models load" if self.running and not self._arrived else ""
        if 0 < len(self._flying) == self._open < self._workers:  # some workers have nothing left to do
            return f"waits for {'the last chunk' if self._open == 1 else f'the last {self._open} chunks'}"
        return f"{rate:.1f} images/s"

    def _finished(self, took: str) -> str:
        new = self.done - self._before
        if self._failed:
            count = len(self._failed)
            failed = f"{count} chunk{'s' * (count != 1)} failed"
            return f"encoded {self.done:,} of {many(self.total, 'row')} in {took}; {failed}"
        if not self.running:
            return f"all {self.total:,} rows were encoded before"
        before = f"; {self._before:,} were encoded before" if self._before else ""
        return f"encoded {many(new, 'row')} in {took}{before}"
