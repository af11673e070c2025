"""Every executor keeps the same promises."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from builders.processes import children, left, listening
from dask.utils import key_split
from distributed import Client

from daskt2i.config.workflow_file import load_defaults
from daskt2i.errors import ConfigError, ExecutorError, ModelError, SchedulerError
from daskt2i.plan import GIB, WorkerLayout
from daskt2i.protocols import Executor, ExecutorInfo, WorkerDeath
from daskt2i.session.schedulers import Scheduler, open_executor
from daskt2i.testing.executor import ExecutorSuite, double

TWO = WorkerLayout(2, 1, 2 * GIB, "two")

_LARGE: list[weakref.ref[Any]] = []


class Large:
    """An object that a weak reference can point to."""


def fail_with_something_large(item: str) -> int | None:
    """The number of large objects of failed items that still exist; None if no item failed in this process."""
    if item == "look":
        return sum(ref() is not None for ref in _LARGE) if _LARGE else None
    gc.disable()
    large = Large()
    _LARGE.append(weakref.ref(large))
    raise ValueError("on purpose")


def opened(text: str) -> Iterator[Executor]:
    load_defaults()
    executor = open_executor(Scheduler.parse(text), TWO)
    yield executor
    executor.close()


Shared = Callable[[str], tuple[Executor, ExecutorInfo]]


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """Started executors that several tests share, and what they say."""
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)

        @functools.cache
        def started(text: str) -> tuple[Executor, ExecutorInfo]:
            executor = stack.enter_context(contextlib.contextmanager(opened)(text))
            return executor, executor.start()

        yield started


class TestSerial(ExecutorSuite):
    processes = False

    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        yield from opened("serial")


class TestMultiprocessing(ExecutorSuite):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        yield from opened("multiprocessing:2")

    @pytest.fixture
    def started(self, shared: Shared) -> Executor:
        return shared("multiprocessing:2")[0]

    @pytest.fixture
    def attacked(self, started: Executor) -> Executor:
        started.worker_deaths.clear()  # type: ignore[attr-defined]
        return started

    def test_a_worker_that_dies_costs_no_item(self, attacked: Executor, tmp_path: Path) -> None:
        super().test_a_worker_that_dies_costs_no_item(attacked, tmp_path)
        died = {f"{socket.gethostname()}:{path.name.split('-')[2]}" for path in tmp_path.glob("[38]-0-*")}
        deaths: deque[WorkerDeath] = attacked.worker_deaths  # type: ignore[attr-defined]
        assert {(d.how.split(" (")[0], d.left) for d in deaths} == {("was killed by SIGKILL", 2)}
        assert {d.worker for d in deaths} <= died


class TestJoblib(ExecutorSuite):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        yield from opened("joblib:2")

    @pytest.fixture
    def started(self, shared: Shared) -> Executor:
        return shared("joblib:2")[0]

    @pytest.fixture
    def attacked(self, started: Executor) -> Executor:
        started.worker_deaths.clear()  # type: ignore[attr-defined]
        return started

    @pytest.mark.slow  # `TestMultiprocessing` and `TestDask` cover most of it
    def test_an_avoided_worker_gets_no_more_items(self, started: Executor) -> None:
        super().test_an_avoided_worker_gets_no_more_items(started)

    @pytest.mark.slow
    def test_a_worker_that_dies_costs_no_item(self, attacked: Executor, tmp_path: Path) -> None:
        super().test_a_worker_that_dies_costs_no_item(attacked, tmp_path)
        deaths: deque[WorkerDeath] = attacked.worker_deaths  # type: ignore[attr-defined]
        assert {(d.how.split(" (")[0], d.left) for d in deaths} == {("was killed by SIGKILL", 2)}

    @pytest.mark.slow
    def test_an_item_that_always_kills_its_worker_is_named_and_the_others_go_on(
        self, attacked: Executor, tmp_path: Path
    ) -> None:
        super().test_an_item_that_always_kills_its_worker_is_named_and_the_others_go_on(attacked, tmp_path)


class TestDask(ExecutorSuite):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        yield from opened("local:2")

    @pytest.fixture
    def started(self, shared: Shared) -> Executor:
        return shared("local:2")[0]

    @pytest.fixture
    def attacked(self, started: Executor) -> Executor:
        return started  # its nannies start workers again

    def test_it_listens_only_on_loopback(self, shared: Shared) -> None:
        _, force = shared("local:2")
        assert force.dashboard.startswith("http://127.0.0.1:")
        assert force.address.startswith("tls://127.0.0.1:")
        assert listening({psutil.Process(), *children()}) <= {"127.0.0.1", "::1"}

    def test_the_memory_of_a_failed_item_is_freed_at_once(self, started: Executor) -> None:
        """The arrays of a chunk that ran out of memory must not wait for Python's garbage collection."""
        outcomes = list(started.run(fail_with_something_large, ["fail"] * 8 + ["look"] * 8))
        found = [left for item, left in outcomes if item == "look" and left is not None]
        assert found
        assert not any(found)

    @pytest.mark.slow
    def test_dask_keeps_no_records_of_finished_tasks(self, executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("daskt2i.executors.dask._COUNT_SECONDS", 0.0)
        executor.start()
        client: Client = executor._connection.client  # type: ignore[attr-defined]
        assert len(dict(executor.run(double, range(200)))) == 200
        assert key_split.cache_info().currsize < 100
        assert len(client.scheduler_comm.recent_message_log) < 50  # without the cleanup: 200
        deadline = time.monotonic() + 20  # the scheduler's process cleans up every 5 s
        while max((kept := client.run_on_scheduler(_kept)).values()) >= 50 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert max(kept.values()) < 50, kept
        assert client.run_on_scheduler(_limits) == {100}

    def test_workers_have_the_systems_setting_for_freed_memory_and_the_planned_threads(self, started: Executor) -> None:
        """The variable MALLOC_TRIM_THRESHOLD_ was not set when `shared` started them."""
        wanted = {"MALLOC_TRIM_THRESHOLD_": None, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
        assert dict(started.run(os.getenv, list(wanted))) == wanted


def _kept(dask_scheduler: Any) -> dict[str, int]:
    spans = list(dask_scheduler.extensions["spans"].spans.values())
    assert spans, "Dask keeps its spans in another place now: look there"
    return {
        "spans": sum(len(span._metadata["collections"]) for span in spans if span._metadata),  # without: 200
        "seen": sum(len(getattr(span, "_metadata_seen", ())) for span in spans),  # distributed before 2026.8
        "names": key_split.cache_info().currsize,
        "messages": max(len(comm.recent_message_log) for comm in dask_scheduler.stream_comms.values()),  # without: 100
    }


def _limits(dask_scheduler: Any) -> set[int]:
    return {comm.recent_message_log.maxlen for comm in dask_scheduler.stream_comms.values()}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster that daskt2i did not start. Its workers have two threads, so the driver gives each worker its items."""
    from distributed import LocalCluster

    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    # Dask gives up a worker that does not come back within 15 s. On a busy machine it can take longer.
    patient = dask.config.set({"distributed.deploy.lost-worker-timeout": "120s"})
    with patient, LocalCluster(n_workers=2, threads_per_worker=2, silence_logs=50, **here) as cluster:
        yield cluster.scheduler_address


class TestAttachedDask(ExecutorSuite):
    @pytest.fixture
    def executor(self, address: str) -> Iterator[Executor]:
        yield from opened(address)

    @pytest.mark.slow  # it starts a worker anew seven times
    def test_an_item_that_always_kills_its_worker_is_named_and_the_others_go_on(
        self, attacked: Executor, tmp_path: Path
    ) -> None:
        super().test_an_item_that_always_kills_its_worker_is_named_and_the_others_go_on(attacked, tmp_path)

    def test_closing_leaves_the_cluster_running(self, executor: Executor, address: str) -> None:
        executor.start()
        executor.close()
        again = open_executor(Scheduler.parse(address), TWO)
        again.start()
        assert list(again.run(double, [4])) == [(4, 8)]
        again.close()


def test_an_address_without_a_scheduler_is_reported_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskt2i.deploy.connect._SERVER_TIMEOUT", 1.0)
    with pytest.raises(SchedulerError, match=r"No scheduler answers at tcp://127\.0\.0\.1:9"):
        open_executor(Scheduler.parse("tcp://127.0.0.1:9"), TWO).start()


class Unportable(Exception):
    """An error that cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def fail_in_ways(way: str) -> None:
    try:
        raise Unportable("out of reach")
    except Unportable as error:
        if way == "foreign":
            raise
        raise ModelError("The model does not load.") from (error if way == "cause" else None)


@pytest.mark.parametrize("kind", ["multiprocessing:2", pytest.param("joblib:2", marks=pytest.mark.slow), "local:2"])
def test_an_error_that_cannot_be_pickled_is_reported_and_a_daskt2i_error_keeps_its_class(
    kind: str, shared: Shared
) -> None:
    """The class decides whether the run continues, but Dask would send `Exception("ModelError(…)")`."""
    executor, _ = shared(kind)
    found: dict[str, Any] = dict(executor.run(fail_in_ways, ["foreign", "cause", "context"]))
    assert type(found["foreign"]) is ExecutorError
    assert str(found["foreign"]) == "Unportable: out of reach"
    for way in ("cause", "context"):
        assert type(found[way]) is ModelError
        assert (str(found[way]), found[way].ends_run) == ("The model does not load.", True)
    assert found["cause"].caused_by == "Unportable"


@pytest.mark.parametrize("text", ["local:0", "local:x", ":3", "serial:2", "nowhere", "nowhere:2", ""])
def test_a_text_that_names_no_scheduler_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Scheduler.parse(text)


@pytest.mark.parametrize("kind", ["multiprocessing:2", "local:2", pytest.param("joblib:2", marks=pytest.mark.slow)])
def test_no_worker_outlives_a_killed_driver(kind: str, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(
        textwrap.dedent(f"""
        import time
        from daskt2i.session.schedulers import Scheduler, open_executor
        from daskt2i.config.workflow_file import load_defaults
        from daskt2i.plan import WorkerLayout

        if __name__ == "__main__":
            load_defaults()
            executor = open_executor(Scheduler.parse({kind!r}), WorkerLayout(2, 1, 1 << 31, ""))
            executor.start()
            outcomes = executor.run(time.sleep, [0.01, 0.01] + [600.0] * 8)
            next(outcomes), next(outcomes)
            print("busy", flush=True)
            next(outcomes)
        """)
    )
    driver = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "busy\n"
    workers = psutil.Process(driver.pid).children(recursive=True)
    assert workers
    driver.kill()
    driver.wait()
    driver.stdout.close()
    assert left(workers, 30) == []
