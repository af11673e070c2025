"""Workers of different kinds on one scheduler. The scheduler and its workers are threads of this process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from builders.waiting import wait_for
from distributed import Client, LocalCluster, SpecCluster, Worker, get_worker
from distributed.diagnostics.plugin import SchedulerPlugin

from daskt2i.deploy.only import Only
from daskt2i.deploy.workers import RANK_MEMORY, workers_of
from daskt2i.encode.model_cache import own_threads
from daskt2i.executors.dask import DaskExecutor
from daskt2i.executors.dask_task import on_worker
from daskt2i.executors.window.flight import Flight, Flying
from daskt2i.launch.dask_ranks import DaskRankSpawner
from daskt2i.plan import WorkerLayout
from daskt2i.protocols import WorkersJoined
from daskt2i.session.schedulers import Scheduler, connect
from daskt2i.types import Chunk

HERE = {"protocol": "tcp", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
WORKERS = {"wide": 8, "one": 1, "two": 1}


class Hands(SchedulerPlugin):
    """Counts the most items that each worker has had at once, and sees whether items were for certain workers."""

    name = "hands"

    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.most, self.restricted = scheduler, Counter[str](), set[bool]()

    def transition(self, key: str, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if finish == "processing":
            self.restricted.add(bool(self.scheduler.tasks[key].worker_restrictions))
        for worker in self.scheduler.workers.values() if finish == "processing" else ():
            self.most[worker.name] = max(self.most[worker.name], len(worker.processing))


@pytest.fixture(scope="module")
def cluster() -> Iterator[SpecCluster]:
    """Three workers, one of them with eight threads and a GPU, as it says."""
    with LocalCluster(n_workers=0, processes=False, silence_logs=50, **HERE) as started:
        for name, threads in WORKERS.items():
            resources = {"GPU": 1} if threads > 1 else {}
            options = {
                "nthreads": threads,
                "name": name,
                "host": "127.0.0.1",
                "dashboard": False,
                "resources": resources,
            }
            started.worker_spec[name] = {"cls": Worker, "options": options}
        started.sync(started._correct_state)
        started.wait_for_workers(len(WORKERS))
        yield started


@pytest.fixture
def executor(cluster: SpecCluster) -> Iterator[DaskExecutor]:
    opened = opened_on(cluster)
    opened.start()
    yield opened
    opened.close()


def opened_on(cluster: SpecCluster, only: str = "all") -> DaskExecutor:
    address = cluster.scheduler_address
    layout = WorkerLayout(0, 0, 0, "the cluster's own")
    return DaskExecutor(lambda: connect(Scheduler.parse(address), layout), own_threads=True, only=only)


_turns = {name: threading.Lock() for name in WORKERS}
_released = threading.Event()


def one_at_a_time(item: int) -> str:
    """The name of the worker. It works on one item at a time, as with chunks."""
    name = str(get_worker().name)
    with _turns[name]:
        time.sleep(0.005)
    return name


def held_back(item: int) -> str:
    """The name of the worker. The first one with eight threads ends only when the other items have ended."""
    name = str(get_worker().name)
    with _turns[name]:
        if name == "wide" and not _released.is_set():
            assert _released.wait(30)
    return name


def threads_of(item: int) -> tuple[str, int]:
    """The name of the worker, and the threads that torch may use there."""
    return str(get_worker().name), own_threads.get()


def test_no_worker_has_more_than_two_items_in_hand_whatever_its_threads(
    executor: DaskExecutor, cluster: SpecCluster
) -> None:
    """The scheduler's own queue gives nine to a worker with eight threads."""
    hands = Hands(cluster.scheduler)
    cluster.scheduler.add_plugin(hands)
    try:
        found = list(executor.run(one_at_a_time, range(40)))
    finally:
        cluster.scheduler.remove_plugin("hands")
    assert sorted(item for item, _ in found) == list(range(40))
    assert set(hands.most) == set(WORKERS)
    assert max(hands.most.values()) <= 2, hands.most


