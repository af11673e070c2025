"""The encode stage: run the open chunks of a plan on an executor, then make a manifest from the receipts.

Covers: finding finished and intact chunks, one fingerprint for each store, resolving the precision once, failures and
retries.
Does not cover: the plan (`prepare`), one chunk (`worker`), where chunks run (`executors`), what a terminal shows
(`display.encode_progress`).
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from time import perf_counter, sleep
from typing import Any

from daskt2i.encode.admission import Terms, open_to_workers
from daskt2i.encode.job import EncodeJob, Inspection, job_for, resolve_job, speed_settings
from daskt2i.encode.model_cache import inspect
from daskt2i.encode.prepare import EncodePlan, check_disk, preflight, refuse_other
from daskt2i.encode.read_ahead import inputs_digest
from daskt2i.encode.saved_workflow import without_secrets
from daskt2i.encode.summary import ERRORS, EncodeResult
from daskt2i.encode.worker import encode_chunk
from daskt2i.errors import (
    Daskt2iError,
    ExecutorError,
    FingerprintMismatch,
    Interrupted,
    Reason,
    StoreError,
    sentence,
)
from daskt2i.estimate.arithmetic import Work
from daskt2i.estimate.forecast import Finished, compare_forecast
from daskt2i.events import ChunkDone, ChunkFailed, Listener, Note, WorkersReady, ignore, stage_events
from daskt2i.protocols import Executor, ExecutorInfo
from daskt2i.redact import hide_in_error, without_secret
from daskt2i.retries import is_hopeless, pause
from daskt2i.store import lock
from daskt2i.store.layout import about_store, empty_prompt, store_arrays
from daskt2i.store.manifest import write_manifest
from daskt2i.store.ownership import claim
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import MANIFEST, WORKFLOW, RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Chunk, Receipt

_OF_FILES = {str(Reason.MISSING_FILE), str(Reason.UNREADABLE_IMAGE)}
"""Reasons to reject a row that end when its file is mended."""

CHECK_SECONDS = 5.0
"""How often a long check of finished chunks reports its progress."""


def encode(prepared: EncodePlan, executor: Executor, listener: Listener = ignore) -> EncodeResult:
    """Run the open chunks of a plan, and write the manifest from the receipts when all chunks are finished.

    Args:
        executor: not started yet; this function always closes it at the end.
        listener: gets every event, in this thread.

    Returns:
        The totals. They name the chunks that failed after all tries; the other chunks are finished.

    Raises:
        StoreError: the run folder is not one of daskt2i.
        StoreBusy: another encode holds the run folder.
        Interrupted: the user pressed Ctrl-C.
        Daskt2iError: an error that makes the remaining chunks pointless. Committed chunks stay.
    """
    claim(prepared.folder)
    with stage_events("encode", prepared.source_info.rows, listener), lock.hold(prepared.folder, "encode"):
        return _Run(prepared, executor, listener).go()


@dataclass(slots=True)
class _Run:
    """The state of one `encode`.

    `fingerprint` is the fingerprint of the store, once it is known. `device` is the device of the first worker.
    `settings` are the settings of the job that a forecast depends on. `result` holds the totals so far.
    """

    prepared: EncodePlan
    executor: Executor
    listener: Listener
    fingerprint: str = ""
    device: str = ""
    hosts: set[str] = field(default_factory=set)
    settings: Mapping[str, Any] = field(default_factory=dict)
    result: EncodeResult = field(init=False)

    def __post_init__(self) -> None:
        prepared = self.prepared
        self.result = EncodeResult(
            out=str(prepared.folder),
            store=without_secret(ZarrStore(prepared.folder).address),
            rows=prepared.source_info.rows,
            left_out=None if prepared.workflow.dataset.where is None else prepared.source_info.left_out,
        )

    def go(self) -> EncodeResult:
        prepared = self.prepared
        begun = perf_counter()
        try:
            self._look_again()
            prepared = self.prepared
            prepared.folder.sweep()  # removes partial files of killed workers
            if warning := check_disk(prepared):
                self.listener(Note(warning))
            if (
                prepared.stored is None
            ):  # a run that is stopped before its store exists is continued by its folder alone
                self._keep_settings()
            done = self._find_done()
            if not all(done) or self._shared_is_damaged():
                with closing(self.executor):
                    self._run_open(done)
            self._fold()
        except KeyboardInterrupt:
            count = Receipts(prepared.folder).count()
            raise Interrupted(
                f"Stopped. {count} of {len(prepared.grid)} chunks are finished in {prepared.folder}. "
                "Encode again to continue with the other chunks."
            ) from None
        self.result = replace(self.result, seconds=perf_counter() - begun)
        if self.result.done and not self.result.failed:
            self.result = replace(self.result, forecast=compare_forecast(prepared.folder, self._finished()))
        return self.result

    def _finished(self) -> Finished:
        """This run in the form that a forecast is compared with."""
        prepared, result = self.prepared, self.result
        info = prepared.source_info
        return Finished(
            content=prepared.content,
            work=Work(info.rows, prepared.grid.rows_per_chunk, info.captions),
            done=result.done,
            skipped=result.skipped,
            seconds=result.seconds,
            bytes=result.bytes,
            device=self.device,
            precision=result.precision,
            workers=result.workers,
            threads=result.threads,
            executor=type(self.executor).__name__,
            hosts=frozenset(self.hosts),
            settings=self.settings,
        )

    def _look_again(self) -> None:
        """Read the store again under the lock: another process may have encoded since the plan was made."""
        self.prepared = replace(self.prepared, stored=about_store(ZarrStore(self.prepared.folder)))
        if self.prepared.stored is not None:
            refuse_other(self.prepared, self.prepared.stored, self.prepared.identity(self.prepared.precision))

    def _shared_is_damaged(self) -> bool:
        problem = ZarrStore(self.prepared.folder).check_shared()
        if problem is not None:
            self._tell(f"{problem}. It is written again.")
        return problem is not None

    def _tell(self, text: str) -> None:
        self.listener(Note(text))

    def _run_open(self, done: bytearray) -> None:
        executor_info = self.executor.start()
        preflight(self.prepared, executor_info)
        self.result = result = replace(self.result, workers=executor_info.workers, threads=executor_info.threads)
        self.listener(WorkersReady(executor_info, result.skipped, result.accepted + sum(result.rejected.values())))
        with open_to_workers(self.prepared.folder, self.prepared.source, self.prepared.precision) as terms:
            job = self._open_store(executor_info, terms)
            self.result = replace(self.result, precision=job.runtime.precision)
            self._run_chunks(job, done)

    def _open_store(self, executor_info: ExecutorInfo, terms: Terms) -> EncodeJob:
        """Resolve the settings that only a worker knows. Then make the store, or check the existing one."""
        prepared, workflow = self.prepared, self.prepared.workflow
        job = replace(job_for(prepared, executor_info), terms=terms)
        found = self._inspect(job)
        if prepared.stored is not None:
            refuse_other(prepared, prepared.stored, prepared.identity(found.runtime.precision))
        job = resolve_job(job, prepared, found)
        self.fingerprint, self.device, self.settings = job.fingerprint, found.runtime.device, speed_settings(job)
        ZarrStore(prepared.folder).create(
            prepared.source_info.rows,
            workflow.dataset.rows_per_chunk,
            store_arrays(prepared.image_info, prepared.text_info, job.slots),
            self._attributes(prepared.identity(job.runtime.precision), job),
            empty_prompt(prepared.text_info, found.empty),
        )
        self._keep_settings()
        return job

    def _keep_settings(self) -> None:
        text = without_secrets(self.prepared.workflow).to_yaml()
        self.prepared.folder.write(WORKFLOW, text.encode())

    def _inspect(self, job: EncodeJob) -> Inspection:
        look = functools.partial(inspect, precision=self.prepared.precision)
        outcomes = [outcome for _, outcome in self.executor.run(look, [job])]
        if isinstance(outcomes[0], BaseException):
            raise outcomes[0]
        return outcomes[0]

    def _attributes(self, ident: Mapping[str, Any], job: EncodeJob) -> dict[str, Any]:
        """The attributes of the store. An existing store keeps its own: they may name the model by another folder."""
        prepared = self.prepared
        if prepared.stored is not None:
            return {"daskt2i": dict(prepared.stored)}
        return {
            "daskt2i": {
                "fingerprint": job.fingerprint,
                "identity": ident,
                "random_weights": prepared.random_weights,
                "image_encoder": dict(prepared.image_info.attributes),
                "text_encoder": dict(prepared.text_info.attributes),
            }
        }

    def _find_done(self) -> bytearray:
        """One byte for each chunk: 1 if its receipt and shards are intact. Others are reported and encoded again."""
        prepared = self.prepared
        if prepared.stored is None:
            return bytearray(len(prepared.grid))
        self.fingerprint = prepared.stored["fingerprint"]
        self.result = replace(self.result, precision=prepared.precision)
        run = prepared.workflow.run
        deep = run.verify_on_resume == "hash" or (run.verify_on_resume == "auto" and prepared.folder.is_local)
        store, receipts = ZarrStore(prepared.folder), Receipts(prepared.folder)
        done = bytearray(len(prepared.grid))

        def examine(receipt: Receipt) -> tuple[Receipt, str | None]:
            if receipt.fingerprint != self.fingerprint:
                return receipt, "its receipt belongs to another fingerprint"
            if receipt.chunk >= len(done) or prepared.grid[receipt.chunk].stop != receipt.stop:
                return receipt, "its receipt does not match the plan"
            if again := {r.reason for r in receipt.rejected}.intersection(run.retry_rejected):
                return receipt, f"run.retry_rejected asks for rows rejected as {', '.join(sorted(again))}"
            return receipt, store.check(receipt.shards, deep)

        def torn(name: str, why: str) -> None:
            self.listener(Note(f"{name} is ignored: {why}."))

        again: list[int] = []
        with ThreadPoolExecutor(4, thread_name_prefix="daskt2i-check") as pool:
            told = perf_counter()
            for receipt, problem in _bounded_map(pool, examine, receipts.read(torn), 16):
                if problem:
                    self._tell(f"Chunk {receipt.chunk} is encoded again: {problem}.")
                    again.append(receipt.chunk)
                    continue
                if self.result.skipped == 0:
                    self._compare_inputs(receipt)
                done[receipt.chunk] = 1
                self.result = self.result.with_chunk(receipt, now=False)
                if perf_counter() - told > CHECK_SECONDS:
                    told = perf_counter()
                    self._tell(f"{self.result.skipped:,} finished chunks checked; the store has {len(done):,} chunks.")
        for chunk in again:  # only now, because other images are refused before anything is removed
            receipts.delete(chunk)
        return done

    def _compare_inputs(self, receipt: Receipt) -> None:
        """Read the images of one finished chunk again: the folder may hold other pictures with the same names."""
        prepared = self.prepared
        rows = prepared.source.rows(receipt.start, receipt.stop)
        if inputs_digest(prepared.source, rows) != receipt.inputs and any(row.usable for row in rows):
            again = sorted({str(row.reason) for row in receipt.rejected} & _OF_FILES)
            listed = ", ".join(sorted({*again, *map(str, prepared.workflow.run.retry_rejected)}))
            raise FingerprintMismatch(
                f"The images of chunk {receipt.chunk} (rows {receipt.start} to {receipt.stop - 1}) are not the images "
                f"that the store in {prepared.folder} was made from. The store was not changed. Use the original "
                "images (images), or encode into another run folder (out)."
                + (f" If rejected images were mended since, set run.retry_rejected=[{listed}]." if again else "")
            )

    def _run_chunks(self, job: EncodeJob, done: bytearray) -> None:
        work = functools.partial(encode_chunk, job)
        todo: Iterable[int] = (i for i in range(len(done)) if not done[i])
        opened = len(done) - sum(done)
        for attempt in range(self.prepared.workflow.run.retries + 1):
            last = attempt == self.prepared.workflow.run.retries
            failed: dict[int, str] = {}
            in_a_row = 0
            with closing(_as_generator(self.executor.run(work, self._chunks(todo)))) as outcomes:
                for chunk, outcome in outcomes:
                    if not isinstance(outcome, BaseException):
                        in_a_row = 0
                        self.result = self.result.with_chunk(outcome, now=True)
                        self.hosts.add(outcome.worker.rpartition(":")[0])
                        for warning in outcome.warnings:
                            self.listener(Note(warning))
                        self.listener(ChunkDone(outcome))
                        continue
                    self._log(chunk, outcome)
                    if getattr(outcome, "ends_run", False):
                        raise outcome
                    failed[chunk.index] = sentence(outcome)
                    self.listener(ChunkFailed(chunk.index, outcome, last))
                    in_a_row += 1
                    if attempt == 0 and is_hopeless(in_a_row, self.result.workers, opened):
                        raise _hopeless(in_a_row, outcome, self.prepared.folder) from outcome
            if not failed:
                return
            todo = sorted(failed)
            if last:
                self.result = replace(self.result, failed=dict(sorted(failed.items())), tries=attempt + 1)
            else:
                sleep(pause(attempt))

    def _chunks(self, todo: Iterable[int]) -> Iterator[Chunk]:
        """Open chunks with their rows. The rows are read when the executor asks for the chunk."""
        for index in todo:
            chunk = self.prepared.grid[index]
            yield replace(chunk, rows=tuple(self.prepared.source.rows(chunk.start, chunk.stop)))

    def _log(self, chunk: Chunk, error: BaseException) -> None:
        """Write the traceback into a file for debugging; the user gets one sentence."""
        hide_in_error(error)
        text = without_secret("".join(traceback.format_exception(error)))
        with suppress(StoreError, OSError):  # for example a full disk, which the run reports with its own error
            self.prepared.folder.write(f"{ERRORS}/chunk-{chunk.index:07d}.log", text.encode("utf-8", "replace"))

    def _fold(self) -> None:
        prepared, result = self.prepared, self.result
        if result.failed:
            prepared.folder.delete(MANIFEST)
            return
        receipts = Receipts(prepared.folder).read_chunks(range(len(prepared.grid)))
        write_manifest(prepared.folder, prepared.source.rows, receipts, result.rows)
        total = result.accepted + sum(result.rejected.values())
        if total != result.rows:
            raise StoreError(
                f"The run has {result.rows} rows, but its receipts count {total}. The store in {prepared.folder} stays "
                "as it is. Verify it: that names the chunks that are wrong."
            )


def _as_generator(outcomes: Iterator[Any]) -> Any:
    """Make the result of `executor.run` closable: a third-party executor may return any kind of iterator."""
    return outcomes if hasattr(outcomes, "close") else (pair for pair in outcomes)


def _bounded_map(pool: ThreadPoolExecutor, function: Callable[[Any], Any], items: Iterable[Any], window: int) -> Any:
    """Like `pool.map`, but it takes items only when it needs them."""
    ahead: list[Any] = []
    for item in items:
        ahead.append(pool.submit(function, item))
        if len(ahead) >= window:
            yield ahead.pop(0).result()
    for future in ahead:
        yield future.result()


def _hopeless(count: int, error: BaseException, folder: RunFolder) -> Daskt2iError:
    said = " ".join([str(error).rstrip(".") or "no message", *getattr(error, "__notes__", [])[:1]])
    return ExecutorError(
        f"{count} chunks failed in a row, so the run was stopped. The last error was {type(error).__name__}: {said}. "
        f"Finished chunks are kept; encode again to continue. The tracebacks are in {folder.address(ERRORS)}."
    )
