"""What one run of one cell is asked to do, and what it tells.

Covers: the two records that travel between the command and the process that measures, as JSON.
Does not cover: measuring (`cell`, `encode.naive`, `encode.peak`), medians and tables (`encode.scaling`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from daskt2i.bench.encode.rows import Part

PEAK_SIDES = (1024, 1536, 2048, 3072)


@dataclass(frozen=True, slots=True)
class BenchTask:
    """One measurement, in a process of its own: as a user's command, with nothing warm from the one before.

    Attributes:
        kind: `encode` (one of our schedulers), `naive`, `peak` (of the machine) or `scheduler` (a simulation).
        workflow: YAML, resolved, its rows chosen.
        folder: a fresh run folder.
        part: what of it is measured.
        scheduler: as `--scheduler` takes it.
        workers, threads: processes, and torch threads of each; naive ignores threads.
        busy: for `peak`: numbers of cores to keep busy at once.
        precisions: for `peak`: in which to measure; `auto` is resolved there. `peak_seconds`: of each size;
            `peak_sides`: the sizes, of square matrices. The fastest counts: smaller ones do not fill the units, larger
            ones leave the caches.
        chunk_seconds, arrays: for `scheduler`: what a chunk takes, and whether its arrays are written.
        parent: the process that waits for it; `begun`: when it was started there (time.time()).
    """

    kind: Literal["encode", "naive", "peak", "scheduler"]
    workflow: str
    folder: str
    part: Part
    scheduler: str = ""
    workers: int = 1
    threads: int = 1
    busy: tuple[int, ...] = (1,)
    precisions: tuple[str, ...] = ()
    peak_seconds: float = 1.0
    peak_sides: tuple[int, ...] = PEAK_SIDES
    chunk_seconds: float = 0.0
    arrays: bool = False
    parent: int = 0
    begun: float = 0.0

    def to_json(self) -> str:
        """As one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BenchTask:
        """What `to_json` wrote."""
        data = json.loads(text)
        data["busy"], data["precisions"] = tuple(data["busy"]), tuple(data["precisions"])
        data["peak_sides"] = tuple(data["peak_sides"])
        return cls(**data)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one cell. All times are wall seconds of one clock.

    Attributes:
        workers, threads, precision: as they were.
        rows: that were asked for. `accepted`, `rejected`: as they were counted.
        cold: from the start of the process until every worker has loaded its models (start-up, import, spawn, load).
        steady: from there to the last chunk.
        finish: from there to the end of `encode`: workers end, the manifest is written.
        cpu: seconds of processor time of all our processes in the steady part; `elsewhere`: of all others, or None
            where the machine cannot tell.
        stages: stage -> seconds, summed over workers; `total` is what workers spent on chunks.
        chunk_seconds: of each chunk, without loading.
        worker_peak, driver_peak: largest resident size, bytes.
        written: bytes of the store (naive: of its pickle).
        captions: of accepted rows; `distinct`: those that were encoded.
        batch: images at once.
        memory: (seconds since all were loaded, bytes of the largest worker, bytes of the driver), over time.
    """

    workers: int
    threads: int
    precision: str
    rows: int
    accepted: int
    rejected: int
    cold: float
    steady: float
    finish: float
    cpu: float
    elsewhere: float | None
    stages: Mapping[str, float]
    chunk_seconds: tuple[float, ...]
    worker_peak: int
    driver_peak: int
    written: int
    captions: int
    distinct: int
    batch: int
    memory: tuple[tuple[float, int, int], ...] = field(default=(), repr=False)

    @property
    def wall(self) -> float:
        """From the start of the process to the end of `encode`, seconds."""
        return self.cold + self.steady + self.finish

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measured:
        """What `dataclasses.asdict` and JSON made of one."""
        memory = tuple((float(at), int(worker), int(driver)) for at, worker, driver in data["memory"])
        return cls(**{**data, "chunk_seconds": tuple(data["chunk_seconds"]), "memory": memory})
