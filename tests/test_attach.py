"""Guests: what a user keeps on his workers and in his process is there after us as it was before."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dask import delayed
from distributed import Client, LocalCluster, WorkerPlugin
from workflows_for_tests import fake_settings

from daskt2i.encode import model_cache
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.encode.summary import Summary
from daskt2i.executors import unload
from daskt2i.executors.unload import unload_encoders
from daskt2i.launch.launcher import launch
from daskt2i.plan import GIB, Crew
from daskt2i.session.schedulers import Scheduler
from daskt2i.session.session import Session

ENV = {"PYTHONPATH": str(Path(__file__).parent)}
ONE = Crew(1, 1, 2 * GIB, "one")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of a user, who has a cluster of two workers with nannies."""
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(2, threads_per_worker=1, silence_logs=50, **here) as cluster, Client(cluster) as client:
        yield client


def session(of: Client) -> Session:
    """Of ours, on his cluster."""
    return Session(Scheduler.parse(of.scheduler.address), Crew(0, 0, 0, "his"))


def encode_on(workers: Session, out: Path) -> Summary:
    return encode(prepare(fake_settings(), out), workers.executor())


def train_on(workers: Session) -> list[dict[str, Any]]:
    """Two ranks that do nothing. Returns the events."""
    events: list[dict[str, Any]] = []
    launch("rank_modules.toy", {"do": "tell", "text": ""}, workers.hands()[0], 2, 1, events.append, env=ENV)
    return events


class Users(WorkerPlugin):
    name = "users"


def keep(dask_worker: Any) -> int:
    dask_worker.data["of the user"] = 42
    return os.getpid()


def kept(dask_worker: Any) -> tuple[Any, bool]:
    return dask_worker.data.get("of the user"), "users" in dask_worker.plugins


def test_what_a_user_keeps_on_his_workers_survives_a_training(client: Client, tmp_path: Path) -> None:
    scattered = client.scatter(list(range(100)), hash=False)
    persisted = client.persist(delayed(sum)([1, 2, 3]))
    client.register_plugin(Users())
    pids = client.run(keep)
    with session(client) as ours:
        assert not encode_on(ours, tmp_path / "one").failed
        assert sum(client.run(model_cache.held).values()) > 0
        told = [event for event in train_on(ours) if event["kind"] == "note"]
        assert told == []
        assert client.run(os.getpid) == pids, "a worker was started again"
        assert {future.status for future in scattered} == {"finished"}
        assert client.gather(scattered) == list(range(100))
        assert persisted.compute() == 6
        assert set(client.run(kept).values()) == {(42, True)}
        # Encoders are gone, and come again with the next chunk.
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
    while not client.processing()[address]:
        time.sleep(0.02)
    time.sleep(0.1)
    assert unload_encoders(client) == [f"{address} still encodes, so its encoders stay in memory."]
    assert client.run(model_cache.held)[address] == 2
    busy.result()
    assert unload_encoders(client) == []
    assert set(client.run(model_cache.held).values()) == {0}


def freeze(seconds: float) -> int:
    """On a worker: its event loop answers nobody meanwhile."""
    time.sleep(seconds)
    return 0


def test_a_worker_that_does_not_answer_is_named(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unload, "_ASK_SECONDS", 0.5)
    address = sorted(client.run(os.getpid))[0]
    frozen = threading.Thread(target=client.run, args=(freeze, 2.0), kwargs={"workers": [address]})
    frozen.start()
    time.sleep(0.3)
    assert unload_encoders(client) == [f"{address} did not answer, so encoders that are loaded there stay in memory."]
    frozen.join()


def test_workers_of_our_own_are_started_again(tmp_path: Path) -> None:
    with Session(Scheduler.parse("local:1"), ONE) as ours:
        encode_on(ours, tmp_path / "run")
        client = ours._connected().client
        before = client.run(os.getpid)
        hands, _ = ours.hands()
        with hands.opened(lambda message: None) as notes:
            assert list(notes) == []
        assert set(client.run(os.getpid).values()).isdisjoint(before.values())
        assert set(client.run(model_cache.held).values()) == {0}
        assert not encode_on(ours, tmp_path / "again").failed
