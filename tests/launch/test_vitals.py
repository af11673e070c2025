"""Ranks that stand still are named and started again; before ranks are stopped, a checkpoint is saved."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.config
import psutil
import pytest
from builders import CHILD_PATH
from builders.processes import children, left

from daskt2i import retries
from daskt2i.config.settings import LaunchSettings, TrainSettings
from daskt2i.config.workflow_file import load_defaults
from daskt2i.errors import Interrupted, RankLost
from daskt2i.events import LaunchEvent
from daskt2i.launch.launcher import LaunchResult, launch
from daskt2i.launch.placement import WorkerNode, arrange
from daskt2i.launch.rank_spawners import Ended, LocalRankSpawner, Message, outcome
from daskt2i.launch.supervisor import RankSpec
from daskt2i.launch.vitals import heartbeat, pulse, standstill, usage
from daskt2i.launch.vitals.standstill import Standstill
from daskt2i.store.run_folder import STANDSTILL, RunFolder
from daskt2i.train.upkeep.launching import _ForStatus
from daskt2i.train.upkeep.rank_memory import rank_bytes

ENV = {"PYTHONPATH": CHILD_PATH}
NAMES = ["Rank 0 of 2 (here)", "Rank 1 of 2 (there)"]


class WithoutRendezvous(LocalRankSpawner):
    """Ranks that need no torch: rank 0 makes no rendezvous."""

    def start(self, node: WorkerNode, spec: RankSpec, launch: str) -> None:
        assert self._put is not None
        if spec.rank == 0:
            self._put(Message(launch, 0, {"kind": "rendezvous", "host": "127.0.0.1", "port": 1}))
        super().start(node, replace(spec, port=1), launch)


class Watcher:
    """A listener that keeps the events, and does something when a rank has come to a step, once each."""

    def __init__(self, *deeds: tuple[int, int, Callable[[Watcher], None]]) -> None:
        self.deeds, self.events = list(deeds), list[LaunchEvent]()

    def __call__(self, event: LaunchEvent) -> None:
        self.events.append(event)
        if self.deeds and event.kind == "step":
            attempt, step, deed = self.deeds[0]
            if event.attempt == attempt and event["step"] >= step and self.listening(attempt):
                self.deeds.pop(0)
                deed(self)

    def listening(self, attempt: int) -> bool:
        return sum(e.kind == "listens" and e.attempt == attempt for e in self.events) == 2

    def of(self, kind: str) -> list[LaunchEvent]:
        return [event for event in self.events if event.kind == kind]

    def texts(self, kind: str) -> str:
        return "\n".join(str(event["text"]) for event in self.of(kind))

    def signal(self, rank: int, number: int) -> None:
        pids = {event.rank: event["pid"] for event in self.of("alive")}
        os.kill(pids[rank], number)


def run(folder: Path, seen: Watcher, **changes: Any) -> LaunchResult:
    how = {key: changes.pop(key) for key in list(changes) if key in ("stall_seconds", "walltime_seconds", "attempts")}
    job = {"folder": str(folder), **changes}
    return launch("rank_modules.beating", job, WithoutRendezvous(2), 2, 1, seen, env=ENV, **how)


def saved(folder: Path) -> int:
    return int(json.loads((folder / "checkpoint.json").read_text())["step"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes minutes takes seconds."""
    monkeypatch.setattr(pulse, "PULSE_SECONDS", 0.5)
    monkeypatch.setattr(retries, "TELL_RANK_SECONDS", 1.0)
    monkeypatch.setattr(standstill, "SILENT_SECONDS", 4.0)


@pytest.fixture(autouse=True)
def _no_orphans() -> Iterator[None]:
    before = children()
    yield
    assert left(children() - before) == []


# --- real processes -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_stopped_rank_and_a_hanging_one_are_named_and_all_start_again(tmp_path: Path) -> None:
    """Attempt 1 hangs in a read, in attempt 2 a process is stopped, attempt 3 finishes."""
    seen = Watcher(
        (2, 3, lambda w: w.signal(1, signal.SIGSTOP)),
        (3, 3, lambda w: (tmp_path / "enough").touch()),
    )
    (tmp_path / "first").touch()
    hung = threading.Event()

    def listen(event: LaunchEvent) -> None:
        if event.kind == "failed" and not hung.is_set():
            hung.set()
            (tmp_path / "checkpoint.json").write_text('{"step": 4}')  # so that it does not hang again
        seen(event)

    job = {"folder": str(tmp_path), "hang": 1}
    launched = launch(
        "rank_modules.beating", job, WithoutRendezvous(2), 2, 1, listen, 4, env=ENV, stall_seconds=5.0
    )  # fmt: skip
    assert launched.attempts == 3
    first, second = (event["text"] for event in seen.of("failed"))
    assert "stands at step 5 (reads samples)" in first
    assert first.startswith("Rank 1 of 2")
    assert second.startswith("Rank 1 of 2")
    assert "gives no sign of life" in second
    assert "its process is stopped (SIGSTOP)" in second
    waiting = seen.of("waiting")
    assert {event.rank for event in waiting} == {1}
    assert "After 0.0833 minutes all ranks start again from the newest checkpoint." in waiting[0]["text"]