def test_a_worker_that_needs_long_for_its_first_item_holds_back_no_other(executor: DaskExecutor) -> None:
    _released.clear()
    got: Counter[str] = Counter()
    for number, (_, name) in enumerate(executor.run(held_back, range(12)), 1):
        assert isinstance(name, str), name
        got[name] += 1
        if number == 11:
            _released.set()
    assert got["wide"] == 1
    assert got["one"] + got["two"] == 11


def test_a_worker_that_would_end_last_gets_nothing(executor: DaskExecutor, cluster: SpecCluster) -> None:
    for worker in cluster.scheduler.workers.values():
        for _ in range(2):
            executor._lanes.took(worker.address, 3600.0 if worker.name == "one" else 0.01)
    got = Counter(name for _, name in executor.run(one_at_a_time, list(range(12))))
    assert set(got) == {"wide", "two"}
    assert got.total() == 12


def test_each_worker_has_its_own_threads(executor: DaskExecutor) -> None:
    info = executor.start()
    assert (info.threads, info.most_threads) == (1, 8)
    assert {result for _, result in executor.run(threads_of, range(12))} <= set(WORKERS.items())


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("all", {"wide", "one", "two"}),
        ("gpu", {"wide"}),
        ("cpu", {"one", "two"}),
        ("t*", {"two"}),
        ("127.0.0.1:*", {"wide", "one", "two"}),
        ("127.0.0.?", {"wide", "one", "two"}),
        ("tcp://127.0.0.1:*", {"wide", "one", "two"}),
        ("nobody", set()),
    ],
)
def test_a_setting_says_which_workers_a_stage_uses(cluster: SpecCluster, only: str, names: set[str]) -> None:
    with Client(cluster, set_as_default=False) as client:
        found = Only(only).of(client, workers_of(client))
    assert {about["name"] for about in found.values()} == names


def test_items_and_ranks_go_to_the_workers_of_their_setting_only(cluster: SpecCluster) -> None:
    opened = opened_on(cluster, only="cpu")
    try:
        assert opened.start().workers == 2
        assert {name for _, name in opened.run(one_at_a_time, range(12))} == {"one", "two"}
    finally:
        opened.close()
    with Client(cluster, set_as_default=False) as client:
        nodes = DaskRankSpawner(client, only=Only("gpu")).nodes(1)
        assert [workers_of(client)[node.address]["name"] for node in nodes] == ["wide"]


