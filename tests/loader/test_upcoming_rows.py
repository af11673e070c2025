"""Rows in memory: loaded in the order of need, within the limit, each taken once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from daskt2i.errors import StoreError
from daskt2i.loader.sample_order import Sample
from daskt2i.loader.shards import LoadedRow
from daskt2i.loader.upcoming_rows import UpcomingRows

BYTES = 100


def row() -> LoadedRow:
    return LoadedRow(np.zeros(BYTES // 2, np.float16), None, 1, np.zeros(0, np.bool_), {})


class Loads:
    """Makes rows, and remembers which units were loaded."""

    def __init__(self) -> None:
        self.units: list[int] = []

    def __call__(self, samples: Sequence[Sample]) -> dict[Sample, LoadedRow]:
        self.units.append(samples[0][1] // 10)
        return {sample: row() for sample in samples}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def settle(pool: ThreadPoolExecutor) -> None:
    """Wait for all that was asked of the only thread. What it finished may have asked for more."""
    for _ in range(8):
        pool.submit(int).result()


def unit(number: int, rows: int = 2) -> dict[object, list[Sample]]:
    return {number: [(0, 10 * number + place) for place in range(rows)]}


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


def test_without_a_limit_rows_stay_and_are_loaded_once(pool: ThreadPoolExecutor) -> None:
    loads = Loads()
    rows = UpcomingRows(None, loads, pool, BYTES)
    for _ in range(2):
        rows.announce(unit(1))
        assert rows.take([(1, (0, 10))])[0].nbytes == BYTES
    assert loads.units == [1]
    rows.close()


def test_a_unit_is_loaded_once_for_all_that_wait_and_again_after_a_failure(pool: ThreadPoolExecutor) -> None:
    made, gate = [0], threading.Event()

    def load(samples: Sequence[Sample]) -> dict[Sample, LoadedRow]:
        made[0] += 1
        gate.wait(10)
        if made[0] == 1:
            raise StoreError("away")
        return {sample: row() for sample in samples}

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
