"""Workers of different kinds on one scheduler. The scheduler and its workers are threads of this process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import Client, LocalCluster, SpecCluster, Worker, get_worker
from distributed.diagnostics.plugin import SchedulerPlugin

from daskt2i.deploy.only import Only
from daskt2i.deploy.workers import RANK_MEMORY, workers_of
from daskt2i.encode.model_cache import own_threads
from daskt2i.executors.dask import DaskExecutor
from daskt2i.launch.dask_ranks import DaskRankSpawner
from daskt2i.plan import WorkerLayout
from daskt2i.session.schedulers import Scheduler, connect

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


def test_results_that_are_lost_with_their_worker_are_made_again_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask cannot run an item elsewhere that was for the worker which is gone."""
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


def test_equal_workers_with_one_thread_share_the_queue_of_the_scheduler() -> None:
    """A task for a certain worker bypasses the queue, and more tasks would be blamed for the death of a worker."""
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