def test_a_checkpoint_is_saved_on_demand_before_a_rank_leaves_and_before_ctrl_c_ends_all(tmp_path: Path) -> None:
    def ctrl_c(seen: Watcher) -> None:
        raise KeyboardInterrupt

    seen = Watcher(
        (1, 3, lambda w: os.kill(os.getpid(), signal.SIGUSR1)),
        (1, 12, lambda w: w.signal(1, signal.SIGTERM)),
        (2, 15, ctrl_c),
    )
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, seen)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    demanded, left = (event["step"] for event in seen.of("saved") if event.attempt == 1)
    assert 1 <= demanded < left  # ranks of this module do not wait for each other
    assert "A checkpoint is saved when the running step ends." in seen.texts("note")
    assert "A checkpoint is saved now, and then all ranks stop." in seen.texts("note")
    assert "Rank 1 of 2" in seen.texts("failed")
    assert f"it got SIGTERM. The checkpoint of step {left} was saved before. All ranks" in seen.texts("failed")
    again = [event["step"] for event in seen.of("step") if event.attempt == 2]
    assert again[0] == left + 1
    assert saved(tmp_path) > left


def test_a_rank_whose_worker_leaves_saves_and_ends_though_nobody_can_ask_it(tmp_path: Path) -> None:
    events: list[Mapping[str, Any]] = []
    spec = RankSpec("rank_modules.beating", {"folder": str(tmp_path)}, port=1, env=ENV)

    def stopping() -> Ended | None:
        return Ended("left") if any(event["kind"] == "step" for event in events) else None

    assert outcome(spec, events.append, stopping, lambda: 0).how == "left"
    kinds = [event["kind"] for event in events if event["kind"] in ("leaving", "saved")]
    assert kinds[:2] == ["leaving", "saved"]  # the SIGTERM that ends it may be told too
    assert saved(tmp_path) >= 1


def test_after_its_walltime_a_launch_saves_and_ends_with_one_sentence(tmp_path: Path) -> None:
    seen = Watcher()
    with pytest.raises(Interrupted, match=r"walltime_minutes.*The checkpoint of step \d+ is kept\. Train again"):
        run(tmp_path, seen, walltime_seconds=3.0)
    stands = saved(tmp_path)
    assert stands == seen.of("checkpoint")[-1]["step"]
    again = Watcher((1, 0, lambda w: (tmp_path / "enough").touch()))
    run(tmp_path, again)
    assert min(event["step"] for event in again.of("step") if event.rank == 0) == stands + 1


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_stopped_rank_is_woken_to_save_before_the_end_but_not_on_demand(tmp_path: Path) -> None:
    class Asking(Watcher):
        def __call__(self, event: LaunchEvent) -> None:
            super().__call__(event)
            if event.kind == "waiting":
                os.kill(os.getpid(), signal.SIGUSR1)

    seen = Asking((1, 3, lambda w: w.signal(0, signal.SIGSTOP)))
    with pytest.raises(Interrupted):
        run(tmp_path, seen, walltime_seconds=7.0)
    assert "No checkpoint can be saved: Rank 0 of 2" in seen.texts("note")
    assert "Rank 0 was stopped (SIGSTOP) when last heard of; it goes on for it." in seen.texts("note")
    assert saved(tmp_path) >= 1


def test_no_checkpoint_is_saved_by_a_rank_that_waits_for_a_disk() -> None:
    still = watched(beat(9, silent=88, state="disk-sleep")).frozen(1000.0)
    assert still is not None
    assert not still.stopped


