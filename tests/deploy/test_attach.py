"""daskt2i leaves a user's workers and process unchanged: data, plugins, settings, loggers, signals."""

from __future__ import annotations

import copy
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import distributed
import pytest
from builders import CHILD_PATH
from builders.waiting import wait_for
from builders.workflows import fake_settings
from dask import delayed
from distributed import Client, LocalCluster, WorkerPlugin

from daskt2i.cli.endings import report_errors
from daskt2i.config.workflow_file import load_defaults
from daskt2i.deploy import connect
from daskt2i.deploy.connect import attach
from daskt2i.encode import model_cache
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.encode.summary import EncodeResult
from daskt2i.errors import SchedulerError
from daskt2i.events import LaunchEvent
from daskt2i.executors import unload
from daskt2i.executors.unload import unload_encoders
from daskt2i.launch.launcher import launch
from daskt2i.plan import GIB, WorkerLayout
from daskt2i.session.schedulers import Scheduler
from daskt2i.session.session import Session

ENV = {"PYTHONPATH": CHILD_PATH}
ONE = WorkerLayout(1, 1, 2 * GIB, "one")
HIS = WorkerLayout(0, 0, 0, "his")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """The client of a user, with a cluster of two workers with nannies."""
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(2, threads_per_worker=1, silence_logs=50, **here) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a worker may need more than the usual three seconds to answer."""
    monkeypatch.setattr(unload, "_ASK_SECONDS", 60.0)


def session(of: Client) -> Session:
    """A session on the user's cluster."""
    return Session(Scheduler.parse(of.scheduler.address))


def encode_on(workers: Session, out: Path, layout: WorkerLayout = HIS) -> EncodeResult:
    return encode(prepare(fake_settings(), out), workers.executor(layout))


def train_on(workers: Session) -> list[LaunchEvent]:
    """Launch two ranks that do nothing, and return the events."""
    events: list[LaunchEvent] = []
    launch("rank_modules.toy", {"do": "tell", "text": ""}, workers.spawner(HIS)[0], 2, 1, events.append, env=ENV)
    return events


def loggers() -> dict[str, Any]:
    """Levels, handlers with their levels and filters, filters."""
    known = {"root": logging.root} | {
        name: logger for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }
    return {
        name: (
            logger.level,
            logger.disabled,
            logger.propagate,
            [(id(handler), handler.level, tuple(handler.filters)) for handler in logger.handlers],
            tuple(logger.filters),
        )
        for name, logger in known.items()
    }


def process() -> dict[str, Any]:
    """The parts of this process that daskt2i must not change."""
    try:
        default = distributed.default_client().id
    except ValueError:
        default = None
    return {
        "config": copy.deepcopy(dask.config.config),
        "environ": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "client": default,
        "loggers": loggers(),
    }


class Watch:
    """A thread that checks all the time whether this process has changed."""

    def __init__(self) -> None:
        load_defaults()  # reading a workflow adds this section to Dask's settings
        self.before, self.wrong, self.looks = process(), dict[str, Any](), 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.01):
            self.looks += 1
            now = process()
            for part in ("config", "environ", "signals", "client"):
                if now[part] != self.before[part]:
                    self.wrong[part] = now[part]
            # A module that is imported during the watch may add its own loggers.
            there = {name: now["loggers"].get(name) for name in self.before["loggers"]}
            if there != self.before["loggers"]:
                self.wrong["loggers"] = {n: v for n, v in there.items() if v != self.before["loggers"][n]}


def test_attaching_changes_nothing_in_this_process(client: Client, tmp_path: Path) -> None:
    with Watch() as watch:
        connection = attach(client.scheduler.address, 0)
        try:
            assert not connection.owned
            assert distributed.default_client() is client
        finally:
            connection.close()
        with session(client) as ours:
            assert not encode_on(ours, tmp_path / "run").failed
    assert watch.looks > 50
    assert watch.wrong == {}


