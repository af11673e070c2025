"""A calibration: real rows of a run through the real worker function, on the workers that will run, before they do.

Covers: which rows, chunks of which size and how many, what is measured where, the folder that they are written to and
that is removed afterwards.
Does not cover: what follows for a run (`estimate`), which workers (`session`).

Rows come from the whole data set by the golden ratio, so that any number of them is spread evenly: image sizes and
caption lengths change along a data set. First every worker loads and warms up on a few rows; what it encodes from then
on, while all others are at work too, is the steady rate. One worker alone is faster than one of several that share
memory and caches, so as many are measured as will run.

Where a whole chunk would take too long, smaller ones are measured, and what a chunk costs whatever its rows (gate,
receipt, the way to the next one) is told apart from what its rows cost.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from daskt2i.config.component import Component
from daskt2i.encode.job import EncodeJob, Inspection, job_for, resolve_job, speed_settings
from daskt2i.encode.model_cache import inspect
from daskt2i.encode.prepare import EncodePlan, preflight
from daskt2i.encode.worker import encode_chunk, peak_bytes
from daskt2i.errors import PlanError
from daskt2i.estimate.arithmetic import Calibration
from daskt2i.events import Activity, Listener, ignore
from daskt2i.facts.selection import SelectedSource
from daskt2i.machine.machine import this_machine
from daskt2i.plan import array_bytes, spread_rows
from daskt2i.protocols import Executor, ExecutorInfo
from daskt2i.store.layout import empty_prompt, store_arrays
from daskt2i.store.manifest import write_manifest
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Chunk, Receipt

SECONDS = 40.0
"""What encoding takes beside the start, if nothing else is asked for: less than a minute in all, as a rule."""

STEADY_SECONDS = 10.0
"""How long the steady rate is measured, where that leaves time; short measurements are those of something else."""

CHUNKS = 3
"""Chunks of each worker at the steady rate, where there is time for so many."""

WARM_SECONDS = 1.0
"""About what a chunk takes that only keeps a worker busy until the last one has loaded."""

PATIENCE = 300.0
"""Seconds until the last worker must have done its first chunk; then it goes on without it."""

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
    """Measure on an executor's workers. Nothing of it stays.

    Args:
        prepared: the run that will be; what it has stored already does not matter.
        executor: not started yet; closed at the end.
        shared: whether the workers share this machine's cores.
        rows: to be measured at the steady rate; by default as many as `seconds` allow.
        seconds: for encoding.
        listener: told what is being measured.

    Raises:
        PlanError: a worker has not the memory that it needs, or no row was accepted.
        Daskt2iError: whatever an encode would raise on its first chunk.
    """
    place = RunFolder(f"{prepared.folder.root}/calibration-{uuid4().hex[:8]}", prepared.folder.storage_options)
    try:
        return _Run(prepared, place, executor, shared, rows, seconds, listener).go()
    finally:
        _remove(place)


def encode_item(item: Item) -> Receipt:
    """On a worker: the chunk of one of two stores, which differ in rows per chunk alone."""
    return encode_chunk(*item)


@dataclass(frozen=True, slots=True)
class _Seen:
    """One chunk that came back: when, whether it counts for the steady rate, and its receipt."""

    at: float
    steady: bool
    receipt: Receipt

    @property
    def rows(self) -> int:
        return self.receipt.stop - self.receipt.start

    def took(self, *without: str) -> float:
        """Seconds on the worker, without some stages."""
        seconds = self.receipt.seconds
        return seconds["total"] - sum(seconds.get(stage, 0.0) for stage in without)


@dataclass(frozen=True, slots=True)
class _Times:
    """What the driver's clock said: seconds of starting and of beginning; when chunks began; seconds of the end."""

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
        self.asked = prepared.precision
        self.prepared = replace(prepared, folder=place, stored=None)
        self.executor, self.shared, self.wanted, self.seconds = executor, shared, wanted, seconds
        self.listener = listener
        self.seen: list[_Seen] = []
        self.made: dict[int, list[Chunk]] = {}
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
            self._tell(f"{executor_info.workers} worker(s) started in {started - begun:.1f} s; the first one loads")
            preflight(self.prepared, executor_info)
            job, found = self._settle(executor_info)
            phase = time.perf_counter()
            self._tell(f"loaded in {phase - started:.1f} s ({found.runtime.device}, {found.runtime.precision})")
            self._encode(job, found, executor_info, phase)
            ended = time.perf_counter()
        closing = time.perf_counter() - ended
        once, each = self._fold()
        measured = _Times(started - begun, phase - started, phase, closing + once, each)
        return self._summed(job, found, executor_info, measured)

    def _settle(self, executor_info: ExecutorInfo) -> tuple[EncodeJob, Inspection]:
        """What an encode does before its first chunk, for rows from anywhere."""
        plain = self.prepared.workflow.dataset.source.model_dump(by_alias=True)
        by_origin = {"class": f"{SelectedSource.__module__}.{SelectedSource.__name__}", "source": plain}
        job = replace(job_for(self.prepared, executor_info), source=Component.model_validate(by_origin))
        look = functools.partial(inspect, precision=self.asked)
        found = next(outcome for _, outcome in list(self.executor.run(look, [job])))
        if isinstance(found, BaseException):
            raise found
        job = resolve_job(job, self.prepared, found)
        self._store(job, found, 1)
        return job, found

    def _store(self, job: EncodeJob, found: Inspection, rows: int) -> EncodeJob:
        """The job of the store with so many rows per chunk, which is made if it is not there."""
        place = self.prepared.folder
        folder = RunFolder(f"{place.root}/{rows}", place.storage_options)
        if rows not in self.made:
            self.made[rows] = []
            text = self.prepared.text_info
            ZarrStore(folder).create(
                _STORE_CHUNKS * rows,
                rows,
                store_arrays(self.prepared.image_info, text, job.slots),
                {"daskt2i": {"fingerprint": job.fingerprint, "calibration": True}},
                empty_prompt(text, found.empty),
            )
        return replace(job, folder=folder)

    def _item(self, job: EncodeJob, found: Inspection, rows: int) -> Item:
        """The next chunk of so many rows, from all over the data set."""
        job = self._store(job, found, rows)
        start = len(self.made[rows]) * rows
        source = self.prepared.source
        places = spread_rows(rows, self.prepared.source_info.rows, self.drawn)
        self.drawn += rows
        picked = []
        for number, place in enumerate(places, start):
            row = source.rows(place, place + 1)[0]
            picked.append(replace(row, index=number, origin=row.index if row.origin is None else row.origin))
        chunk = Chunk(len(self.made[rows]), start, start + rows, tuple(picked))
        self.made[rows].append(chunk)
        return job, chunk

    def _items(self, job: EncodeJob, found: Inspection, executor_info: ExecutorInfo, phase: float) -> Iterator[Item]:
        """Warm chunks until all workers are at work, then those that count."""
        while not self.together and time.perf_counter() - phase < PATIENCE:
            yield self._item(job, found, self._warm_rows())
        rows, count = self._size(job, executor_info, phase)
        self.chunk_rows = rows
        self._tell(f"all at work after {time.perf_counter() - phase:.1f} s; measuring chunks of {rows} rows")
        until = time.perf_counter() + (STEADY_SECONDS if self.wanted is None else 0.0)
        most = max(count, len(self.prepared.grid))
        # What a row takes was a guess from the first ones, so the clock has the last word.
        while len(self.steady) < count or (len(self.steady) < most and time.perf_counter() < until):
            item = self._item(job, found, rows)
            self.steady.add((rows, item[1].index))
            yield item

    def _row_seconds(self) -> float:
        """About what a row takes on a worker, from what has come back; 0 before that."""
        told = [seen.took("load", "gate", "write") / seen.rows for seen in self.seen]
        return statistics.median(told[-8:]) if told else 0.0

    def _warm_rows(self) -> int:
        # Two sizes: each has a store of its own.
        most = self.prepared.grid.rows_per_chunk
        if self.warm_rows is None and self.seen:
            self.warm_rows = max(1, min(most, int(WARM_SECONDS / max(1e-6, self._row_seconds()))))
        return self.warm_rows or 1

    def _size(self, job: EncodeJob, executor_info: ExecutorInfo, phase: float) -> tuple[int, int]:
        """Rows of a chunk that counts, and how many chunks in all."""
        most, workers = self.prepared.grid.rows_per_chunk, executor_info.workers
        if self.wanted is not None:
            rows = max(1, min(most, -(-self.wanted // (2 * workers))))
            return rows, max(workers, -(-self.wanted // rows))
        row = max(1e-6, self._row_seconds())
        left = max(self.seconds / 3, self.seconds - (time.perf_counter() - phase))
        # Fewer rows than a batch would measure another batch than the run's.
        rows = max(min(most, job.batch), min(most, int(left / (2 * row))))
        return rows, workers * max(1, min(CHUNKS, int(left / (row * rows))))

    def _encode(self, job: EncodeJob, found: Inspection, executor_info: ExecutorInfo, phase: float) -> None:
        names: set[str] = set()
        outcomes: Any = self.executor.run(encode_item, self._items(job, found, executor_info, phase))
        # Not every iterator can be closed; one that can stops what is in flight.
        with contextlib.ExitStack() as stack:
            if hasattr(outcomes, "close"):
                stack.callback(outcomes.close)
            for (_, chunk), outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
                self.seen.append(_Seen(time.perf_counter(), (len(chunk), chunk.index) in self.steady, outcome))
                names.add(outcome.worker)
                self.together = len(names) >= executor_info.workers

    def _folded(self) -> int:
        return sum(map(len, self.made[self.chunk_rows]))

    def _fold(self) -> tuple[float, float]:
        """Seconds of a manifest: once, and for each row."""
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
        lanes: dict[str, list[_Seen]] = {}
        for seen in sorted(self.seen, key=lambda seen: seen.at):
            lanes.setdefault(seen.receipt.worker, []).append(seen)
        count, rows, row_seconds, chunk_seconds = _steady(lanes)
        first = {worker: lane[0] for worker, lane in lanes.items()}
        ready = [seen.at - seen.took("load") - times.phase for worker, seen in first.items() if worker != found.worker]
        warm = [seen.took("load", "gate") - seen.rows * row_seconds for seen in first.values()]
        counted = [seen.receipt for seen in self.seen if seen.steady]
        accepted, captions = sum(r.accepted for r in counted), sum(r.captions for r in counted)
        if not accepted:
            raise PlanError(
                f"Of {sum(r.stop - r.start for r in counted)} rows from all over the data set none was accepted, so "
                "there is nothing to estimate. Nothing was kept; `encode` would reject them, and say why."
            )
        all_rows = sum(r.stop - r.start for r in counted)
        latents, text, rest = self._bytes(counted)
        row_bytes = array_bytes(self.prepared.image_info, self.prepared.text_info, job.slots)
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
            stages=_stages(counted),
        )

    def _bytes(self, receipts: Sequence[Receipt]) -> tuple[int, int, int]:
        """On disk: arrays of the image encoder, of the text encoder, and the others."""
        image = {a.name for a in self.prepared.image_info.arrays}
        text = {a.name for a in self.prepared.text_info.arrays}
        sizes = [0, 0, 0]
        for shard in (shard for receipt in receipts for shard in receipt.shards):
            name = shard.key.partition("/")[0]
            sizes[0 if name in image else 1 if name in text else 2] += shard.size
        return sizes[0], sizes[1], sizes[2]


def _steady(lanes: Mapping[str, Sequence[_Seen]]) -> tuple[int, int, float, float]:
    """Chunks and rows that count, seconds of a row and of a chunk, of a worker.

    From one chunk's end to the next one's on the same worker: so all that lies between them is in it.
    """
    chunks = rows = 0
    whole = fixed = 0.0
    for lane in lanes.values():
        for before, seen in itertools.pairwise(lane):
            if not seen.steady:
                continue
            gate = seen.receipt.seconds.get("gate", 0.0)
            span = seen.at - before.at
            between = max(0.0, span - seen.took())
            chunks, rows = chunks + 1, rows + seen.rows
            whole, fixed = whole + span, fixed + gate + between
    if not chunks:  # every worker met one chunk alone: what it says of itself has to do
        alone = [seen for lane in lanes.values() for seen in lane if seen.steady]
        chunks, rows = len(alone), sum(seen.rows for seen in alone)
        fixed = sum(seen.receipt.seconds.get("gate", 0.0) for seen in alone)
        whole = sum(seen.took("load") for seen in alone)
    return chunks, rows, max(0.0, whole - fixed) / rows, fixed / chunks


def _stages(receipts: Sequence[Receipt]) -> dict[str, float]:
    """Stage -> seconds of a worker for a row."""
    rows = sum(r.stop - r.start for r in receipts)
    names = sorted({name for r in receipts for name in r.seconds} - {"load"})
    return {name: round(sum(r.seconds.get(name, 0.0) for r in receipts) / rows, 6) for name in names}


def _remove(place: RunFolder) -> None:
    """The folder with all that is in it."""
    if place.is_local:
        shutil.rmtree(place.root, ignore_errors=True)
        return
    with contextlib.suppress(Exception):  # what is left over costs a little room, and no run looks at it
        for name in place.list():
            place.delete(name)
