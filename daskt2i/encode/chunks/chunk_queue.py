"""The open chunks of a run: they go to an executor until each is published, or has failed too often.

Covers: tries of a chunk, workers that are set aside, chunks that kill their workers, the end of a hopeless run.
Does not cover: one chunk (`encode.worker`), who is to blame (`faults.suspects`), the row that kills (`culprit`), making
a chunk visible (`store.publishing`), the run around the chunks (`encode.driver`).
"""

from __future__ import annotations

import functools
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from time import sleep

from daskt2i.encode.chunks.culprit import Trial, closable
from daskt2i.encode.chunks.stamps import Stamps
from daskt2i.encode.chunks.standstill import Standstill
from daskt2i.encode.job import EncodeJob
from daskt2i.encode.prepare import EncodePlan
from daskt2i.encode.summary import ERRORS
from daskt2i.encode.worker import encode_chunk
from daskt2i.errors import Daskt2iError, ExecutorError, StoreError, TakenOver, WorkerLost, sentence
from daskt2i.events import ChunkDone, ChunkFailed, ChunkSent, Note
from daskt2i.faults.kinds import Kind, kind_of
from daskt2i.faults.suspects import Step, Suspects
from daskt2i.protocols import Executor, ExecutorInfo
from daskt2i.redact import hide_in_error, without_secret
from daskt2i.retries import pause
from daskt2i.store.publishing.publication import Publication
from daskt2i.store.publishing.queue import PublishQueue
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Chunk, Receipt, Staged

_SAYS_ENOUGH = (Kind.ACCESS, Kind.TRANSPORT, Kind.DEVICE)
"""Kinds whose message says what to do next."""


