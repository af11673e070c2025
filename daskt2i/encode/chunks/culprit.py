"""Why a chunk kills its workers: memory that is short, or one row.

Covers: smaller batches, halving the rows, rejecting the row that was found.
Does not cover: workers that die by chance (`executors` tries a chunk several times before).

Parts of a chunk are encoded without keeping anything, because a shard is the whole chunk. When the row is found, the
chunk is encoded as usual, with this row rejected before it is read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from daskt2i.encode.job import EncodeJob
from daskt2i.encode.worker import encode_chunk, try_rows
from daskt2i.errors import Reason, WorkerLost
from daskt2i.events import Listener, Note
from daskt2i.protocols import Executor
from daskt2i.retries import smaller_batch
from daskt2i.types import Chunk, Row, Staged

MOST_ROWS = 16
"""So many rows of one chunk may kill workers. More are hardly the rows' fault."""


@dataclass(slots=True)
class Trial:
    """Treats chunks that kill their workers. `job` gets a smaller batch if that helps."""

    executor: Executor
    job: EncodeJob
    listener: Listener

    def treat(self, chunk: Chunk, error: WorkerLost, died_at: int) -> Staged | BaseException:
        """Encode a chunk whose workers died.

        Args:
            chunk: with its rows.
            died_at: the batch at which they died.
            error: what the executor says; it is returned if no row was found.

        Returns:
            the chunk, not published; or an error.
        """
        small = self.job
        if small.batch < died_at:
            outcome = self._alone(encode_chunk, small, chunk)
            if not isinstance(outcome, WorkerLost):
                return outcome
        while (batch := smaller_batch(small.batch)) is not None:
            small = replace(small, batch=batch, text_batch=max(1, small.text_batch // 2))
            outcome = self._alone(encode_chunk, small, chunk)
            if not isinstance(outcome, WorkerLost):
                if not isinstance(outcome, BaseException):
                    self.listener(Note(f"run.batch: workers died at {self.job.batch}; the run continues with {batch}."))
                    self.job = small
                return outcome
        for _ in range(MOST_ROWS):
            row = self._find(small, chunk)
            if row is None:
                return error
            detail = f"each worker that read or encoded it died (row {row.index})"
            self.listener(Note(f"Row {row.index} ({row.file_name}) is rejected: {detail}."))
            marked = replace(row, reason=Reason.KILLS_WORKER, detail=detail)
            chunk = replace(chunk, rows=tuple(marked if one.index == row.index else one for one in chunk.rows))
            outcome = self._alone(encode_chunk, self.job, chunk)
            if not isinstance(outcome, WorkerLost):
                return outcome
        return error

    def _find(self, job: EncodeJob, chunk: Chunk) -> Row | None:
        """The first row that kills a worker by itself; None if none does."""
        rows = [row for row in chunk.rows if row.usable]
        while len(rows) > 1:
            half = rows[: len(rows) // 2]
            rows = half if self._kills(job, chunk, half) else rows[len(half) :]
        return rows[0] if rows and self._kills(job, chunk, rows) else None

    def _kills(self, job: EncodeJob, chunk: Chunk, rows: Sequence[Row]) -> bool:
        return isinstance(self._alone(try_rows, job, replace(chunk, rows=tuple(rows))), WorkerLost)

    def _alone(self, work: Callable[[EncodeJob, Chunk], Any], job: EncodeJob, chunk: Chunk) -> Any:
        with closing(closable(self.executor.run(functools.partial(work, job), [chunk], alone=True))) as outcomes:
            return next(outcomes)[1]


def closable(outcomes: Iterator[Any]) -> Any:
    """The result of `executor.run` with a `close`: a third-party executor may return any kind of iterator."""
    return outcomes if hasattr(outcomes, "close") else (pair for pair in outcomes)
