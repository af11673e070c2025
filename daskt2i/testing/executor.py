"""The conformance suite for executors. Subclass `ExecutorSuite` and give an `executor` fixture.

    class TestMine(ExecutorSuite):
        @pytest.fixture
        def executor(self):
            executor = MyExecutor(2)
            yield executor
            executor.close()

Tests that do not damage an executor use the fixture `started`, tests that kill its workers the fixture `attacked`. If a
start takes long, override them so that tests share a started executor.

Set `processes = False` for an executor that runs work in the calling process: killing that would end the test run.

Covers: the rules of `protocols.Executor`.
Does not cover: speed, or machines that disappear.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daskt2i.errors import RowRejected, WorkerLost
from daskt2i.protocols import Executor, WorkerDeath


def double(item: int) -> int:
    """Twice the item."""
    return 2 * item


def nap(item: int) -> int:
    """The item, after 20 ms."""
    time.sleep(0.02)
    return item


def refuse_thirteen(item: int) -> int:
    """The item, but 13 raises an error of daskt2i, and 14 an unexpected error."""
    if item == 13:
        raise RowRejected("missing-file", "thirteen")  # type: ignore[arg-type]
    if item == 14:
        raise ZeroDivisionError("fourteen")
    return item


def process_of(item: int) -> int:
    """The id of the process that runs it."""
    return os.getpid()


class DieOnce:
    """Kills its process at the first call with each deadly item. It counts every call with a file in a folder."""

    def __init__(self, marks: Path, deadly: tuple[int, ...], always: bool = False) -> None:
        self.marks, self.deadly, self.always = marks, deadly, always

    def __call__(self, item: int) -> int:
        starts = len(list(self.marks.glob(f"{item}-*")))
        (self.marks / f"{item}-{starts}-{os.getpid()}").touch()
        if item in self.deadly and (self.always or starts == 0):
            os.kill(os.getpid(), signal.SIGKILL)
        return item


class Counting:
    """An endless source of items that counts how many were taken."""

    def __init__(self) -> None:
        self.drawn = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.drawn += 1
            yield self.drawn


class ExecutorSuite:
    """Conformance of an `Executor`."""

    processes = True

    @pytest.fixture
    def executor(self) -> Executor:
        """A new executor, with two workers if it has workers."""
        raise NotImplementedError("override the fixture `executor`")

    @pytest.fixture
    def started(self, executor: Executor) -> Executor:
        """A started executor, for tests that do not damage it. If a start takes long, tests may share one."""
        executor.start()
        return executor

    @pytest.fixture
    def attacked(self, executor: Executor) -> Executor:
        """A started executor, for tests that kill its workers. Tests may share one."""
        executor.start()
        return executor

    def test_it_says_what_it_has_draws_items_as_they_are_needed_and_may_be_closed_twice(
        self, executor: Executor
    ) -> None:
        force = executor.start()
        assert force.workers >= 1
        assert force.threads >= 1
        source = Counting()
        outcomes = executor.run(nap, source)
        for _ in range(5):
            next(outcomes)
        outcomes.close()  # type: ignore[attr-defined]
        assert source.drawn <= 5 + 4 * force.workers + 4
        executor.close()
        executor.close()

    def test_every_item_comes_back_once_with_its_result(self, started: Executor) -> None:
        assert dict(started.run(double, range(40))) == {i: 2 * i for i in range(40)}

    def test_no_items_no_results(self, started: Executor) -> None:
        assert list(started.run(double, [])) == []

    def test_it_runs_twice(self, started: Executor) -> None:
        assert len(list(started.run(double, range(3)))) == len(list(started.run(double, range(3)))) == 3

    def test_equal_items_are_not_merged(self, started: Executor) -> None:
        assert [r for _, r in started.run(double, [7, 7, 7])] == [14, 14, 14]

    def test_an_error_comes_back_with_its_item_and_the_others_go_on(self, started: Executor) -> None:
        found: dict[int, Any] = dict(started.run(refuse_thirteen, range(10, 20)))
        assert len(found) == 10
        assert isinstance(found[13], RowRejected)
        assert found[13].detail == "thirteen"
        assert isinstance(found[14], ZeroDivisionError)
        assert found[15] == 15

    def test_an_error_names_the_worker(self, started: Executor) -> None:
        found: dict[int, Any] = dict(started.run(refuse_thirteen, [13, 14]))
        for error in found.values():
            host, _, process = error.worker.rpartition(":")
            assert host
            assert (int(process) != os.getpid()) is self.processes

    def test_an_item_alone_comes_back_with_its_result_or_its_error(self, started: Executor) -> None:
        found: dict[int, Any] = dict(started.run(refuse_thirteen, [12, 13], alone=True))
        assert (found[12], type(found[13])) == (12, RowRejected)

    def test_an_avoided_worker_gets_no_more_items(self, started: Executor) -> None:
        if not self.processes:
            pytest.skip("runs in this process")
        error: Any = dict(started.run(refuse_thirteen, [13]))[13]
        assert started.avoid([error.worker]) >= 1
        assert int(error.worker.rpartition(":")[2]) not in {r for _, r in started.run(process_of, range(8))}
        assert started.avoid([]) >= 1

    def test_work_is_picklable_both_ways(self, started: Executor) -> None:
        work = pickle.loads(pickle.dumps(double))
        assert next(iter(started.run(work, [1]))) == (1, 2)

    def test_a_worker_that_dies_costs_no_item(self, attacked: Executor, tmp_path: Path) -> None:
        if not self.processes:
            pytest.skip("runs in this process")
        assert sorted(i for i, _ in attacked.run(DieOnce(tmp_path, (3, 8)), range(12))) == list(range(12))
        if (deaths := getattr(attacked, "worker_deaths", None)) is not None:
            assert {3, 8} <= {item for death in deaths for item in death.items}
            assert all(isinstance(death, WorkerDeath) and death.how and death.left >= 0 for death in deaths)

    def test_an_item_that_always_kills_its_worker_is_named_and_the_others_go_on(
        self, attacked: Executor, tmp_path: Path
    ) -> None:
        if not self.processes:
            pytest.skip("runs in this process")
        found: dict[int, Any] = dict(attacked.run(DieOnce(tmp_path, (5,), always=True), range(8)))
        assert isinstance(found.pop(5), WorkerLost)
        assert found == {i: i for i in (0, 1, 2, 3, 4, 6, 7)}
        assert len(list(tmp_path.glob("5-*"))) >= 3

    def test_work_runs_in_another_process(self, started: Executor) -> None:
        if not self.processes:
            pytest.skip("runs in this process")
        assert os.getpid() not in {r for _, r in started.run(process_of, range(4))}
