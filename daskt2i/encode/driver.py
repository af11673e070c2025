"""The encode stage: run the open chunks of a plan on an executor, then make a manifest from the receipts.

Covers: one fingerprint for each store, resolving the precision once, the totals, the manifest.
Does not cover: tries and failures (`chunks`), the plan (`prepare`), finding finished chunks (`resume`), one chunk
(`worker`), where chunks run (`executors`), what a terminal shows (`display.encode_progress`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from daskt2i.encode.choices.across_workers import agreed_precision
from daskt2i.encode.choices.on_driver import lacking
from daskt2i.encode.chunks.admission import open_to_workers
from daskt2i.encode.chunks.chunk_queue import ChunkQueue
from daskt2i.encode.chunks.standstill import Standstill
from daskt2i.encode.job import EncodeJob, Inspection, job_for, resolve_job, speed_settings
from daskt2i.encode.model_cache import inspect
from daskt2i.encode.prepare import EncodePlan, check_disk, preflight, refuse_other
from daskt2i.encode.resume import find_done
from daskt2i.encode.saved_workflow import without_secrets
from daskt2i.encode.summary import EncodeResult
from daskt2i.encode.verify import problem_of_shared
from daskt2i.errors import Interrupted, StoreError
from daskt2i.estimate.arithmetic import Work
from daskt2i.estimate.forecast import Finished, compare_forecast
from daskt2i.events import ChunksFound, Listener, ModelReady, Note, WorkersReady, ignore, stage_events
from daskt2i.facts.bucketed import buckets_of
from daskt2i.formatting import many
from daskt2i.hosts.check import ENCODE, check_workers
from daskt2i.hosts.model_files import encoder_infos, offer_within
from daskt2i.hosts.sight import Needs
from daskt2i.protocols import Executor, ExecutorInfo
from daskt2i.redact import without_secret
from daskt2i.sources.index.shelf import remove_unused
from daskt2i.store.forms.form import described
from daskt2i.store.layout import about_store, empty_prompt, store_arrays, store_forms
from daskt2i.store.manifest import write_manifest
from daskt2i.store.ownership import claim
from daskt2i.store.publishing import lock
from daskt2i.store.publishing.publication import Publication, publishing
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import MANIFEST, WORKFLOW
from daskt2i.store.views import VIEWS
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Receipt


def encode(prepared: EncodePlan, executor: Executor, listener: Listener = ignore) -> EncodeResult:
    """Run the open chunks of a plan, and write the manifest from the receipts when all chunks are finished.

    Args:
        executor: not started yet; this function always closes it at the end.
        listener: gets every event, one at a time: in this thread, but `Waiting` in another.

    Returns:
        The totals. They name the chunks that failed after all tries; the other chunks are finished.

    Raises:
        StoreError: the run folder is not one of daskt2i.
        StoreBusy: another encode holds the run folder.
        TakenOver: another encode took it over, because this one was thought dead.
        Interrupted: the user pressed Ctrl-C.
        Daskt2iError: an error that makes the remaining chunks pointless. Committed chunks stay.
    """
    claim(prepared.folder)
    with (
        stage_events("encode", prepared.source_info.rows, listener),
        lock.hold(prepared.folder, "encode", lambda text: listener(Note(text))) as alive,
        publishing(prepared.folder, alive) as publication,
    ):
        return _Run(replace(prepared, folder=publication.folder), executor, listener, publication).go()


@dataclass(slots=True)
class _Run:
    """The state of one `encode`.

    `fingerprint` is the fingerprint of the store, once it is known. `device` is the device of the first worker.
    `processes` are the workers that encoded a chunk, `host:pid`. `settings` are the settings of the job that a forecast
    depends on. `result` holds the totals so far. Whatever is written goes through `publication`; its folder is the
    folder of `prepared`. `valid` are the chunks that are encoded again although their receipts are valid.
    """

    prepared: EncodePlan
    executor: Executor
    listener: Listener
    publication: Publication
    fingerprint: str = ""
    device: str = ""
    processes: set[str] = field(default_factory=set)
    settings: Mapping[str, Any] = field(default_factory=dict)
    valid: set[int] = field(default_factory=set)
    result: EncodeResult = field(init=False)

    def __post_init__(self) -> None:
        prepared = self.prepared
        self.result = EncodeResult(
            out=str(prepared.folder),
            store=without_secret(ZarrStore(prepared.folder).address),
            rows=prepared.source_info.rows,
            left_out=None if prepared.workflow.dataset.where is None else prepared.source_info.left_out,
            min_accepted=prepared.workflow.run.min_accepted,
            buckets=buckets_of(prepared.source),
        )

    def go(self) -> EncodeResult:
        prepared = self.prepared
        begun = perf_counter()
        try:
            self._look_again()
            prepared = self.prepared
            prepared.folder.sweep()  # removes partial files of killed workers
            remove_unused(prepared.folder, prepared.folder.delete)
            for text in (*prepared.source_info.notes, *filter(None, [check_disk(prepared)])):
                self.listener(Note(text))
            if prepared.stored is None:  # the folder alone continues a run that is stopped before its store exists
                self._keep_settings()
            done = self._find_done()
            self._tell_found(done)
            if not all(done) or self._shared_is_damaged():
                with closing(self.executor):
                    self._run_open(done)
            self._fold()
        except KeyboardInterrupt:
            count = Receipts(prepared.folder).count()
            raise Interrupted(
                f"Stopped. {count} of {many(len(prepared.grid), 'chunk')} {'is' if count == 1 else 'are'} finished "
                f"in {prepared.folder}. "
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
            hosts=frozenset(one.rpartition(":")[0] for one in self.processes),
            settings=self.settings,
        )

    def _look_again(self) -> None:
        """Read the store again under the lock: another process may have encoded since the plan was made."""
        self.prepared = replace(self.prepared, stored=about_store(ZarrStore(self.prepared.folder)))
        if self.prepared.stored is not None:
            refuse_other(self.prepared, self.prepared.stored, self.prepared.identity(self.prepared.precision))

    def _shared_is_damaged(self) -> bool:
        problem = problem_of_shared(ZarrStore(self.prepared.folder))
        if problem is not None:
            self._tell(f"{problem}. It is written again.")
        return problem is not None

    def _tell_found(self, done: bytearray) -> None:
        grid, result = self.prepared.grid, self.result
        totals = (result.accepted, result.rejected, result.captions, result.truncated, result.bytes)
        self.listener(ChunksFound(result.rows, len(grid), grid.rows_per_chunk, bytes(done), *totals))

    def _tell(self, text: str) -> None:
        self.listener(Note(text))

    def _run_open(self, done: bytearray) -> None:
        executor_info = self.executor.start()
        preflight(self.prepared, executor_info)
        result = self.result
        self.listener(WorkersReady(executor_info, result.skipped, result.accepted + sum(result.rejected.values())))
        prepared, publication = self.prepared, self.publication
        with open_to_workers(prepared.folder, prepared.source, prepared.precision) as terms:
            job = replace(job_for(prepared, executor_info), folder=publication.plain, run=publication.run, terms=terms)
            executor_info = self._require_workers(job, executor_info) or executor_info
            self.result = replace(
                self.result,
                workers=executor_info.workers,
                threads=executor_info.threads,
                most_threads=executor_info.most_threads,
            )
            job = self._open_store(job)
            self.result = replace(self.result, precision=job.runtime.precision)
            self._run_chunks(job, executor_info, done)

    def _open_store(self, job: EncodeJob) -> EncodeJob:
        """Resolve the settings that only a worker knows. Then make the store, or check the existing one."""
        prepared, workflow = self.prepared, self.prepared.workflow
        asked, note = agreed_precision(self.executor, prepared.precision, job.runtime.device)
        if note:
            self._tell(note)
        job = replace(job, terms=job.terms and replace(job.terms, asked=asked))
        found = self._inspect(job, asked)
        if prepared.stored is not None:
            refuse_other(prepared, prepared.stored, prepared.identity(found.runtime.precision, found.runtime.engine))
        for note in (*found.notes, *(lacking(found.choices, found.worker) if prepared.engine == "auto" else ())):
            self._tell(note)
        job = resolve_job(job, prepared, found)
        job = replace(job, terms=job.terms and job.terms.with_packages((job.runtime.engine,)))
        self.fingerprint, self.device, self.settings = job.fingerprint, found.runtime.device, speed_settings(job)
        ZarrStore(prepared.folder).create(
            prepared.grid.rows,
            workflow.dataset.rows_per_chunk,
            store_arrays(prepared.image_info, prepared.text_info, job.slots, job.store),
            self._attributes(prepared.identity(job.runtime.precision, job.runtime.engine), job),
            empty_prompt(prepared.text_info, found.empty),
        )
        self._keep_settings()
        self.listener(ModelReady(replace(job.runtime, device=self.device), job.batch, job.min_psnr))
        return job

    def _require_workers(self, job: EncodeJob, executor_info: ExecutorInfo) -> ExecutorInfo | None:
        """Before the first chunk, all workers must see what the run needs; models are sent to those that lack them.

        Returns:
            the workers that are left, if some are left out; else None.
        """
        assert job.terms is not None
        run, terms, side = self.prepared.workflow.run, job.terms, job.image.side
        needs = Needs(
            job.folder,
            terms.nonce,
            source=job.source,
            row=terms.row,
            image=terms.image,
            encoders=job.encoders,
            resolution=side,
            weights=job.weights,
        )
        send = functools.partial(
            offer_within, run.send_bytes(), encoder_infos(job.encoders, side), self.prepared.folder, self.listener
        )
        workers, share = executor_info.workers, run.min_fit_workers
        return check_workers(self.executor, needs, workers, share, self.listener, ENCODE, send).left

    def _keep_settings(self) -> None:
        text = without_secrets(self.prepared.workflow).to_yaml()
        self.prepared.folder.write(WORKFLOW, text.encode())

    def _inspect(self, job: EncodeJob, precision: str) -> Inspection:
        look = functools.partial(inspect, precision=precision, engine=self.prepared.engine)
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
                **({VIEWS: [view.to_json() for view in prepared.shapes.views]} if prepared.shapes.named else {}),
                **described(store_forms(prepared.image_info, prepared.text_info, job.slots, job.store)),
            }
        }

    def _find_done(self) -> bytearray:
        """One byte for each chunk: 1 if it is finished and intact."""
        prepared = self.prepared
        if prepared.stored is None:
            return bytearray(len(prepared.grid))
        self.fingerprint = prepared.stored["fingerprint"]
        self.result = replace(self.result, precision=prepared.precision)
        done, self.valid, self.result = find_done(prepared, self.fingerprint, self.result, self.listener)
        return done

    def _run_chunks(self, job: EncodeJob, executor_info: ExecutorInfo, done: bytearray) -> None:
        with Standstill(self.publication.plain, self.executor, self.listener) as standstill:
            queue = ChunkQueue(
                self.prepared, self.executor, executor_info, self.publication, standstill, job, self._finished_chunk
            )
            queue.run((i for i in range(len(done)) if not done[i]), len(done) - sum(done))
        if queue.failed:
            self.result = replace(self.result, failed=dict(sorted(queue.failed.items())), tries=queue.most_tries)

    def _finished_chunk(self, receipt: Receipt) -> None:
        self.processes.add(receipt.worker)
        self.result = replace(self.result.with_chunk(receipt, now=True), processes=len(self.processes))

    def _fold(self) -> None:
        prepared, result, receipts = self.prepared, self.result, Receipts(self.prepared.folder)
        self.publication.require()
        # A chunk that was to be encoded again, and failed, may have its former receipt.
        if result.failed.keys() - self.valid or len(list(receipts.read_chunks(result.failed))) < len(result.failed):
            prepared.folder.delete(MANIFEST)
            return
        grid = prepared.grid
        write_manifest(prepared.folder, prepared.source.rows, receipts.read_chunks(range(len(grid))), result.rows, grid)
        if result.failed:
            return
        total = result.accepted + sum(result.rejected.values())
        if total != result.rows:
            raise StoreError(
                f"The run has {many(result.rows, 'row')}, but its receipts count {total}. The store in "
                f"{prepared.folder} stays "
                "as it is. Verify it: that names the chunks that are wrong."
            )