def test_a_worker_that_runs_a_rank_gets_no_items_and_gives_back_what_waits_there(
    executor: DaskExecutor, cluster: SpecCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskt2i.executors.dask._COUNT_SECONDS", 0.0)
    ranked: Any = next(worker for worker in cluster.workers.values() if worker.name == "one")
    _released.clear()
    got: Counter[str] = Counter()
    before = ranked.metrics
    with _turns["one"]:  # as if the rank had the whole worker: what is given to it does not end
        for number, (_, name) in enumerate(executor.run(one_at_a_time, range(60)), 1):
            assert isinstance(name, str), name
            got[name] += 1
            if number == 5:
                ranked.metrics = {**before, RANK_MEMORY: lambda worker: 1}
                cluster.sync(ranked.heartbeat)
    ranked.metrics = before
    cluster.sync(ranked.heartbeat)
    assert got.total() == 60
    assert not got["one"]
    assert "one" in {name for _, name in executor.run(one_at_a_time, range(30))}


def test_a_result_that_is_lost_after_its_item_ended_is_not_awaited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client knows that the item ended, and its worker is gone before the result was fetched. Dask waits for the
    item to run again, which it cannot: the item was for that worker. `take` must come back without it."""
    monkeypatch.setattr("daskt2i.executors.window.flight._FETCH_SECONDS", 0.2)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, silence_logs=50, **HERE) as two,
        Client(two, set_as_default=False) as client,
        closing(Flight[int](client, on_worker, steady)) as flight,
    ):
        lost, other = two.workers.values()
        flight.submit(Flying(5, [lost.address], lost.address))
        wait_for(flight.has_ended)
        two.sync(lost.close)
        (key,) = (future.key for future in flight.flying)
        wait_for(lambda: two.scheduler.tasks[key].state != "memory", what="the loss of the result")
        assert flight.take() is None
        (again,) = flight.stuck({other.address}, ())
        flight.submit(replace(again, on=[other.address], place=other.address))
        flying, outcome = wait_for(flight.take, what="the result of the other worker")
        assert (flying.item, outcome.worker) == (5, other.address)


def test_a_worker_that_joins_is_told_when_the_number_of_workers_has_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskt2i.executors.dask._COUNT_SECONDS", 0.0)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, silence_logs=50, **HERE) as growing:
        opened = opened_on(growing)
        assert opened.start().workers == 1
        try:
            opened._count()
            assert list(opened.worker_joins) == []
            growing.scale(2)
            growing.wait_for_workers(2)
            opened._count()
            assert list(opened.worker_joins) == [], "more may come in a moment"
            opened._count()
            assert list(opened.worker_joins) == [WorkersJoined(1, 2)]
            opened._count()
            assert len(opened.worker_joins) == 1
        finally:
            opened.close()


def test_workers_that_are_left_out_are_not_asked_and_not_counted(executor: DaskExecutor) -> None:
    wide = next(address for address, about in executor._usable.items() if about["name"] == "wide")
    assert wide in executor.ask(int, 30.0)
    info = executor.leave_out([wide])
    assert (info.workers, info.threads, info.most_threads) == (2, 1, 1)
    assert wide not in executor.ask(int, 30.0)


def test_a_worker_outside_of_the_setting_is_not_asked(cluster: SpecCluster) -> None:
    opened = opened_on(cluster, only="cpu")
    try:
        opened.start()
        assert len(opened.ask(int, 30.0)) == 2
    finally:
        opened.close()


def test_the_names_and_threads_of_processes_and_the_holders_of_chunks_are_known(executor: DaskExecutor) -> None:
    for _ in executor.run(one_at_a_time, [Chunk(index, index, index + 1) for index in range(12)]):
        if holders := executor.holders():
            assert set(holders.values()) <= set(WORKERS)
            break
    else:
        raise AssertionError("nobody ever had a chunk")
    ((name, threads),) = executor.processes.values()  # all workers of this test are one process
    assert WORKERS[name] == threads


def test_results_that_are_lost_with_their_worker_are_made_again_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask cannot run an item elsewhere that was for the worker which is gone. Here the driver mostly sees the loss
    before it fetches; the test above reaches the other order."""
    monkeypatch.setattr("daskt2i.executors.window.flight._FETCH_SECONDS", 0.2)
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=False, silence_logs=50, **HERE) as two:
        opened = opened_on(two)
        opened.start()
        try:
            for place in opened._lanes._lanes:
                opened._lanes.took(place, 0.01)
            outcomes = opened.run(steady, range(8))
            first, _ = next(outcomes)
            deadline = time.monotonic() + 30
            while any(worker.processing for worker in two.scheduler.workers.values()) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert sum(len(worker.has_what) for worker in two.scheduler.workers.values()) > 1
            two.sync(next(iter(two.workers.values())).close)
            assert sorted([first, *(item for item, _ in outcomes)]) == list(range(8))
        finally:
            opened.close()


def test_equal_workers_with_one_thread_share_the_queue_of_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task for a certain worker bypasses the queue, and more tasks would be blamed for the death of a worker."""
    monkeypatch.setattr("daskt2i.executors.window.lanes.UNEQUAL", 1e9)  # a busy machine makes them unequal
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, silence_logs=50, **HERE) as equal:
        hands = Hands(equal.scheduler)
        equal.scheduler.add_plugin(hands)
        address = equal.scheduler_address
        opened = DaskExecutor(lambda: connect(Scheduler.parse(address), WorkerLayout(0, 0, 0, "")))
        opened.start()
        try:
            assert len(list(opened.run(steady, range(12)))) == 12
        finally:
            opened.close()
    assert hands.restricted == {False}


def steady(item: int) -> None:
    """Takes long enough that chance makes no worker look slow."""
    time.sleep(0.1)