def test_a_notebook_without_a_default_client_finds_ours_until_it_closes(client: Client) -> None:
    """JupyterLab's Dask extension asks for `default_client()`. Only the users' own clients are used by `Run`."""
    before = distributed.client._current_client.set(None)  # the users' clients of the other tests
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed.client, "_global_clients", weakref.WeakValueDictionary())
        patch.setattr(connect, "in_notebook", lambda: True)
        first, second = (Client(client.scheduler.address, set_as_default=False) for _ in range(2))
        with pytest.raises(ValueError, match="No clients found"):
            distributed.default_client()
        config = copy.deepcopy(dask.config.config)
        connect.offer(first)
        connect.offer(second)
        assert distributed.default_client() is second
        assert connect.current_client() is None
        with Client(client.scheduler.address) as users:
            assert distributed.default_client() is users
            assert connect.current_client() is users
            third = Client(client.scheduler.address, set_as_default=False)
            connect.offer(third)
            assert distributed.default_client() is users, "a user's own client stays"
            third.close()
        assert distributed.default_client() is second
        second.close()
        assert distributed.default_client() is first
        first.close()
        with pytest.raises(ValueError, match="No clients found"):
            distributed.default_client()
        assert dask.config.config == config
    distributed.client._current_client.reset(before)


def test_the_link_to_the_dashboard_has_the_form_that_dask_is_told(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind JupyterHub. A variable that is not set leaves the run without a link, and not without its work."""
    other = Client(client.scheduler.address, set_as_default=False)
    monkeypatch.setenv("JUPYTERHUB_USER", "me")
    port = client.scheduler_info()["services"]["dashboard"]
    with dask.config.set({"distributed.dashboard.link": "/user/{JUPYTERHUB_USER}/proxy/{port}/status"}):
        assert connect.dashboard_of(other) == f"/user/me/proxy/{port}/status"
    with dask.config.set({"distributed.dashboard.link": "/user/{NOT_SET_HERE}/proxy/{port}/status"}):
        assert connect.dashboard_of(other) == ""
    other.close()


def wait_there(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_a_cluster_that_daskt2i_starts_leaves_this_process_unchanged_and_keeps_work_of_a_user(tmp_path: Path) -> None:
    """Its workers also restart, because a nanny writes its variables at each start; but not with a user's work."""
    users = dask.config.set({"distributed.comm.retry.count": 7, "pool": print})
    with users, Watch() as watch, Session(Scheduler.parse("local:1")) as ours:
        encode_on(ours, tmp_path / "run", ONE)
        connection = ours._connected(ONE)
        assert connection.owned
        before = connection.client.run(os.getpid)
        spawner, _ = ours.spawner(ONE)
        with spawner.opened(lambda message: None) as notes:
            assert list(notes) == []
        assert set(connection.client.run(os.getpid).values()).isdisjoint(before.values()), "a restart frees memory"
        assert set(connection.client.run(model_cache.held).values()) == {0}
        assert not encode_on(ours, tmp_path / "again", ONE).failed
        # `Run.client` is the client of these workers, so a user may work on them too.
        theirs, pids = connection.client, connection.client.run(os.getpid)
        scattered, task = theirs.scatter(list(range(9)), hash=False), theirs.submit(wait_there, 2.5, pure=False)
        assert unload_encoders(theirs, restart=True) == []
        assert theirs.run(os.getpid) == pids
        assert theirs.gather(scattered) == list(range(9))
        assert task.result() in pids.values()
        assert set(theirs.run(model_cache.held).values()) == {0}
        # The workers have the settings that they need, and the user's own settings too.
        asked = connection.client.run(settings_there)
        assert list(asked.values()) == [(0.6, "100ms", 100, 7, "1", "6640")]
    assert watch.looks > 50
    assert watch.wrong == {}


def settings_there() -> tuple[Any, ...]:
    names = ("worker.memory.target", "worker.profile.interval", "admin.low-level-log-length", "comm.retry.count")
    found = [dask.config.get(f"distributed.{name}") for name in names]
    return (*found, os.environ["OMP_NUM_THREADS"], os.environ["PYTHONHASHSEED"])


def test_log_lines_of_distributed_reach_the_user_while_attached_but_not_the_command_line(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    theirs, ear = logging.getLogger("distributed"), Ear(logging.ERROR)
    before = loggers()
    theirs.addHandler(ear)
    try:
        connection = attach(client.scheduler.address, 0)
        logging.getLogger("distributed.core").error("of another client")
        connection.close()
        assert heard == ["of another client"]
        with report_errors():
            logging.getLogger("distributed.core").error("a traceback")
            logging.getLogger("somebody.else").warning("of use")
        assert heard == ["of another client"]
    finally:
        theirs.removeHandler(ear)
    printed = capsys.readouterr().err
    assert "of use" in printed
    assert "a traceback" not in printed
    assert {name: now for name, now in loggers().items() if name in before} == before


class Users(WorkerPlugin):
    name = "users"


def keep(dask_worker: Any) -> int:
    dask_worker.data["of the user"] = 42
    return os.getpid()


def kept(dask_worker: Any) -> tuple[Any, bool]:
    return dask_worker.data.get("of the user"), "users" in dask_worker.plugins


def test_data_of_a_user_on_the_workers_survive_a_training(client: Client, tmp_path: Path) -> None:
    scattered = client.scatter(list(range(100)), hash=False)
    persisted = client.persist(delayed(sum)([1, 2, 3]))
    client.register_plugin(Users())
    pids = client.run(keep)
    with session(client) as ours:
        assert not encode_on(ours, tmp_path / "one").failed
        assert sum(client.run(model_cache.held).values()) > 0
        told = [event for event in train_on(ours) if event.kind == "note"]
        assert told == []
        assert client.run(os.getpid) == pids, "a worker was started again"
        assert {future.status for future in scattered} == {"finished"}
        assert client.gather(scattered) == list(range(100))
        assert persisted.compute() == 6
        assert set(client.run(kept).values()) == {(42, True)}
        # The encoders are unloaded, and the next chunk loads them again.
        assert set(client.run(model_cache.held).values()) == {0}
        loads = client.run(model_cache.loads)
        assert not encode_on(ours, tmp_path / "two").failed
        assert sum(client.run(model_cache.held).values()) > 0
        assert client.run(model_cache.loads) != loads


def hold_turn(seconds: float) -> None:
    with model_cache.turn:
        time.sleep(seconds)


def test_a_chunk_in_progress_keeps_its_encoders_and_the_note_says_so(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session(client) as ours:
        encode_on(ours, tmp_path / "run")
    address = next(a for a, models in client.run(model_cache.held).items() if models)
    monkeypatch.setattr(unload, "_CHUNK_SECONDS", 0.2)
    busy = client.submit(hold_turn, 1.5, workers=[address], pure=False)
    wait_for(lambda: client.processing()[address])
    time.sleep(0.1)
    assert unload_encoders(client) == [f"Encoders stay in memory on {address}: a chunk is still being encoded there."]
    assert client.run(model_cache.held)[address] == 2
    busy.result()
    assert unload_encoders(client) == []
    assert set(client.run(model_cache.held).values()) == {0}


def freeze(seconds: float) -> int:
    """Block the event loop of a worker."""
    time.sleep(seconds)
    return 0


def test_a_worker_that_does_not_answer_is_named(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unload, "_ASK_SECONDS", 0.5)
    address = sorted(client.run(os.getpid))[0]
    frozen = threading.Thread(target=client.run, args=(freeze, 2.0), kwargs={"workers": [address]})
    frozen.start()
    time.sleep(0.3)
    assert unload_encoders(client) == [f"Encoders may stay in memory on {address}: no answer came from there."]
    frozen.join()


class Late:
    """A client whose thread does not start within distributed's ten seconds, for the first times."""

    times = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        Late.times -= 1
        assert Late.times < 0


def test_a_client_on_a_machine_that_slept_is_made_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "Client", Late)
    monkeypatch.setattr(Late, "times", 1)
    assert isinstance(attach("tcp://127.0.0.1:9", 1).client, Late)
    monkeypatch.setattr(Late, "times", 2)
    with pytest.raises(SchedulerError, match=r"No scheduler answers at tcp://127\.0\.0\.1:9\. Nothing was started"):
        attach("tcp://127.0.0.1:9", 1)