@dataclass(slots=True)
class ChunkQueue:
    """The open chunks of one run.

    Args:
        prepared: the plan; its folder is fenced.
        on_done: gets the receipt of each chunk that was published.

    Attributes:
        job: what workers get; its batch becomes smaller where memory was short.
        tries: chunk -> number of tries that count.
        failed: chunk -> its last error in words, for chunks that are not encoded.
        left: number of workers that get chunks.
    """

    prepared: EncodePlan
    executor: Executor
    executor_info: ExecutorInfo
    publication: Publication
    standstill: Standstill
    job: EncodeJob
    on_done: Callable[[Receipt], None]
    tries: Counter[int] = field(default_factory=Counter)
    failed: dict[int, str] = field(default_factory=dict)
    left: int = 1
    _stamps: Stamps = field(init=False)
    _again: deque[int] = field(default_factory=deque)
    _lost: dict[int, WorkerLost] = field(default_factory=dict)
    _suspects: Suspects = field(default_factory=lambda: Suspects(0))

    def __post_init__(self) -> None:
        self._stamps = Stamps(self.prepared.source)

    def run(self, todo: Iterable[int], opened: int) -> None:
        """Encode these chunks. Afterwards `failed` holds those that failed at each try.

        Args:
            opened: number of chunks in `todo`.

        Raises:
            Daskt2iError: an error that makes the remaining chunks pointless. Published chunks stay.
        """
        self._suspects = Suspects(opened, replaceable=not self.executor_info.address)
        self.left = max(1, self.executor_info.workers)
        rounds = 0
        while True:
            before = self.tries.total()
            self._round(todo, opened, first=rounds == 0)
            self._treat_lost()
            todo = sorted({*self._again, *(chunk for chunk in self.failed if self._may_try(chunk))})
            self._again.clear()
            if not todo:
                return
            opened = len(todo)
            if self.tries.total() > before:  # a worker that was set aside costs no pause
                sleep(pause(rounds))
                rounds += 1

    @property
    def most_tries(self) -> int:
        """The number of tries of the chunk with the most."""
        return max((self.tries[chunk] for chunk in self.failed), default=0)

    def _may_try(self, chunk: int) -> bool:
        return self.tries[chunk] <= self.prepared.workflow.run.retries

    def _round(self, todo: Iterable[int], count: int, first: bool) -> None:
        """Give chunks to the executor until none is left. Chunks that fail wait for the next round."""
        work = functools.partial(encode_chunk, self.job)
        queue = PublishQueue(self.publication, patient=self.executor_info.workers <= 1)
        # The queue is closed last: chunks in flight are cancelled then, and finished ones are published.
        with (
            closing(queue),
            closing(closable(self.executor.run(work, _Open(self, todo, count)))) as outcomes,
        ):
            for chunk, outcome in outcomes:
                self.standstill.ended(chunk.index)
                if not isinstance(outcome, BaseException):
                    self._suspects.finished(chunk.index, outcome.receipt.worker)
                    queue.add(outcome)
                    self._published(queue.done(), first)
                elif isinstance(outcome, WorkerLost):
                    self._lost[chunk.index] = outcome
                else:
                    self._fail(chunk.index, outcome, first)
            self._published(queue.rest(), first)

    def _draw(self, fresh: Iterator[int]) -> Chunk | None:
        """The next open chunk with its rows. The rows are read when the executor asks for the chunk."""
        index = self._again.popleft() if self._again else next(fresh, None)
        if index is None:
            self.standstill.drained()
            return None
        self.standstill.drawn(index)
        self.standstill.hear(ChunkSent(index))
        return self._chunk(index)

    def _chunk(self, index: int) -> Chunk:
        chunk = self.prepared.grid[index]
        rows = tuple(self.prepared.source.rows(chunk.start, chunk.stop))
        return replace(chunk, rows=rows, stamps=self._stamps.of(rows))

    def _published(self, chunks: Iterable[tuple[Staged, BaseException | None]], first: bool) -> None:
        """Count chunks that are visible now, and report them."""
        for staged, error in chunks:
            receipt = staged.receipt
            if error is not None:
                self.publication.discard(staged.attempt)
                self._fail(receipt.chunk, error, first)
                continue
            self.failed.pop(receipt.chunk, None)
            self.on_done(receipt)
            for warning in receipt.warnings:
                self.standstill.hear(Note(warning))
            known = getattr(self.executor, "processes", {}).get(receipt.worker, ("", 0))
            self.standstill.hear(ChunkDone(receipt, *known))

    def _fail(self, index: int, error: BaseException, first: bool) -> None:
        """Count a chunk that failed, and report it. An error that ends the run is raised."""
        self._log(index, error)
        if isinstance(error, TakenOver):
            self._require_run()
        worker, kind = str(getattr(error, "worker", "")), kind_of(error)
        if (absolved := self._suspects.absolved(index, worker)) is not None:
            self.left = self.executor.avoid(list(self._suspects.aside))
            self.standstill.hear(Note(f"{absolved} gets chunks again: chunk {index} failed on {worker} too."))
        step = self._suspects.failed(index, worker, kind, sentence(error), self.left if worker else 0)
        if step is Step.END and kind in (Kind.SETUP, Kind.FINAL):
            raise error
        self.failed[index] = sentence(error)
        self.tries[index] += step is not Step.EXCUSE
        final = step in (Step.COUNT, Step.END) and not self._may_try(index)
        self.standstill.hear(ChunkFailed(index, error, final))
        if step is Step.END and kind in _SAYS_ENOUGH:
            raise error
        if step is Step.END and first:
            aside = [f"{worker} ({said.rstrip('.')})" for worker, said in self._suspects.aside.items()]
            raise _hopeless(self._suspects.in_a_row, error, aside, self.prepared.folder) from error
        if step is Step.AVOID:
            self._set_aside(worker, index, error)
        elif step is Step.EXCUSE:
            self._try_elsewhere([index])

    def _require_run(self) -> None:
        """Raise `TakenOver` if the driver finds it too. Else the worker that says so has lost the run folder."""
        try:
            self.publication.require()
        except TakenOver:
            raise
        except Exception:  # not known now; libraries of object stores have errors that are no OSError
            return

    def _set_aside(self, worker: str, index: int, error: BaseException) -> None:
        chunks = self._suspects.excused(worker)
        self.tries.subtract(chunks)
        self.left = self.executor.avoid(list(self._suspects.aside))
        self._try_elsewhere(chunks)
        what = "is replaced by a new process" if not self.executor_info.address else "gets no more chunks of this run"
        if len(chunks) > 1:
            failed = f"{len(chunks)} chunks in a row"
            rest = f"Its last error was {sentence(error).rstrip('.')}. Other workers try these chunks."
        else:  # the line before has its error
            failed, rest = f"chunk {index}", "Other workers try this chunk."
        self.standstill.hear(Note(f"{worker} failed {failed}, so it {what}. {rest}"))

    def _try_elsewhere(self, chunks: list[int]) -> None:
        for chunk in chunks:
            if self.failed.pop(chunk, None) is not None:
                self._again.append(chunk)

    def _treat_lost(self) -> None:
        """Find out why chunks killed their workers, one after the other, while nothing else runs."""
        lost, self._lost = self._lost, {}
        died_at = self.job.batch
        for index, error in lost.items():
            self._log(index, error)
            self.standstill.hear(
                Note(
                    f"Chunk {index} killed its workers. It is encoded alone, first with smaller batches, then in parts "
                    "to find the row."
                )
            )
            trial = Trial(self.executor, self.job, self.standstill.hear)
            self.standstill.drawn(index)
            self.standstill.hear(ChunkSent(index))
            outcome = trial.treat(self._chunk(index), error, died_at)
            self.standstill.ended(index)
            self.job = trial.job
            if isinstance(outcome, BaseException):
                if isinstance(outcome, WorkerLost):  # a row that was not found is not found again
                    self.tries[index] += self.prepared.workflow.run.retries
                self._fail(index, outcome, first=False)
                continue
            with closing(PublishQueue(self.publication)) as queue:
                queue.add(outcome)
                self._published(queue.rest(), first=False)

    def _log(self, chunk: int, error: BaseException) -> None:
        """Write the traceback into a file for debugging; the user gets one sentence."""
        hide_in_error(error)
        text = without_secret("".join(traceback.format_exception(error)))
        with suppress(StoreError, OSError):  # for example a full disk, which the run reports with its own error
            self.prepared.folder.write(f"{ERRORS}/chunk-{chunk:07d}.log", text.encode("utf-8", "replace"))


class _Open:
    """Iterates over open chunks, and tells an executor how many there are still."""

    def __init__(self, queue: ChunkQueue, todo: Iterable[int], count: int) -> None:
        self._queue, self._fresh, self._count = queue, iter(todo), count

    def __iter__(self) -> _Open:
        return self

    def __next__(self) -> Chunk:
        fresh = not self._queue._again
        if (chunk := self._queue._draw(self._fresh)) is None:
            raise StopIteration
        self._count -= fresh
        return chunk

    def __length_hint__(self) -> int:
        return max(0, self._count) + len(self._queue._again)


def _hopeless(count: int, error: BaseException, aside: list[str], folder: RunFolder) -> Daskt2iError:
    said = " ".join([str(error).rstrip(".") or "no message", *getattr(error, "__notes__", [])[:1]])
    before = f"Set aside before: {'; '.join(aside[:5])}. " if aside else ""
    return ExecutorError(
        f"{count} chunks failed in a row, so the run was stopped. The last error was {type(error).__name__}: {said}. "
        f"{before}Finished chunks are kept; encode again to continue. The tracebacks are in {folder.address(ERRORS)}."
    )
