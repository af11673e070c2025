"""What an encode will take, from what a calibration measured: seconds, disk, memory, money. Pure arithmetic.

Covers: the time of chunks on n workers, from one calibration to another number of workers, bytes of a store, cost by a
price table.
Does not cover: measuring (`encode.calibration`), keeping a forecast and comparing it with the run (`forecast`), showing
it.

A run takes

    start + begin + makespan(chunks on workers that are ready one after the other) + end + fold x rows

where a chunk takes `chunk_seconds + rows x row_seconds` on a worker, as measured with all workers at work. The
makespan is that of a queue from which whoever is free takes the next chunk: so a last round that is not full, a short
last chunk and workers that load later than others cost what they cost in a run. docs/how-to/estimate.md explains each
figure.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daskt2i.config.settings import InstanceSettings, PriceSettings
from daskt2i.plan import GIB, MIB, PAUSE_FRACTION

EXACT_CHUNKS = 50_000
"""Chunks up to which the queue is followed one by one; above, a last round that is not full is nothing."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be encoded: rows of the run, rows of each chunk, captions of all rows."""

    rows: int
    rows_per_chunk: int
    captions: int

    @property
    def chunks(self) -> int:
        """Chunks, the last one perhaps short."""
        return -(-self.rows // self.rows_per_chunk)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured on some workers, all of them at work.

    Attributes:
        device, precision: as the workers resolved them.
        workers, threads: that were measured; torch threads of each.
        cores: cores that these workers share on one machine; 0 where each has its own (a cluster elsewhere).
        executor: class of the engine; its start is in the figures.
        hosts: machines of the workers.
        settings: those of `run:` that decide the speed.
        rows, chunks, chunk_rows: rows and chunks at the steady rate, rows of each chunk.
        accepted: share of rows that were accepted.
        start_seconds: until the workers are there.
        begin_seconds: the first worker: imports, weights, probe of the precision, empty prompt; and the empty store.
        ready_seconds: from then until another worker has spawned, imported and loaded; None with one worker.
        warm_seconds: what the first chunk of a process takes longer than the others.
        row_seconds: of a worker, for a row.
        chunk_seconds: of a worker, for a chunk whatever its rows: gate, receipt, and the way to the next chunk.
        end_seconds: stopping the workers, and what the manifest takes once.
        fold_seconds: of the driver, for a row of the manifest.
        latents_bytes, rest_bytes: on disk for a row; `text_bytes`: for a caption.
        worker_bytes, driver_bytes: peak of a worker and of the driver.
        limit_bytes: what a worker may use; None where nothing limits it.
        stages: stage -> seconds of a worker for a row; reading and decoding run beside the others.
    """

    device: str
    precision: str
    workers: int
    threads: int
    cores: int
    executor: str
    hosts: tuple[str, ...]
    settings: Mapping[str, Any]
    rows: int
    chunks: int
    chunk_rows: int
    accepted: float
    start_seconds: float
    begin_seconds: float
    ready_seconds: float | None
    warm_seconds: float
    row_seconds: float
    chunk_seconds: float
    end_seconds: float
    fold_seconds: float
    latents_bytes: float
    text_bytes: float
    rest_bytes: float
    worker_bytes: int
    driver_bytes: int
    limit_bytes: int | None
    stages: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """What `dataclasses.asdict` gave, back from JSON.

        Raises:
            TypeError, KeyError: it is none.
        """
        return cls(**{**data, "hosts": tuple(data["hosts"])})

    @property
    def share(self) -> float:
        """Cores that one of the workers had to itself."""
        return _share(self.cores, self.workers, self.threads)

    def seconds_per_row(self, rows_per_chunk: int) -> float:
        """Of one worker, what a chunk takes once shared among its rows."""
        return self.row_seconds + self.chunk_seconds / rows_per_chunk


def _share(cores: int, workers: int, threads: int) -> float:
    """Cores of one of several workers on one machine; `threads` where each has its own (cores 0)."""
    return min(threads, cores / workers) if cores else float(threads)


@dataclass(frozen=True, slots=True)
class Forecast:
    """A run on some workers.

    Attributes:
        device: that the workers use.
        workers, threads: processes, torch threads of each.
        seconds: of the whole run.
        images_per_second: rows by those seconds; `steady_rate`: while all workers are at work.
        basis: `measured` with as many workers, or `scaled` from another number of them.
        worker_bytes: memory that one worker takes; `limit_bytes`: what it may take, None where nothing limits it.
        fits: whether that is below the pause threshold.
        notes: sentences.
    """

    device: str
    workers: int
    threads: int
    seconds: float
    images_per_second: float
    steady_rate: float
    basis: str
    worker_bytes: int
    limit_bytes: int | None
    fits: bool
    notes: tuple[str, ...] = ()


def forecast(
    calibration: Calibration, work: Work, workers: int, *, threads: int | None = None, memory: int | None = None
) -> Forecast:
    """A run with this many workers.

    Args:
        threads: of each worker; by default the cores divided by the workers, or as calibrated.
        memory: bytes that all workers share; None where each has a limit of its own.
    """
    there = calibration
    if threads is None:
        threads = max(1, there.cores // workers) if there.cores else there.threads
    # A worker with half the cores takes twice as long for a row. Cores that are not there help nobody.
    slower = there.share / _share(there.cores, workers, threads)
    row, chunk = there.row_seconds * slower, there.chunk_seconds * slower
    ready = there.begin_seconds if there.ready_seconds is None else there.ready_seconds
    warm = there.warm_seconds * slower
    seconds = (
        there.start_seconds
        + there.begin_seconds
        + makespan(work, row, chunk, [warm] + [ready + warm] * (workers - 1))
        + there.end_seconds
        + there.fold_seconds * work.rows
    )
    limit = memory // workers if memory else there.limit_bytes
    fits = limit is None or there.worker_bytes <= limit * PAUSE_FRACTION
    same = workers == there.workers and threads == there.threads
    return Forecast(
        device=there.device,
        workers=workers,
        threads=threads,
        seconds=seconds,
        images_per_second=work.rows / seconds,
        steady_rate=workers / (row + chunk / work.rows_per_chunk),
        basis="measured" if same else "scaled",
        worker_bytes=there.worker_bytes,
        limit_bytes=limit,
        fits=fits,
        notes=tuple(_notes(there, work, workers, limit, fits)),
    )


def _notes(there: Calibration, work: Work, workers: int, limit: int | None, fits: bool) -> list[str]:
    notes = []
    if there.cores and workers > there.cores:
        notes.append(f"more than the {there.cores} cores: no faster")
    if workers > work.chunks:
        notes.append(f"{work.chunks} chunks keep {work.chunks} workers busy at most")
    if not fits and limit is not None:
        notes.append(
            f"does not fit: {limit / MIB:,.0f} MiB for each worker, of which {PAUSE_FRACTION:.0%} may be used, and it "
            f"takes {there.worker_bytes / MIB:,.0f}"
        )
    return notes


def makespan(work: Work, row_seconds: float, chunk_seconds: float, ready: Sequence[float]) -> float:
    """Seconds until the last chunk is done, when whoever is free takes the next one.

    Args:
        ready: when each worker can begin, seconds.
    """
    whole = chunk_seconds + work.rows_per_chunk * row_seconds
    count = work.chunks
    if count > EXACT_CHUNKS:
        total = work.rows * row_seconds + count * chunk_seconds
        return (total + sum(ready)) / len(ready) + whole / 2
    free = list(ready)
    heapq.heapify(free)
    last = 0.0
    for index in range(count):
        rows = min(work.rows_per_chunk, work.rows - index * work.rows_per_chunk)
        done = heapq.heappop(free) + chunk_seconds + rows * row_seconds
        last = max(last, done)
        heapq.heappush(free, done)
    return last


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes on disk of a whole run: arrays of the image encoder, of the text encoder, and all else that is stored."""

    latents: int
    text: int
    rest: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.latents + self.text + self.rest


def disk(calibration: Calibration, work: Work) -> Disk:
    """What was written for the calibrated rows, for all of them: latents and the rest by rows, text by captions."""
    return Disk(
        latents=round(calibration.latents_bytes * work.rows),
        text=round(calibration.text_bytes * work.captions),
        rest=round(calibration.rest_bytes * work.rows),
    )


@dataclass(frozen=True, slots=True)
class Price:
    """A run on one machine of a price table.

    Attributes:
        name, device: of the instance.
        per_hour: its price; `currency` says of what.
        images_per_second: of the machine at its steady rate; None where nothing tells.
        hours, cost: of the whole run on one of them; None where nothing tells the rate.
        basis: where the rate comes from, a clause.
    """

    name: str
    device: str
    per_hour: float
    currency: str
    images_per_second: float | None
    hours: float | None
    cost: float | None
    basis: str


def price(prices: PriceSettings, calibrations: Sequence[Calibration], work: Work) -> list[Price]:
    """Each instance of the table, with what the run would cost on one of them. Two take half the time for as much."""
    found = []
    for instance in prices.instances:
        rate, basis = _rate(instance, calibrations, work)
        hours = cost = None
        if rate:
            measured = next((c for c in calibrations if c.device.partition(":")[0] == instance.device), None)
            once = measured.start_seconds + measured.begin_seconds + measured.end_seconds if measured else 0.0
            hours = (work.rows / rate + once) / 3600
            cost = hours * instance.per_hour
        found.append(
            Price(instance.name, instance.device, instance.per_hour, prices.currency, rate, hours, cost, basis)
        )
    return found


def _rate(instance: InstanceSettings, calibrations: Sequence[Calibration], work: Work) -> tuple[float | None, str]:
    """Images/s of a whole instance, and where that comes from."""
    if instance.images_per_second is not None:
        return instance.images_per_second, "its images_per_second in the price table"
    there = next((c for c in calibrations if c.device.partition(":")[0] == instance.device), None)
    if there is None:
        return None, f"no {instance.device} was calibrated; give images_per_second"
    seconds = there.seconds_per_row(work.rows_per_chunk)
    if instance.device == "cuda":
        return instance.gpus / seconds, f"calibrated: one worker for each of {instance.gpus} GPUs"
    cores, basis = float(instance.cores), f"calibrated: {instance.cores} cores as fast as these"
    if instance.memory_gib is not None:
        room = int(instance.memory_gib * GIB * PAUSE_FRACTION // max(1, there.worker_bytes))
        if room * there.threads < cores:
            cores = float(room * there.threads)
            basis = f"calibrated: {instance.memory_gib:g} GiB hold {room} workers, so {cores:g} of its cores work"
    if not cores:
        return None, basis
    return cores / (seconds * there.share), basis
