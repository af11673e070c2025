"""Speeds: from the driver to workers, between workers, from workers to the run folder; and clocks.

Covers: which workers are measured, and measuring one after the other.
Does not cover: the far ends (`wire`, `sight.folder_speed`), what is too slow (`rules`).

A few workers stand for all: one of each host first. They are measured one after the other, because the sum would say
little about each. A large cluster gets as many measurements as a small one.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from daskt2i.deploy.workers import ask_workers
from daskt2i.doctor import wire
from daskt2i.doctor.facts import Clock, Speed, Worker
from daskt2i.doctor.sight import SEE_SECONDS, folder_speed
from daskt2i.faults.time_limit import within
from daskt2i.store.run_folder import RunFolder

MEASURED = 4
"""Workers, and pairs of workers, that are measured."""

SIZE = 4 * 1024 * 1024
"""Bytes of a measurement."""

_TURNS = 5
_SECONDS = 5.0


def some_of(workers: Sequence[Worker], most: int = MEASURED) -> list[Worker]:
    """Some workers, of as many hosts as possible."""
    seen: dict[str, int] = {}
    turns = []
    for number, worker in enumerate(workers):
        seen[worker.host] = seen.get(worker.host, -1) + 1
        turns.append((seen[worker.host], number, worker))
    return [worker for _, _, worker in sorted(turns, key=lambda one: one[:2])[:most]]


def to_worker(client: Any, worker: Worker) -> tuple[Speed, Clock | None]:
    """Messages and bytes between the driver and a worker, through the scheduler as those of a run; and its clock."""

    def trip(function: Any, *given: Any) -> tuple[float, Any, float]:
        asked = time.time()
        begun = time.perf_counter()
        told = client.run(function, *given, workers=[worker.address])[worker.address]
        return time.perf_counter() - begun, told, asked

    def measure() -> tuple[Speed, Clock]:
        trips = [trip(time.time) for _ in range(_TURNS)]
        seconds, told, asked = min(trips, key=lambda one: one[0])
        payload = os.urandom(SIZE)
        there = wire.bytes_a_second(SIZE, trip(len, payload)[0], seconds)
        back = wire.bytes_a_second(SIZE, trip(os.urandom, SIZE)[0], seconds)
        speed = Speed("driver-worker", "", worker.address, seconds, there, back)
        return speed, Clock.of(asked, told, asked + seconds)

    found = within(_SECONDS, measure)
    if isinstance(found, tuple):
        return found
    error = f"no answer in {_SECONDS:.0f} s" if found is None else f"{type(found).__name__}: {found}"
    return Speed("driver-worker", "", worker.address, error=error), None


def pairs_of(workers: Sequence[Worker]) -> Iterator[tuple[Worker, Worker]]:
    """Some pairs of workers, of different hosts where there are several."""
    some = some_of(workers, MEASURED + 1)
    if len({worker.host for worker in some}) > 1:
        some = [one for number, one in enumerate(some) if one.host not in {each.host for each in some[:number]}]
    for number in range(min(MEASURED, len(some)) if len(some) > 2 else len(some) - 1):
        yield some[number], some[(number + 1) % len(some)]


def between(client: Any, start: Worker, end: Worker) -> Speed:
    """A connection from one worker to another, on a free port, as ranks make it."""
    speed = Speed("worker-worker", start.address, end.address)
    token = secrets.token_hex(16)
    ports = ask_workers(client, wire.listen, [end.address], end.ip, token, SIZE, seconds=_SECONDS)
    if end.address not in ports:
        return replace(speed, error="the second worker cannot listen")
    port = ports[end.address]
    answers = ask_workers(client, wire.send, [start.address], end.ip, port, token, SIZE, seconds=2 * _SECONDS)
    found = answers.get(start.address, {"error": "no answer"})
    return replace(speed, seconds=found.get("seconds"), there=found.get("rate"), error=found["error"])


def to_folder(client: Any, worker: Worker, folder: RunFolder, prefix: str) -> Speed:
    """Writing into the run folder and reading from it, on a worker."""
    given = (folder, prefix, SIZE)
    answers = ask_workers(client, folder_speed, [worker.address], *given, seconds=SEE_SECONDS + 2)
    return folder_words(worker.address, answers.get(worker.address, {"error": "no answer"}))


def folder_words(address: str, found: dict[str, Any]) -> Speed:
    """The speed that `folder_speed` found."""
    return Speed("run-folder", address, "", found.get("small"), found.get("write"), found.get("read"), found["error"])
