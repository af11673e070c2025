"""The task and the result of one run of one cell.

Covers: the two records that the command and the measuring process exchange as JSON.
Does not cover: measuring (`cell`, `encode.naive`, `encode.peak`), medians and tables (`encode.scaling`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from daskt2i.bench.encode.rows import Part

PEAK_SIDES = (1024, 1536, 2048, 3072)
PEAK_CONVOLUTIONS = ((128, 128), (256, 64), (512, 64))
"""Channels, and side of the picture in pixels: the widest levels of Stable Diffusion's VAE at 256 px."""


@dataclass(frozen=True, slots=True)
class BenchTask:
    """One measurement in a new process, like a user's command: nothing is warm from an earlier measurement.

    Attributes:
        kind: `encode` (with a scheduler of daskt2i), `naive`, `peak` (of the machine) or `scheduler` (a simulation).
        workflow: the resolved workflow with the chosen rows, as YAML.
        folder: a new run folder.
        part: the part that is measured.
        scheduler: a value of `--scheduler`.
        workers, threads: number of processes, and torch threads of each; naive ignores threads.
        busy: for `peak`: numbers of cores to keep busy at the same time.
        precisions: for `peak`: precisions to measure; `auto` is resolved there. `peak_seconds`: time for each size;
            `peak_sides`: sizes of square matrices. The fastest size counts: smaller matrices do not fill the units,
            larger ones do not fit into the caches. `peak_convolutions`: channels and sides of 3 x 3 convolutions.
        chunk_seconds, arrays: for `scheduler`: seconds of a chunk, and whether its arrays are written.
        parent: the process that waits for the result; `begun`: time.time() of the start in the parent.
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
    peak_convolutions: tuple[tuple[int, int], ...] = PEAK_CONVOLUTIONS
    chunk_seconds: float = 0.0
    arrays: bool = False
    parent: int = 0
    begun: float = 0.0

    def to_json(self) -> str:
        """The task as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BenchTask:
        """Read the result of `to_json`."""
        data = json.loads(text)
        data["busy"], data["precisions"] = tuple(data["busy"]), tuple(data["precisions"])
        data["peak_sides"] = tuple(data["peak_sides"])
        data["peak_convolutions"] = tuple((channels, side) for channels, side in data["peak_convolutions"])
        return cls(**data)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one cell. All times are wall seconds of one clock.

    Attributes:
        workers, threads, precision: of the run.
        rows: number of requested rows. `accepted`, `rejected`: counted rows.
        cold: from the start of the process until every worker has loaded its models (start-up, import, spawn, load).
        steady: from there to the last chunk.
        finish: from there to the end of `encode`: workers end, the manifest is written.
        cpu: processor seconds of all daskt2i processes in the steady part; `elsewhere`: of all other processes, or None
            if it is not known.
        stages: stage -> seconds, summed over workers; `total` is the time of workers in chunks.
        chunk_seconds: seconds of each chunk, without loading.
        worker_peak, driver_peak: largest resident size, bytes.
        written: bytes of the store (naive: of its pickle).
        captions: captions of accepted rows; `distinct`: captions that were encoded.
        batch: images in one batch.
        memory: (seconds since all workers were loaded, bytes of the largest worker, bytes of the driver), over time.
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
        """Read the JSON of `dataclasses.asdict`."""
        memory = tuple((float(at), int(worker), int(driver)) for at, worker, driver in data["memory"])
        return cls(**{**data, "chunk_seconds": tuple(data["chunk_seconds"]), "memory": memory})
