"""Computes seconds, disk, memory and cost of an encode from a calibration.

Covers: the time of chunks on n workers, scaling a calibration to another number of workers, bytes of a store, cost from
a price table.
Does not cover: measuring (`encode.calibration`), storing a forecast and comparing it with the run (`forecast`), showing
it.

The time of a run is

    start + begin + makespan(chunks on workers that are ready one after the other) + end + fold x rows

A chunk takes `chunk_seconds + rows x row_seconds` on a worker, measured while all workers are busy. The makespan is the
time of a queue: each free worker takes the next chunk. So it includes an incomplete last round, a short last chunk and
workers that load later than others. docs/how-to/estimate.md explains each number.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daskt2i.config.settings import InstanceSettings, PriceSettings
from daskt2i.formatting import many
from daskt2i.plan import GIB, MIB, PAUSE_FRACTION
from daskt2i.types import Chosen

EXACT_CHUNKS = 50_000
"""Up to this number of chunks the queue is simulated. With more chunks an incomplete last round does not matter."""


@dataclass(frozen=True, slots=True)
class Work:
    """The work of an encode: rows of the run, rows of each chunk, captions of all rows."""

    rows: int
    rows_per_chunk: int
    captions: int

    @property
    def chunks(self) -> int:
        """Number of chunks. The last chunk may be short."""
        return -(-self.rows // self.rows_per_chunk)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A measurement on some workers, while all of them are busy.

    Attributes:
        device, precision: the resolved device and precision of the workers.
        workers, threads: number of measured workers, torch threads of each.
        cores: cores that these workers share on one machine; 0 if each has its own cores (a remote cluster).
        executor: class of the executor. The times include its start.
        hosts: machines of the workers.
        settings: the settings of `run:` that change the speed.
        rows, chunks, chunk_rows: rows and chunks at the steady rate, rows of each chunk.
        accepted: share of accepted rows.
        start_seconds: time until the workers are ready.
        begin_seconds: time of the first worker for imports, weights, probe of the precision and empty prompt, and time
            for making the empty store.
        ready_seconds: further time until another worker has started, imported and loaded; None with one worker.
        warm_seconds: additional time of the first chunk of a process.
        row_seconds: time of a worker for one row.
        chunk_seconds: time of a worker for one chunk that does not depend on its rows: gate, receipt, and getting the
            next chunk.
        end_seconds: time to stop the workers, and the fixed time of the manifest.
        fold_seconds: time of the driver for one row of the manifest.
        latents_bytes, rest_bytes: bytes on disk for one row.
        text_bytes: bytes on disk for one caption.
        worker_bytes, driver_bytes: peak memory of a worker and of the driver.
        limit_bytes: memory limit of a worker; None if there is no limit.
        stages: stage -> seconds of a worker for one row. Reading and decoding run in parallel to the other stages.
        choices: how engine, precision, batch and threads were chosen.
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
    choices: tuple[Chosen, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """The calibration from the JSON of `dataclasses.asdict`.

        Raises:
            TypeError, KeyError: the data are not a calibration.
        """
        choices = tuple(Chosen(**{**one, "notes": tuple(one["notes"])}) for one in data.get("choices", ()))
        return cls(**{**data, "hosts": tuple(data["hosts"]), "choices": choices})

    @property
    def share(self) -> float:
        """Number of cores that one of the workers had for itself."""
        return _share(self.cores, self.workers, self.threads)

    def seconds_per_row(self, rows_per_chunk: int) -> float:
        """Seconds of one worker for one row, with its share of the fixed time of a chunk."""
        return self.row_seconds + self.chunk_seconds / rows_per_chunk


def _share(cores: int, workers: int, threads: int) -> float:
    """Number of cores of one of several workers on one machine; `threads` if each has its own cores (cores 0)."""
    return min(threads, cores / workers) if cores else float(threads)


@dataclass(frozen=True, slots=True)
class Forecast:
    """A run on some workers.

    Attributes:
        device: the device of the workers.
        workers, threads: number of processes, torch threads of each.
        seconds: time of the whole run.
        images_per_second: rows divided by the time of the whole run.
        steady_rate: images per second while all workers are busy.
        basis: `measured` with this number of workers, or `scaled` from another number.
        worker_bytes: memory of one worker.
        limit_bytes: memory limit of one worker; None if there is no limit.
        fits: whether the memory is below the pause threshold.
        notes: sentences for the user.
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
        threads: torch threads of each worker; by default the cores divided by the workers, or as calibrated.
        memory: bytes that all workers share; None if each worker has its own limit.
    """
    there = calibration
    if threads is None:
        threads = max(1, there.cores // workers) if there.cores else there.threads
    # A worker with half the cores takes twice as long for a row. Threads without a core do not help.
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
        notes.append(f"more workers than the {there.cores} cores: not faster")
    if workers > work.chunks:
        there_are = "there is" if work.chunks == 1 else "there are"
        notes.append(f"{there_are} only {many(work.chunks, 'chunk')}, so no more workers are busy")
    if not fits and limit is not None:
        notes.append(
            f"does not fit into memory: a worker needs {there.worker_bytes / MIB:,.0f} MiB, and may use "
            f"{PAUSE_FRACTION:.0%} of {limit / MIB:,.0f} MiB"
        )
    return notes


def makespan(work: Work, row_seconds: float, chunk_seconds: float, ready: Sequence[float]) -> float:
    """Seconds until the last chunk is done, if each free worker takes the next chunk.

    Args:
        ready: time at which each worker can begin, seconds.
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
    """Bytes on disk of a whole run: arrays of the image encoder, arrays of the text encoder, and the rest."""

    latents: int
    text: int
    rest: int

    @property
    def total(self) -> int:
        """Sum of the three."""
        return self.latents + self.text + self.rest


def disk(calibration: Calibration, work: Work) -> Disk:
    """Bytes of the whole run, scaled from the calibration: latents and the rest by rows, text by captions."""
    return Disk(
        latents=round(calibration.latents_bytes * work.rows),
        text=round(calibration.text_bytes * work.captions),
        rest=round(calibration.rest_bytes * work.rows),
    )


@dataclass(frozen=True, slots=True)
class Price:
    """A run on one machine of a price table.

    Attributes:
        name, device: name and device of the instance.
        per_hour: price of one hour.
        currency: currency of the price.
        images_per_second: steady rate of the machine; None if unknown.
        hours, cost: hours and cost of the whole run on one machine; None if the rate is unknown.
        basis: origin of the rate, a clause.
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
    """Cost of the run on one machine of each kind in the table. Two machines take half the time for the same cost."""
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
    """Images per second of a whole instance, and the origin of this rate."""
    if instance.images_per_second is not None:
        return instance.images_per_second, "its images_per_second in the price table"
    there = next((c for c in calibrations if c.device.partition(":")[0] == instance.device), None)
    if there is None:
        return None, f"there is no calibration on {instance.device}; give its images_per_second"
    seconds = there.seconds_per_row(work.rows_per_chunk)
    if instance.device == "cuda":
        return instance.gpus / seconds, f"calibrated: one worker for each of {instance.gpus} GPUs"
    cores, basis = float(instance.cores), f"calibrated: {instance.cores} cores with the speed of the calibrated cores"
    if instance.memory_gib is not None:
        room = int(instance.memory_gib * GIB * PAUSE_FRACTION // max(1, there.worker_bytes))
        if room * there.threads < cores:
            cores = float(room * there.threads)
            basis = f"calibrated: {instance.memory_gib:g} GiB hold {room} workers, so they use {cores:g} of its cores"
    if not cores:
        return None, basis
    return cores / (seconds * there.share), basis