@pytest.mark.usefixtures("quick")
def test_a_rank_that_is_stopped_before_it_has_started_is_told_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "enough").touch()
    stopped, waking = list[psutil.Process](), list[psutil.Process]()

    class Stopping(WithoutRendezvous):
        def start(self, node: WorkerNode, spec: RankSpec, launch: str) -> None:
            super().start(node, replace(spec, env={**spec.env, "RANK_IS": str(spec.rank)}), launch)
            while spec.rank == 1 and not stopped:
                for child in psutil.Process().children():
                    with suppress(psutil.Error):  # before its `exec` it is a copy of this process
                        if child.environ().get("RANK_IS") == "1":
                            child.suspend()
                            stopped.append(child)
                            waking.append(child)

    def listen(event: LaunchEvent) -> None:
        seen(event)
        if waking and event.kind == "waiting" and "(SIGSTOP)" in str(event["text"]):
            waking.pop().resume()

    seen = Watcher()
    launched = launch("rank_modules.beating", {"folder": str(tmp_path)}, Stopping(2), 2, 1, listen, env=ENV)
    assert launched.attempts == 1
    assert seen.of("waiting")[-1]["text"].startswith("Rank 1 of 2")
    assert "has not started yet: its process is stopped (SIGSTOP), since" in seen.texts("waiting")
    assert "After 2 minutes all ranks start again from the newest checkpoint." in seen.texts("waiting")
    assert "All ranks go on" in seen.texts("moving")


@pytest.mark.usefixtures("quick")
def test_attempts_that_stand_still_are_counted(tmp_path: Path) -> None:
    with pytest.raises(RankLost, match=r"stands at step 5 .* One attempt was allowed"):
        run(tmp_path, Watcher(), hang=0, attempts=1, stall_seconds=2.0)


# --- who stands still -----------------------------------------------------------------------------------------------


def beat(step: int, doing: str = "computes", seconds: float = 1.0, **more: Any) -> dict[str, Any]:
    about = {"kind": "pulse", "host": "h", "pid": 7, "silent": 0.5, "state": "running", "memory": 0, "cpu": 1.0}
    return {**about, "step": step, "doing": doing, "seconds": seconds, **more}


def watched(*pulses: dict[str, Any], limit: float = 600.0, now: float = 1000.0) -> Standstill:
    found = Standstill(NAMES[: len(pulses)], limit)
    for rank, event in enumerate(pulses):
        found.hear(rank, event, now)
    return found


@pytest.mark.parametrize(
    ("pulses", "rank", "says"),
    [
        ((beat(9, seconds=90), beat(9, seconds=90, silent=88, state="stopped")), 1, "no sign of life, at step 9"),
        ((beat(9, seconds=90), beat(9, "reads samples", 90)), 1, "stands at step 9 (reads samples)"),
        ((beat(8, "draws", 90), beat(9, seconds=90)), 0, "stands at step 8 (draws)"),
        ((beat(9, seconds=90), beat(9, seconds=90)), 0, "All 2 ranks stand at step 9 (computes): they may wait"),
        ((beat(9, seconds=90),), 0, "stands at step 9 (computes)"),
        ((beat(9, silent=88, state="disk-sleep"),), 0, "waits for a disk, a network file system or a device"),
    ],
    ids=["stopped", "reads", "draws", "all", "alone", "disk"],
)
def test_the_rank_that_the_others_wait_for_is_named(pulses: Any, rank: int, says: str) -> None:
    still = watched(*pulses).look(1000.0)
    assert still is not None
    assert still.rank == rank
    assert says in str(still)
    assert not still.over


def test_what_moves_or_was_never_told_is_no_standstill() -> None:
    assert watched(beat(9), beat(8, "draws", 30)).look(1000.0) is None
    silent = {key: value for key, value in beat(0).items() if key not in ("step", "doing", "seconds")}
    assert watched(silent, silent).look(1000.0) is None  # a module that does not say where it is


def test_a_worker_from_which_nothing_comes_is_named_without_a_pulse() -> None:
    found = watched(beat(9), beat(9))
    for second in range(0, 100, 5):
        found.hear(0, beat(9), 1000.0 + second)
        found.look(1000.0 + second)
    still = found.look(1099.0)
    assert still is not None
    assert still.rank == 1
    assert "its worker or host is frozen, or out of reach" in still.what


def test_a_rank_from_which_nothing_comes_at_its_start_is_told_and_ends_by_the_limit_of_the_start() -> None:
    found = Standstill(NAMES, 600.0, 120.0)
    for rank in (0, 1):
        found.begun(rank, 1000.0)
    found.hear(0, beat(1), 1001.0)
    for second in range(1001, 1060, 2):
        found.hear(0, beat(1), second)
        assert found.look(second) is None
    found.hear(0, beat(1), 1060.0)
    still = found.look(1060.0)
    assert still is not None
    assert still.what == f"{NAMES[1]} has not started yet: its worker is busy with other work, or out of reach"
    assert "After 2 minutes" in str(still)
    found.hear(0, beat(2), 1120.0)
    found.look(1120.0)
    still = found.look(1121.0)
    assert still is not None
    assert not still.over
    found.hear(1, beat(1), 1122.0)
    assert found.look(1122.0) is None


