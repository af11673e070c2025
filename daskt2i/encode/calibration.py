"""A calibration: encode some real rows with the real workers, and measure the time, before the run starts.

Covers: the choice of rows, size and number of chunks, what is measured, the temporary folder, which is removed at the
end.
Does not cover: the forecast for a run (`estimate`), the choice of workers (`session`).

Image sizes and caption lengths change along a data set. So rows are chosen by the golden ratio: any number of them is
spread evenly over the data set. First every worker loads its models and warms up on a few rows. From then on, while all
workers are busy, the steady rate is measured. One worker alone is faster than one of several that share memory and
caches, so the calibration uses as many workers as the run will.

If a whole chunk takes too long, smaller chunks are measured. The fixed cost of a chunk (gate, receipt, the time until
the next chunk) is kept apart from the cost of its rows.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from daskt2i.config.component import Component
from daskt2i.encode import gates
from daskt2i.encode.choices.rules import by_rule
from daskt2i.encode.chunks.steady_rate import FinishedChunk, stage_seconds, steady_rate
from daskt2i.encode.job import EncodeJob, Inspection, job_for, resolve_job, speed_settings
from daskt2i.encode.model_cache import inspect
from daskt2i.encode.prepare import EncodePlan, preflight
from daskt2i.encode.shapes.arrays import info_for
from daskt2i.encode.worker import encode_chunk
from daskt2i.errors import PlanError
from daskt2i.estimate.arithmetic import Calibration
from daskt2i.events import Activity, Listener, ignore
from daskt2i.facts.selection import SelectedSource
from daskt2i.machine.machine import peak_bytes, this_machine
from daskt2i.plan import array_bytes, spread_rows
from daskt2i.protocols import Executor, ExecutorInfo
from daskt2i.store.layout import empty_prompt, store_arrays, stored_parts
from daskt2i.store.manifest import write_manifest
from daskt2i.store.ownership import claim
from daskt2i.store.publishing.publication import Publication, begin
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.views import VIEWS
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Chunk, Receipt, Staged

SECONDS = 40.0
"""Default time for encoding, without the start. With it a calibration usually takes less than a minute."""

STEADY_SECONDS = 10.0
"""How long the steady rate is measured, if there is time. Shorter measurements are not reliable."""

CHUNKS = 3
"""Chunks of each worker at the steady rate, if there is time for so many."""

WARM_SECONDS = 1.0
"""Approximate duration of a warm-up chunk, which keeps a worker busy until all workers have loaded."""

PATIENCE = 300.0
"""Seconds to wait for the first chunk of the slowest worker; then the calibration continues without it."""

_STORE_CHUNKS = 1_000_000

Item = tuple[EncodeJob, Chunk]


def calibrate(
    prepared: EncodePlan,
    executor: Executor,
    *,
    shared: bool,
    rows: int | None = None,
    seconds: float = SECONDS,
    listener: Listener = ignore,
) -> Calibration:
    """Measure on an executor's workers, and remove all files afterwards.

    Args:
        prepared: the planned run. Chunks that it has already stored make no difference.
        executor: not started yet; this function closes it at the end.
        shared: whether the workers share this machine's cores.
        rows: number of rows to measure at the steady rate; by default as many as `seconds` allow.
        seconds: time for encoding.
        listener: gets what is being measured.

    Raises:
        PlanError: a worker does not have the memory that it needs, or no row was accepted.
        Daskt2iError: an error that an encode would raise on its first chunk.
    """
    claim(prepared.folder)
    place = RunFolder(f"{prepared.folder.root}/calibration-{uuid4().hex[:8]}", prepared.folder.storage_options)
    try:
        return _Run(prepared, place, executor, shared, rows, seconds, listener).go()
    finally:
        _remove(place)


def encode_item(item: Item) -> Staged:
    """On a worker: encode a chunk of one of the two stores, which differ only in rows per chunk."""
    return encode_chunk(*item)


@dataclass(frozen=True, slots=True)
class _Times:
    """Times of the driver: `phase` is the clock when chunks began, the others are seconds of a part of the run."""

    start: float
    begin: float
    phase: float
    end: float
    fold: float


class _Run:
    """The state of one calibration, in its own run folder."""

    def __init__(
        self,
        prepared: EncodePlan,
        place: RunFolder,
        executor: Executor,
        shared: bool,
        wanted: int | None,
        seconds: float,
        listener: Listener,
    ) -> None:
        self.asked, self.engine = prepared.precision, prepared.engine  # a store that is there has decided
        self.prepared = replace(prepared, folder=place, stored=None)
        self.executor, self.shared, self.wanted, self.seconds = executor, shared, wanted, seconds
        self.listener = listener
        self.seen: list[FinishedChunk] = []
        self.made: dict[int, list[Chunk]] = {}
        self.publications: dict[int, Publication] = {}
        self.steady: set[tuple[int, int]] = set()
        self.drawn = 0
        self.chunk_rows = 0
        self.warm_rows: int | None = None
        self.together = False

    def _tell(self, text: str) -> None:
        self.listener(Activity(f"calibrating: {text}"))

    def go(self) -> Calibration:
        begun = time.perf_counter()
        with contextlib.closing(self.executor):
            executor_info = self.executor.start()
            started = time.perf_counter()
            self._tell(
                f"{executor_info.workers} worker(s) started in {started - begun:.1f} s; the first one loads its models"
            )
            preflight(self.prepared, executor_info)
            job, found = self._settle(executor_info)
            phase = time.perf_counter()
            self._tell(f"models loaded in {phase - started:.1f} s ({found.runtime.device}, {found.runtime.precision})")
            self._encode(job, found, executor_info, phase)
            ended = time.perf_counter()
        closing = time.perf_counter() - ended
        once, each = self._fold()
        measured = _Times(started - begun, phase - started, phase, closing + once, each)
        return self._summed(job, found, executor_info, measured)

    def _settle(self, executor_info: ExecutorInfo) -> tuple[EncodeJob, Inspection]:
        """Do what an encode does before its first chunk, with a source that gives rows from anywhere."""
        plain = self.prepared.workflow.dataset.source.model_dump(by_alias=True)
        by_origin = {"class": f"{SelectedSource.__module__}.{SelectedSource.__name__}", "source": plain}
        job = replace(job_for(self.prepared, executor_info), source=Component.model_validate(by_origin))
        look = functools.partial(inspect, precision=self.asked, engine=self.engine)
        found = next(outcome for _, outcome in list(self.executor.run(look, [job])))
        if isinstance(found, BaseException):
            raise found
        job = resolve_job(job, self.prepared, found)
        self._store(job, found, 1)
        return job, found

    def _store(self, job: EncodeJob, found: Inspection, rows: int) -> EncodeJob:
        """The job for the store with `rows` rows per chunk. Makes the store if it is not there."""
        place = self.prepared.folder
        folder = RunFolder(f"{place.root}/{rows}", place.storage_options)
        shapes = self.prepared.shapes.as_one_bucket(_STORE_CHUNKS, _STORE_CHUNKS * rows)
        job = replace(job, views=shapes.views, upscale=True)
        if rows not in self.made:
            self.made[rows] = []
            text = self.prepared.text_info
            views = [view.to_json() for view in job.views] if job.shapes.named else []
            ZarrStore(folder).create(
                _STORE_CHUNKS * rows,
                rows,
                store_arrays(info_for(self.prepared.square_info, job.shapes, job.views), text, job.slots, job.store),
                {"daskt2i": {"fingerprint": job.fingerprint, "calibration": True, **({VIEWS: views} if views else {})}},
                empty_prompt(text, found.empty),
            )
            self.publications[rows] = begin(folder)
        return replace(job, folder=folder, run=self.publications[rows].run)

    def _item(self, job: EncodeJob, found: Inspection, rows: int) -> Item:
        """The next chunk of `rows` rows, spread over the data set."""
        job = self._store(job, found, rows)
        start = len(self.made[rows]) * rows
        source = self.prepared.source
        places = spread_rows(rows, self.prepared.source_info.rows, self.drawn)
        self.drawn += rows
        picked = []
        grid = self.prepared.grid
        for number, place in enumerate(places, start):
            index = grid.row(place)
            row = source.rows(index, index + 1)[0]
            picked.append(replace(row, index=number, origin=row.index if row.origin is None else row.origin))
        chunk = Chunk(len(self.made[rows]), start, start + rows, tuple(picked))
        self.made[rows].append(chunk)
        return job, chunk

    def _items(self, job: EncodeJob, found: Inspection, executor_info: ExecutorInfo, phase: float) -> Iterator[Item]:
        """Warm-up chunks until all workers are busy, then the chunks that count."""
        while not self.together and time.perf_counter() - phase < PATIENCE:
            yield self._item(job, found, self._warm_rows())
        rows, count = self._size(job, executor_info, phase)
        self.chunk_rows = rows
        self._tell(f"all workers busy after {time.perf_counter() - phase:.1f} s; measuring chunks of {rows} rows")
        until = time.perf_counter() + (STEADY_SECONDS if self.wanted is None else 0.0)
        most = max(count, len(self.prepared.grid))
        # The time of a row was guessed from the first rows, so the clock decides when to stop.
        while len(self.steady) < count or (len(self.steady) < most and time.perf_counter() < until):
            item = self._item(job, found, rows)
            self.steady.add((rows, item[1].index))
            yield item

    def _row_seconds(self) -> float:
        """Approximate time of a row on a worker, from the finished chunks; 0 if there are none."""
        told = [seen.took("load", "gate", "write") / seen.rows for seen in self.seen]
        return statistics.median(told[-8:]) if told else 0.0

    def _warm_rows(self) -> int:
        # There are two chunk sizes, and each has its own store.
        most = self.prepared.grid.rows_per_chunk
        if self.warm_rows is None and self.seen:
            self.warm_rows = max(1, min(most, int(WARM_SECONDS / max(1e-6, self._row_seconds()))))
        return self.warm_rows or 1

    def _size(self, job: EncodeJob, executor_info: ExecutorInfo, phase: float) -> tuple[int, int]:
        """Number of rows in a chunk that counts, and the number of such chunks."""
        most, workers = self.prepared.grid.rows_per_chunk, executor_info.workers
        if self.wanted is not None:
            rows = max(1, min(most, -(-self.wanted // (2 * workers))))
            return rows, max(workers, -(-self.wanted // rows))
        row = max(1e-6, self._row_seconds())
        left = max(self.seconds / 3, self.seconds - (time.perf_counter() - phase))
        # A chunk with fewer rows than a batch would measure a smaller batch than the run uses.
        rows = max(min(most, job.batch), min(most, int(left / (2 * row))))
        return rows, workers * max(1, min(CHUNKS, int(left / (row * rows))))

    def _encode(self, job: EncodeJob, found: Inspection, executor_info: ExecutorInfo, phase: float) -> None:
        names: set[str] = set()
        outcomes: Any = self.executor.run(encode_item, self._items(job, found, executor_info, phase))
        # Close the iterator if it can be closed: that stops chunks in flight.
        with contextlib.ExitStack() as stack:
            if hasattr(outcomes, "close"):
                stack.callback(outcomes.close)
            for (job, chunk), outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
                steady = (len(chunk), chunk.index) in self.steady
                self.seen.append(FinishedChunk(time.perf_counter(), steady, outcome.receipt))
                next(one for one in self.publications.values() if one.run == job.run).publish(outcome)
                names.add(outcome.receipt.worker)
                self.together = len(names) >= executor_info.workers

    def _folded(self) -> int:
        return sum(map(len, self.made[self.chunk_rows]))

    def _fold(self) -> tuple[float, float]:
        """Seconds to write a manifest: a fixed part, and a part for each row."""
        place = self.prepared.folder
        folder = RunFolder(f"{place.root}/{self.chunk_rows}", place.storage_options)
        chunks = self.made[self.chunk_rows]
        took = []
        for _ in range(2):
            begun = time.perf_counter()
            receipts = Receipts(folder).read_chunks(range(len(chunks)))
            write_manifest(folder, lambda start, stop: chunks[start // self.chunk_rows].rows, receipts)
            took.append(time.perf_counter() - begun)
        return max(0.0, took[0] - took[1]), took[1] / self._folded()

    def _summed(self, job: EncodeJob, found: Inspection, executor_info: ExecutorInfo, times: _Times) -> Calibration:
        lanes: dict[str, list[FinishedChunk]] = {}
        for seen in sorted(self.seen, key=lambda seen: seen.at):
            lanes.setdefault(seen.receipt.worker, []).append(seen)
        count, rows, row_seconds, chunk_seconds = steady_rate(lanes)
        took, grid = [seen.receipt.seconds.get("gate", 0.0) for seen in self.seen], self.prepared.grid
        chunk_seconds += gates.mean_seconds(took, len(grid), grid.rows_per_chunk, job.gate_rows)
        first = {worker: lane[0] for worker, lane in lanes.items()}
        ready = [seen.at - seen.took("load") - times.phase for worker, seen in first.items() if worker != found.worker]
        warm = [seen.took("load", "gate") - seen.rows * row_seconds for seen in first.values()]
        counted = [seen.receipt for seen in self.seen if seen.steady]
        accepted, captions = sum(r.accepted for r in counted), sum(r.captions for r in counted)
        if not accepted:
            raise PlanError(
                f"None of {sum(r.stop - r.start for r in counted)} rows from the whole data set was accepted, so there "
                "is no estimate. Nothing was kept. Encode the data set: the manifest gives each row's reason."
            )
        all_rows = sum(r.stop - r.start for r in counted)
        latents, text, rest = self._bytes(counted)
        row_bytes = array_bytes(self.prepared.chunk_info, self.prepared.text_info, job.slots)
        more = (self.prepared.grid.rows_per_chunk - self.chunk_rows) * row_bytes
        return Calibration(
            device=found.runtime.device,
            precision=found.runtime.precision,
            workers=executor_info.workers,
            threads=executor_info.threads,
            cores=this_machine().cores if self.shared else 0,
            executor=type(self.executor).__name__,
            hosts=tuple(sorted({seen.receipt.worker.rpartition(":")[0] for seen in self.seen})),
            settings=speed_settings(job),
            rows=rows,
            chunks=count,
            chunk_rows=self.chunk_rows,
            accepted=accepted / all_rows,
            start_seconds=times.start,
            begin_seconds=times.begin,
            ready_seconds=max(0.0, statistics.fmean(ready)) if ready else None,
            warm_seconds=max(0.0, statistics.fmean(warm)),
            row_seconds=row_seconds,
            chunk_seconds=chunk_seconds,
            end_seconds=times.end,
            fold_seconds=times.fold,
            latents_bytes=latents / all_rows,
            text_bytes=text / max(1, captions),
            rest_bytes=rest / all_rows,
            worker_bytes=max(seen.receipt.peak_bytes for seen in self.seen) + max(0, more),
            driver_bytes=peak_bytes(),
            limit_bytes=executor_info.memory_limit,
            stages=stage_seconds(counted),
            choices=found.choices
            + by_rule(self.prepared.workflow.run, job.batch, executor_info.threads, found.runtime.device),
        )

    def _bytes(self, receipts: Sequence[Receipt]) -> tuple[int, int, int]:
        """Bytes on disk: arrays of the image encoder, of the text encoder, and the other arrays."""
        plan = self.prepared
        shapes = plan.shapes.as_one_bucket(1, 1)
        image_info = info_for(plan.square_info, shapes, shapes.views)
        parts = stored_parts(image_info, plan.text_info, 1, plan.workflow.dataset.store)
        image, text = ({a.name for a in part} for part in parts)
        sizes = [0, 0, 0]
        for shard in (shard for receipt in receipts for shard in receipt.shards):
            name = shard.key.partition("/")[0]
            sizes[0 if name in image else 1 if name in text else 2] += shard.size
        return sizes[0], sizes[1], sizes[2]


def _remove(place: RunFolder) -> None:
    """Remove the folder with all its files."""
    if place.is_local:
        shutil.rmtree(place.root, ignore_errors=True)
        return
    with contextlib.suppress(Exception):  # files that stay take little space, and no run reads them
        for name in place.list():
            place.delete(name)
