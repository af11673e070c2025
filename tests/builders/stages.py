"""Recorded stages, for tests of how progress looks: events with times, no workers and no models."""

from __future__ import annotations

from daskt2i.events import ChunkDone, ChunkFailed, Event, LaunchEvent, WorkersReady
from daskt2i.protocols import ExecutorInfo
from daskt2i.types import Receipt

DEMO = (
    (6.06, 64, 0.9), (6.58, 64, 0.51), (7.22, 64, 0.63), (7.81, 64, 0.6), (8.41, 64, 0.59), (8.95, 64, 0.54),
    (9.49, 64, 0.53), (10.33, 64, 0.84), (11.28, 64, 0.96), (11.87, 64, 0.57), (12.69, 64, 1.76), (12.86, 64, 0.99),
    (13.65, 64, 0.99), (13.93, 64, 1.06), (14.65, 64, 0.99), (14.82, 64, 0.89), (15.46, 64, 0.61), (15.64, 64, 1.0),
    (16.36, 64, 0.7), (16.39, 64, 0.94), (17.34, 64, 0.95), (17.4, 64, 1.05), (17.79, 28, 0.44), (18.01, 64, 0.61),
)  # fmt: skip
"""The demo on two workers of this kind of machine: seconds since the workers were there, rows, seconds of work.

One worker took 5 s to load, the other 12.
"""


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def ready(workers: int = 2, rows_done: int = 0, dashboard: str = "") -> WorkersReady:
    return WorkersReady(ExecutorInfo(workers, 1, None, "", dashboard), rows_done // 10, rows_done)


def chunk_done(chunk: int, rows: int = 10, seconds: float = 0.0, load: float = 0.0) -> ChunkDone:
    """A receipt of `rows` good rows."""
    return ChunkDone(
        Receipt(
            chunk=chunk,
            start=chunk * rows,
            stop=(chunk + 1) * rows,
            fingerprint="",
            accepted=rows,
            captions=rows,
            truncated=0,
            rejected=(),
            inputs="",
            seconds={"total": seconds + load, "load": load},
            worker="host:1",
            loads={},
            batch=4,
            peak_bytes=0,
        )
    )


def chunk_failed(chunk: int, error: BaseException, final: bool = True) -> ChunkFailed:
    return ChunkFailed(chunk, error, final)


def rank_started(step: int = 0, ranks: int = 2) -> LaunchEvent:
    fields = {"step": step, "ranks": ranks, "threads": 1, "device": "cpu", "precision": "fp32", "parameters": 1_200_000}
    return LaunchEvent("started", 1, 0, fields)


def rank_step(step: int, loss: float = 0.5, **more: float) -> LaunchEvent:
    return LaunchEvent("step", 1, 0, {"step": step, "loss": loss, **more})


def demo_events() -> list[tuple[float, Event]]:
    """Of a whole encode."""
    found: list[tuple[float, Event]] = [(0.0, ready())]
    chunks = ((at, chunk_done(i, rows, work)) for i, (at, rows, work) in enumerate(DEMO))
    return found + list(chunks)
