"""Rows in memory: loaded in the order of need, within the limit, each taken once, freed part by part."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from daskt2i.errors import StoreError
from daskt2i.loader.memory.loaded_rows import LoadedRows
from daskt2i.loader.memory.upcoming_rows import Parts, UpcomingRows
from daskt2i.loader.sample_order import Sample

BYTES = 100


def rows_of(samples: Sequence[Sample]) -> LoadedRows:
    count, none = len(samples), np.zeros((len(samples), 0), np.int64)
    latents = np.zeros((count, BYTES // 2), np.float16)
    return LoadedRows(
        samples, latents, None, np.ones(count, np.int64), None, none.astype(bool), none, none, np.zeros((1, 1), "<f2")
    )


class Loads:
    """Makes rows, and remembers which units were loaded."""

    def __init__(self) -> None:
        self.units: list[int] = []

    def __call__(self, parts: Parts) -> list[LoadedRows]:
        self.units.append(parts[0][0][1] // 10)
        return [rows_of(part) for part in parts]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def settle(pool: ThreadPoolExecutor) -> None:
    """Wait for all that was asked of the only thread. What it finished may have asked for more."""
    for _ in range(8):
        pool.submit(int).result()


def unit(number: int, rows: int = 2) -> dict[object, Parts]:
    """A unit whose rows are freed one by one."""
    return {number: [[(0, 10 * number + place)] for place in range(rows)]}


def test_units_are_loaded_ahead_in_order_while_there_is_room(pool: ThreadPoolExecutor) -> None:
    loads = Loads()
    rows = UpcomingRows(5 * BYTES, loads, pool, BYTES)
    for number in (3, 1, 2):
        rows.announce(unit(number))
    settle(pool)
    assert loads.units == [3, 1]
    assert rows.held == 4 * BYTES
    rows.take([(3, (0, 30))])
    settle(pool)
    assert loads.units == [3, 1, 2]
    rows.close()


def test_a_unit_that_a_batch_needs_is_loaded_without_room(pool: ThreadPoolExecutor) -> None:
    loads = Loads()
    rows = UpcomingRows(1, loads, pool, BYTES)
    rows.announce(unit(1) | unit(2))
    settle(pool)
    assert loads.units == []
    rows.require([2])
    assert len(rows.take([(2, (0, 20)), (2, (0, 21))])) == 2
    settle(pool)
    assert loads.units == [2]
    assert rows.held == 0
    assert rows.row_bytes == BYTES
    rows.close()


def test_rows_of_a_part_are_freed_when_all_of_them_were_taken(pool: ThreadPoolExecutor) -> None:
    rows = UpcomingRows(4 * BYTES, Loads(), pool, BYTES)
    rows.announce({1: [[(0, 10), (0, 11)], [(0, 12)]]})
    settle(pool)
    held = [rows.held]
    for row in (11, 12, 10):
        ((found, index),) = rows.take([(1, (0, row))])
        assert found.samples[index] == (0, row)
        held.append(rows.held)
    assert held == [3 * BYTES, 3 * BYTES, 2 * BYTES, 0]
    rows.close()


def test_without_a_limit_rows_stay_and_are_loaded_once(pool: ThreadPoolExecutor) -> None:
    loads = Loads()
    rows = UpcomingRows(None, loads, pool, BYTES)
    for _ in range(2):
        rows.announce(unit(1))
        ((found, index),) = rows.take([(1, (0, 11))])
        assert found.samples[index] == (0, 11)
    assert loads.units == [1]
    rows.close()


def test_a_unit_is_loaded_once_for_all_that_wait_and_again_after_a_failure(pool: ThreadPoolExecutor) -> None:
    made, gate = [0], threading.Event()

    def load(parts: Parts) -> list[LoadedRows]:
        made[0] += 1
        gate.wait(10)
        if made[0] == 1:
            raise StoreError("away")
        return [rows_of(part) for part in parts]

    rows = UpcomingRows(None, load, pool, BYTES)
    rows.announce(unit(1))
    with ThreadPoolExecutor(2) as askers:
        waiting = [askers.submit(rows.take, [(1, (0, 10))]) for _ in range(2)]
        gate.set()
    failures = [future.exception() for future in waiting]
    assert any(isinstance(error, StoreError) for error in failures)
    assert len(rows.take([(1, (0, 10))])) == 1
    assert made == [2]
    rows.close()
