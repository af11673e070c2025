"""One rank's process: its events arrive, its end is reported, and no process of it is left running."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from builders import TESTS
from builders.processes import children, left

from daskt2i.errors import ConfigError, PlanError, Reason, RowRejected, StoreFull
from daskt2i.launch import rank
from daskt2i.launch.placement import WorkerNode, arrange, interface_of, visible_gpus
from daskt2i.launch.supervisor import RankDied, RankSpec, environment, supervise

HERE = {"PYTHONPATH": str(TESTS)}


def spec(do: str, **job: Any) -> RankSpec:
    """A toy rank. With port 1 it makes no rendezvous, so it does not need to import torch."""
    return RankSpec("rank_modules.toy", {"do": do, **job}, port=1, env=HERE)


def never() -> bool:
    return False


def run(what: RankSpec, stop_at: str = "") -> tuple[bool, list[dict[str, Any]]]:
    """Supervise a rank until it ends, or stop it when it sends `stop_at`."""
    events: list[dict[str, Any]] = []
    finished = supervise(what, events.append, lambda: any(e["kind"] == stop_at for e in events))
    return finished, events


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def gone(pids: list[int], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


@pytest.fixture(autouse=True)
def _no_orphans() -> Iterator[None]:
    before = children()
    yield
    assert left(children() - before) == []


def test_events_arrive_in_order_and_prints_do_not_disturb_them() -> None:
    finished, events = run(spec("tell", text="é" * 300_000))
    assert finished
    assert [event["kind"] for event in events] == ["alive", "hello"]
    hello = events[1]
    assert hello["job"] == 300_000
    assert hello["argv"] == []
    assert "Rank(rank=0, world=1, local_rank=0, threads=1)" in hello["me"]
    assert hello["big"] == 2.0**80  # too large for Dask's messages as an integer
    assert hello["nan"] != hello["nan"]


def test_events_of_many_threads_stay_whole_beside_prints() -> None:
    _, events = run(spec("many", each=50))
    told = [e for e in events if e["kind"] == "n"]
    assert sorted((e["thread"], e["n"]) for e in told) == [(t, n) for t in range(4) for n in range(50)]


def test_a_crash_is_reported_with_its_exit_code_and_its_last_lines() -> None:
    with pytest.raises(RankDied, match="exit code 1") as caught:
        run(spec("crash"))
    assert caught.value.log[-1] == "RuntimeError: the wheel came off"
    assert "line 999" in caught.value.log
    assert len(caught.value.log) == 200
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.how, copy.log) == (caught.value.how, caught.value.log)


@pytest.mark.parametrize(
    ("what", "how"),
    [(spec("leave", code=3), "exit code 3"), (spec("kill"), "SIGKILL"), (spec("nothing"), "exit code 1")],
    ids=["exit", "killed", "no such thing"],
)
def test_the_error_says_how_a_rank_ended(what: RankSpec, how: str) -> None:
    with pytest.raises(RankDied) as caught:
        run(what)
    assert caught.value.how == how


def test_a_missing_module_is_named_in_the_last_line_of_the_log() -> None:
    with pytest.raises(RankDied) as caught:
        run(RankSpec("no.such.module", {}, port=1))
    assert "no.such.module" in str(caught.value) or "named 'no'" in str(caught.value)


def test_sys_exit_with_code_0_is_a_normal_end() -> None:
    assert run(spec("leave", code=0))[0]


@pytest.mark.parametrize(("do", "kind"), [("refuse", ConfigError), ("refuse_own_way", StoreFull)])
def test_a_deliberate_error_is_raised_again_in_its_own_class(do: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        run(spec(do))
    assert type(caught.value) is kind


def test_a_deliberate_error_keeps_its_notes_and_attributes() -> None:
    with pytest.raises(RowRejected) as caught:
        run(spec("refuse_a_row"))
    assert caught.value.reason is Reason.NO_CAPTION
    assert (caught.value.__notes__, caught.value.caused_by) == (["in the toy"], "ValueError")


def test_the_standard_input_of_the_module_is_empty() -> None:
    assert run(spec("read"))[1][-1] == {"kind": "read", "text": ""}


def test_stopping_ends_the_rank_and_its_children() -> None:
    begun = time.monotonic()
    finished, events = run(spec("sleep"), stop_at="asleep")
    assert not finished
    assert gone(events[1]["pids"], 0.5)
    assert time.monotonic() - begun < 5


def test_a_rank_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskt2i.launch.supervisor.TERM_SECONDS", 1.0)
    begun = time.monotonic()
    finished, events = run(spec("sleep", deaf=True), stop_at="deaf")
    assert not finished
    assert gone(events[1]["pids"], 0.5)
    assert 1 <= time.monotonic() - begun < 5


def test_children_that_a_rank_leaves_behind_are_ended() -> None:
    finished, events = run(spec("sleep", leave=True))
    assert finished
    assert gone(events[1]["pids"])


@pytest.mark.parametrize("broken", ["listener", "stop"])
def test_an_error_in_the_supervisor_leaves_no_process(broken: str) -> None:
    pids: list[int] = []

    def listen(event: dict[str, Any]) -> None:
        pids.extend(event.get("pids", []))
        if broken == "listener" and pids:
            raise KeyboardInterrupt

    def stop() -> bool:
        if broken == "stop" and pids:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        supervise(spec("sleep"), listen, stop)
    assert gone(pids, 1)


SUPERVISOR = """
import sys
sys.path.insert(0, {tests!r})
from launch.test_supervisor import spec, never
from daskt2i.launch.supervisor import supervise
supervise(spec("sleep", deaf=True), lambda event: print(*event.get("pids", []), flush=True), never)
"""


def test_a_rank_ends_when_its_supervisor_is_killed() -> None:
    code = SUPERVISOR.format(tests=HERE["PYTHONPATH"])
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pids: list[int] = []
        while not pids:
            pids = [int(word) for word in supervisor.stdout.readline().split()]
        os.kill(supervisor.pid, signal.SIGKILL)
    assert gone(pids)


def test_a_rank_module_that_is_started_by_hand_has_no_job_and_sends_no_events() -> None:
    rank.tell("anything", at=1)
    assert rank.rank().world == 1
    with pytest.raises(ConfigError, match="by hand"):
        rank.job()


def test_a_job_that_is_not_json_is_refused_before_anything_starts() -> None:
    with pytest.raises(TypeError):
        run(spec("tell", text=object()))


@pytest.mark.parametrize(("set_to", "kept"), [("65536", False), ("131072", True), (None, False)])
def test_dasks_allocator_setting_for_workers_does_not_reach_a_rank_but_a_users_own_does(
    monkeypatch: pytest.MonkeyPatch, set_to: str | None, kept: bool
) -> None:
    name = "MALLOC_TRIM_THRESHOLD_"
    if set_to is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, set_to)
    assert environment(spec("nothing")).get(name) == (set_to if kept else None)


def test_the_environment_is_that_of_torchrun_and_sets_threads_and_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    what = RankSpec("m", {}, rank=3, world=4, local_rank=1, local_world=2, threads=7, cuda="5", env={"A": "b"}, port=9)
    found = environment(what)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", "OMP_NUM_THREADS", "A")
    assert [found[name] for name in names] == ["3", "4", "1", "2", "9", "7", "b"]
    assert found["CUDA_VISIBLE_DEVICES"] == "5"
    assert found["GLOO_SOCKET_IFNAME"] == interface_of("127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    assert environment(what)["GLOO_SOCKET_IFNAME"] == "ib0"


def test_an_interface_is_found_by_each_of_its_addresses() -> None:
    for name, addresses in psutil.net_if_addrs().items():
        for entry in addresses:
            if entry.family.name in ("AF_INET", "AF_INET6"):
                assert interface_of(entry.address.partition("%")[0]) == name
    assert interface_of("localhost") == interface_of("127.0.0.1") == interface_of("127.0.1.1") != ""
    assert interface_of("192.0.2.1") == interface_of("no such host") == ""


def nodes(**hosts: tuple[int, tuple[str, ...]]) -> list[WorkerNode]:
    return [WorkerNode(f"{h}:{n}", h, gpus) for h, (count, gpus) in hosts.items() for n in range(count)]


@pytest.mark.parametrize(
    ("there", "ranks", "expected", "backend"),
    [
        (nodes(a=(2, ())), 2, [("a", 0, None), ("a", 1, None)], "gloo"),
        (nodes(a=(2, ("0", "1"))), 2, [("a", 0, "0"), ("a", 1, "1")], "nccl"),
        (nodes(a=(2, ("0",))), 2, [("a", 0, ""), ("a", 1, "")], "gloo"),
        (nodes(a=(1, ()), b=(2, ())), 2, [("b", 0, None), ("b", 1, None)], "gloo"),
        (nodes(a=(3, ()), b=(1, ("7",))), 1, [("b", 0, "7")], "nccl"),
        (nodes(a=(1, ("0",)), b=(2, ("0", "1"))), 3, [("b", 0, "0"), ("b", 1, "1"), ("a", 0, "0")], "nccl"),
    ],
    ids=["cpu", "own gpus", "one gpu for two", "one host is better", "gpu first", "two hosts"],
)
def test_ranks_share_hosts_but_not_gpus(there: list[WorkerNode], ranks: int, expected: list[Any], backend: str) -> None:
    found = arrange(there, ranks)
    assert [(p.node.host, p.local_rank, p.cuda) for p in found] == expected
    assert {p.backend for p in found} == {backend}
    assert [p.rank for p in found] == list(range(ranks))
    local = {host: [p.local_world for p in found if p.node.host == host] for host in "ab"}
    assert all(set(worlds) <= {len(worlds)} for worlds in local.values())


def test_each_gpu_is_used_once_although_dask_cuda_lists_it_for_several_workers() -> None:
    rotated = [WorkerNode(f"a:{n}", "a", tuple(str((n + k) % 4) for k in range(4))) for n in range(4)]
    assert [p.cuda for p in arrange(rotated, 4)] == ["0", "1", "2", "3"]


def test_gpus_can_be_left_unused() -> None:
    found = arrange(nodes(a=(2, ("0", "1"))), 2, use_gpus=False)
    assert [(p.cuda, p.backend) for p in found] == [("", "gloo")] * 2


@pytest.mark.parametrize("ranks", [0, 3])
def test_more_ranks_than_workers_are_refused(ranks: int) -> None:
    with pytest.raises(PlanError, match="2"):
        arrange(nodes(a=(2, ())), ranks)


def test_hidden_gpus_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == ()


@pytest.mark.parametrize("when", [0.0, 0.15, 0.4])
def test_a_stop_at_any_moment_of_the_start_leaves_no_process(when: float) -> None:
    begun = time.monotonic()
    stop: Callable[[], bool] = lambda: time.monotonic() - begun >= when  # noqa: E731
    assert not supervise(spec("sleep"), lambda event: None, stop)