def test_a_driver_that_was_stopped_itself_blames_no_rank() -> None:
    found = watched(beat(9), beat(9))
    assert found.look(1001.0) is None
    assert found.look(5000.0) is None


def test_steps_that_take_long_have_more_time() -> None:
    found = watched(beat(9, seconds=300.0), limit=200.0)
    found.hear(0, beat(10, "reads samples", 0.1), 1001.0)
    found.hear(0, beat(10, seconds=600.0), 1002.0)
    assert found.look(1002.0) is None
    found.hear(0, beat(10, seconds=1000.0), 1003.0)
    still = found.look(1003.0)
    assert still is not None
    assert still.limit == 3000.0


def test_the_user_reads_a_standstill_seldom_and_its_end_once() -> None:
    found = watched(beat(9, seconds=60.0))
    told = []
    for second in range(0, 300, 2):
        found.hear(0, beat(9, seconds=60.0 + second), 1000.0 + second)
        told.append(found.news(found.look(1000.0 + second)))
    found.hear(0, beat(10), 1300.0)
    told += [found.news(found.look(1300.0)), found.news(found.look(1301.0))]
    sentences = [text for text in told if text]
    assert len(sentences) == 4  # after 60, 120 and 240 s, and at the end
    assert sentences[-1].startswith("All ranks go on")


# --- memory ---------------------------------------------------------------------------------------------------------

GIB = 1 << 30


def node(name: str, memory: int) -> WorkerNode:
    return WorkerNode(f"tcp://{name}", name, memory=memory * GIB)


def test_workers_with_too_little_memory_are_taken_last_and_named() -> None:
    nodes = [node("a", 1), node("b", 8), node("c", 0), node("d", 2)]
    enough = arrange(nodes, 2, need=4 * GIB)
    assert {placement.node.host for placement in enough} == {"b", "c"}  # of c no limit is known
    assert usage.too_small(enough, 4 * GIB) is None
    short = usage.too_small(arrange(nodes, 4, need=4 * GIB), 4 * GIB)
    assert short is not None
    assert "A rank needs about 4.0 GiB" in short
    assert "tcp://a (1.0 GiB)" in short
    assert "tcp://b" not in short


def test_a_rank_near_the_memory_of_its_worker_is_told_once() -> None:
    found = usage.Usage(arrange([node("a", 4), node("b", 0)], 2))
    assert found.hear(0, beat(1, memory=3 * GIB)) is None
    assert found.hear(1, beat(1, memory=99 * GIB)) is None
    said = found.hear(0, beat(2, memory=int(3.8 * GIB)))
    assert said is not None
    assert "Rank 0 of 2 (tcp://a) uses 3.8 GiB, and its worker has 4.0 GiB" in said
    assert found.hear(0, beat(3, memory=4 * GIB)) is None


def test_a_plan_counts_shards_and_weights_of_a_rank() -> None:
    small, large = settings_of("demo", "512 MiB"), settings_of("sd15", "4 GiB")
    assert rank_bytes(*small) < 1.5 * GIB
    assert rank_bytes(*large) > rank_bytes(*settings_of("sd15", "512 MiB")) + 3 * GIB
    assert rank_bytes(None, small[1]) == GIB


def settings_of(preset: str, cache: str) -> tuple[TrainSettings, LaunchSettings]:
    load_defaults()
    launch = LaunchSettings.model_validate({**dask.config.get("daskt2i.launch"), "cache": cache})
    return TrainSettings.model_validate({"model": {"preset": preset}}), launch


def test_while_a_rank_stands_still_the_run_folder_says_so(tmp_path: Path) -> None:
    seen = list[Any]()
    shown = _ForStatus(RunFolder(tmp_path), seen.append)
    shown.hear(LaunchEvent("waiting", 1, 1, {"text": "Rank 1 stands."}))
    assert json.loads((tmp_path / STANDSTILL).read_text()) == {"waiting": ["Rank 1 stands."]}
    shown.hear(LaunchEvent("moving", 1, None, {"text": "All ranks go on."}))
    assert not (tmp_path / STANDSTILL).exists()
    assert len(seen) == 2


def test_a_rank_tells_with_its_beat_where_its_time_goes_and_its_supervisor_passes_it_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "_me", heartbeat._Rank())
    monkeypatch.setattr(pulse, "PULSE_SECONDS", 0.0)
    heartbeat.at(3, heartbeat.COMPUTES)
    assert "shares" not in heartbeat._doing()
    heartbeat.spent({"waiting": 0.25, "exchange": 0.125})
    supervised = pulse.Pulse(os.getpid())
    supervised.heard(heartbeat._doing())
    assert (supervised.take() or {})["shares"] == {"waiting": 0.25, "exchange": 0.125}
