"""N ranks on N workers: all finish or all stop, an attempt resumes from the last checkpoint, no process is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.config
import psutil
import pytest
from builders import CHILD_PATH, TESTS
from builders.waiting import wait_for
from distributed import Client, LocalCluster
from rank_modules.ddp import expected

from daskt2i.deploy.workers import workers_of
from daskt2i.errors import ConfigError, NonFiniteLoss, PlanError, RankLost, SchedulerError
from daskt2i.events import LaunchEvent
from daskt2i.launch.attempt import LaunchState
from daskt2i.launch.dask_ranks import PULSES, TOPIC, DaskRankSpawner, _on_worker
from daskt2i.launch.launcher import LocalRankSpawner, launch
from daskt2i.launch.placement import WorkerNode
from daskt2i.launch.sole_use import sole_use
from daskt2i.launch.supervisor import RankSpec
from daskt2i.launch.vitals.usage import CPU, MEMORY

ENV = {"PYTHONPATH": CHILD_PATH, "LAUNCHED_BY": f"tests-{os.getpid()}"}
STEPS, BATCH = 8, 4


def job(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"folder": str(folder), "steps": STEPS, "batch": BATCH, "every": 2, "seconds": 0.02, **changes}


def value(folder: Path) -> float:
    state = json.loads((folder / "checkpoint.json").read_text())
    assert state["step"] == STEPS
    return float(state["value"])


def ranks_running() -> list[psutil.Process]:
    """Ranks of this test run; other runs may use the same machine."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                "daskt2i.launch.rank" in process.cmdline()
                and process.environ().get("LAUNCHED_BY") == ENV["LAUNCHED_BY"]
            ):
                found.append(process)
    return found


@pytest.fixture(autouse=True)
def _no_orphans() -> Iterator[None]:
    yield
    left = ranks_running()
    assert left == []


@contextlib.contextmanager
def two_workers() -> Iterator[Client]:
    # By default LocalCluster gives up a worker that needs 15 s to restart, as it may on a busy machine.
    # A turn of a dead driver ends after `lease-timeout`.
    settings = {
        "distributed.deploy.lost-worker-timeout": "120s",
        "distributed.scheduler.locks.lease-timeout": "4s",
        "distributed.scheduler.locks.lease-validation-interval": "250ms",
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1", silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with two_workers() as client:
        yield client


@pytest.fixture(params=["dask", pytest.param("local", marks=pytest.mark.slow)])
def spawner(request: pytest.FixtureRequest) -> Any:
    return LocalRankSpawner(2) if request.param == "local" else DaskRankSpawner(request.getfixturevalue("client"))


class Killer:
    """A listener that keeps the events, and kills a process once, when the run reaches a step."""

    def __init__(self, victim: Callable[[dict[int, int]], int] | None = None, step: int = 5) -> None:
        self.victim, self.step = victim, step
        self.events: list[LaunchEvent] = []
        self.threads: set[threading.Thread] = set()
        self.killed = 0.0

    def __call__(self, event: LaunchEvent) -> None:
        self.events.append(event)
        self.threads.add(threading.current_thread())
        if self.victim is not None and event.kind == "step" and event["step"] == self.step:
            pids = {e.rank: e["pid"] for e in self.events if e.kind == "alive"}
            os.kill(self.victim(pids), signal.SIGKILL)
            self.victim, self.killed = None, time.monotonic()
        if event.kind == "attempt" and event.attempt == 2:
            self.again = time.monotonic()

    def of(self, kind: str) -> list[LaunchEvent]:
        return [event for event in self.events if event.kind == kind]


def test_two_ranks_run_to_the_end_and_their_events_arrive_here(spawner: Any, tmp_path: Path) -> None:
    seen = Killer()
    launched = launch("rank_modules.ddp", job(tmp_path), spawner, 2, 1, seen, env=ENV)
    assert (launched.attempts, launched.ranks) == (1, 2)
    assert value(tmp_path) == pytest.approx(expected(STEPS, BATCH), abs=1e-12)
    assert launched.last["result"]["value"] == pytest.approx(expected(STEPS, BATCH), abs=1e-12)
    steps = [[e["step"] for e in seen.of("step") if e.rank == rank] for rank in (0, 1)]
    assert steps == [list(range(1, STEPS + 1))] * 2
    assert {e.attempt for e in seen.events} == {1}
    assert seen.threads == {threading.main_thread()}
    assert seen.of("attempt")[0]["backend"] == "gloo"
    if isinstance(spawner, DaskRankSpawner):
        kinds = [event["kind"] for _, event in spawner.client.get_events(TOPIC)]
        assert kinds.count("checkpoint") >= STEPS // 2
        wait_for(lambda: not spawner.client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)), 5)


def test_a_module_written_for_torchrun_runs_unchanged(tmp_path: Path) -> None:
    env = ENV | {"RESULT": str(tmp_path / "result")}
    launch("rank_modules.for_torchrun", {}, LocalRankSpawner(2), 2, 1, Killer(), env=env)
    assert (tmp_path / "result").read_text() == "3.0 of 2"


@pytest.mark.slow  # by default, the module of the tests resumes
def test_the_module_in_the_documentation_runs_and_resumes(tmp_path: Path) -> None:
    text = (TESTS.parent / "docs" / "how-to" / "launch.md").read_text()
    (tmp_path / "documented.py").write_text(text.partition("```python\n")[2].partition("```")[0])
    about = {"folder": str(tmp_path / "run"), "steps": 4, "batch": 64, "every": 2}
    weights = []
    for steps in (4, 6):
        seen = Killer()
        launch(
            "documented",
            {**about, "steps": steps},
            LocalRankSpawner(1),
            1,
            1,
            seen,
            env=ENV | {"PYTHONPATH": str(tmp_path)},
        )
        weights += [event["weight"] for event in seen.of("step")]
    assert weights == pytest.approx([1 - 0.9**n for n in range(1, 7)])


def kill_rank(number: int) -> Callable[[dict[int, int]], int]:
    return lambda pids: pids[number]


def kill_worker_of(number: int) -> Callable[[dict[int, int]], int]:
    return lambda pids: psutil.Process(pids[number]).ppid()


@pytest.mark.parametrize(
    ("where", "kill", "number", "says"),
    [
        pytest.param("dask", kill_rank, 1, "SIGKILL", marks=pytest.mark.slow),
        ("dask", kill_worker_of, 0, "its worker is gone"),
        pytest.param("local", kill_rank, 0, "SIGKILL", marks=pytest.mark.slow),
        pytest.param("dask", kill_rank, 0, "SIGKILL", marks=pytest.mark.slow),
        pytest.param("dask", kill_worker_of, 1, "its worker is gone", marks=pytest.mark.slow),
        pytest.param("local", kill_rank, 1, "SIGKILL", marks=pytest.mark.slow),
    ],
    ids=["dask-rank1", "dask-worker0", "local-rank0", "dask-rank0", "dask-worker1", "local-rank1"],
)
def test_a_kill_stops_all_ranks_and_the_next_attempt_resumes(
    where: str, kill: Any, number: int, says: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    spawner = LocalRankSpawner(2) if where == "local" else DaskRankSpawner(request.getfixturevalue("client"))
    seen = Killer(kill(number))
    launched = launch("rank_modules.ddp", job(tmp_path, hold=number), spawner, 2, 1, seen, env=ENV)
    assert launched.attempts == 2
    assert launched.ranks == 2
    assert value(tmp_path) == pytest.approx(expected(STEPS, BATCH), abs=1e-12)
    assert says in seen.of("failed")[0]["text"]
    resumed = [e["step"] for e in seen.of("step") if e.attempt == 2]
    assert min(resumed) == 5  # after the checkpoint of step 4
    # All ranks had ended before the next attempt started.
    old = [e["pid"] for e in seen.of("alive") if e.attempt == 1]
    assert not any(psutil.pid_exists(pid) for pid in old)
    if "worker" not in says:
        assert seen.again - seen.killed < 10


def test_a_deliberate_error_is_raised_in_the_driver_and_not_retried(client: Client, tmp_path: Path) -> None:
    """Rank 1 reports the error; at the same time rank 0 fails because the connection is closed."""
    seen = Killer()
    with pytest.raises(NonFiniteLoss, match="at step 2"):
        launch("rank_modules.ddp", job(tmp_path, blown_up=1, seconds=0), DaskRankSpawner(client), 2, 1, seen, env=ENV)
    assert len(seen.of("attempt")) == 1


def test_attempts_without_progress_are_counted_and_the_error_shows_the_last_log_lines() -> None:
    seen = Killer()
    with pytest.raises(RankLost, match="2 attempts in a row") as caught:
        launch("rank_modules.toy", {"do": "crash"}, LocalRankSpawner(1), 1, 1, seen, attempts=2, env=ENV)
    assert str(caught.value).endswith("RuntimeError: the wheel came off")
    assert "exit code 1" in str(caught.value)
    assert len(seen.of("attempt")) == 2


class Shrinking(LocalRankSpawner):
    """Three workers at first, fewer later."""

    def __init__(self, *counts: int) -> None:
        super().__init__(3)
        self.counts = list(counts)

    def nodes(self, wanted: int) -> list[WorkerNode]:
        return super().nodes(wanted)[: self.counts.pop(0)]


@pytest.mark.parametrize(
    ("there", "batch", "ranks"),
    [(4, 12, 4), (5, 12, 4), (3, 12, 3), (3, 8, 2), (3, 7, 1), (2, None, 2)],
)
def test_with_fewer_workers_the_ranks_still_divide_the_batch(there: int, batch: int | None, ranks: int) -> None:
    run = LaunchState(
        "m", {} if batch is None else {"batch": batch}, LocalRankSpawner(), 4, 1, lambda event: None, True, {}, 1
    )
    run.number = 2
    assert run._world(there) == ranks


@pytest.mark.slow
def test_a_launch_continues_on_fewer_workers_with_ranks_that_divide_the_batch(tmp_path: Path) -> None:
    seen = Killer(kill_rank(1))
    launched = launch(
        "rank_modules.ddp", job(tmp_path, batch=3, hold=1), Shrinking(3, 2), 3, 1, seen, attempts=1, env=ENV
    )
    assert (launched.attempts, launched.ranks) == (2, 1)
    assert value(tmp_path) == pytest.approx(expected(STEPS, 3), abs=1e-12)
    assert "2 of 3 workers" in seen.of("fewer")[0]["text"]


def test_the_error_says_when_no_worker_comes_back() -> None:
    """The first attempt fails at once, because its limit to start is very short."""
    with pytest.raises(SchedulerError, match="No worker came back"):
        launch("rank_modules.toy", {}, Shrinking(1, 0), 1, 1, Killer(), env=ENV, start_seconds=0.05)


def test_a_rank_that_makes_no_rendezvous_in_time_counts_as_failed() -> None:
    begun = time.monotonic()
    with pytest.raises(RankLost, match="no rendezvous within 0 s"):
        launch("rank_modules.toy", {"do": "sleep"}, LocalRankSpawner(1), 1, 1, Killer(), 1, env=ENV, start_seconds=0.05)
    assert time.monotonic() - begun < 10


def test_more_ranks_than_workers_are_refused() -> None:
    with pytest.raises(PlanError, match="3 ranks"):
        launch("rank_modules.ddp", {}, LocalRankSpawner(2), 3, 1, Killer())
    with pytest.raises(ConfigError):
        launch("rank_modules.ddp", {}, LocalRankSpawner(2), 0, 1, Killer())


def test_on_dask_the_launch_waits_for_missing_workers_and_then_refuses(client: Client) -> None:
    with pytest.raises(PlanError, match="3 ranks need 3 workers, but there are 2"):
        launch("rank_modules.ddp", {}, DaskRankSpawner(client, worker_seconds=0.5), 3, 1, Killer())


def test_ctrl_c_stops_all_ranks_and_reaches_the_caller(spawner: Any, tmp_path: Path) -> None:
    asked = 0.0

    def listen(event: LaunchEvent) -> None:
        nonlocal asked
        if event.kind == "step" and event["step"] == 3 and not asked:
            asked = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        launch("rank_modules.ddp", job(tmp_path, seconds=0.2), spawner, 2, 1, listen, env=ENV)
    assert time.monotonic() - asked < 10
    assert ranks_running() == []


def test_a_listener_that_raises_stops_all_ranks_and_gets_no_more_events(tmp_path: Path) -> None:
    calls = 0

    def listen(event: LaunchEvent) -> None:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        launch("rank_modules.ddp", job(tmp_path), LocalRankSpawner(1), 1, 1, listen, env=ENV)
    assert calls == 1


def wait_there(seconds: float) -> None:
    time.sleep(seconds)


def test_a_worker_that_is_busy_is_named(client: Client) -> None:
    address = sorted(client.run(os.getpid))[0]
    busy = client.submit(wait_there, 3, workers=[address], pure=False)
    begun = time.monotonic()
    with pytest.raises(RankLost, match=rf"busy with other work, or out of reach: {address}\.") as caught:
        launch("rank_modules.ddp", {}, DaskRankSpawner(client), 2, 1, Killer(), 1, env=ENV, start_seconds=1)
    assert "One attempt was allowed" in str(caught.value)
    assert time.monotonic() - begun < 60  # half of the default wait
    busy.result()


def pulse_often(dask_worker: Any) -> tuple[str, str]:
    from daskt2i.launch.vitals import pulse

    pulse.PULSE_SECONDS = 0.2
    return dask_worker.address, dask_worker.id


def test_a_worker_tells_dask_the_memory_and_cores_of_its_rank(client: Client, tmp_path: Path) -> None:
    """Its own process has little memory and does not compute."""
    address, ident = sorted(client.run(pulse_often).values())[0]
    job = {"folder": str(tmp_path)}
    spec = RankSpec("rank_modules.beating", job, port=1, env=ENV)
    task = client.submit(_on_worker, spec, ident, "metrics", TOPIC, workers=[address], pure=False)
    try:
        rank = wait_for(lambda: workers_of(client)[address]["metrics"].get(MEMORY))
        wait_for(lambda: any("step" in event for _, event in client.get_events(TOPIC + PULSES)))
    finally:
        (tmp_path / "enough").touch()
    assert task.result().how == "finished"
    assert rank > 2**20
    assert CPU in workers_of(client)[address]["metrics"]
    pulses = [event for _, event in client.get_events(TOPIC + PULSES) if event["launch"] == "metrics"]
    assert {"memory", "cpu", "step", "doing", "silent", "state"} <= pulses[-1].keys()
    wait_for(lambda: workers_of(client)[address]["metrics"][MEMORY] == 0)


@pytest.mark.slow
def test_cancelled_tasks_stop_all_ranks(client: Client, tmp_path: Path) -> None:
    seen, spawner = Killer(), DaskRankSpawner(client)

    def listen(event: LaunchEvent) -> None:
        seen(event)
        if event.kind == "step" and event["step"] == 5 and event.attempt == 1 and event.rank == 1:
            client.cancel([future for future, (_, rank, _) in spawner._flying.items() if rank == 0])

    launched = launch("rank_modules.ddp", job(tmp_path, hold=0), spawner, 2, 1, listen, env=ENV)
    assert launched.attempts == 2
    assert seen.of("failed")[0]["text"].startswith(("Rank", "A rank"))
    assert value(tmp_path) == pytest.approx(expected(STEPS, BATCH), abs=1e-12)


@pytest.mark.slow
def test_a_retiring_worker_stops_its_rank(tmp_path: Path) -> None:
    with two_workers() as client:
        seen = Killer()
        retiring: list[threading.Thread] = []

        def listen(event: LaunchEvent) -> None:
            seen(event)
            if event.kind == "step" and event["step"] == 5 and not retiring:
                address = seen.of("attempt")[0]["places"][1]
                retiring.append(threading.Thread(target=client.retire_workers, args=([address],)))
                retiring[0].start()

        spawner = DaskRankSpawner(client, worker_seconds=2)
        launched = launch("rank_modules.ddp", job(tmp_path, hold=1), spawner, 2, 1, listen, env=ENV)
        retiring[0].join()
        assert (launched.attempts, launched.ranks) == (2, 1)
        assert value(tmp_path) == pytest.approx(expected(STEPS, BATCH), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("leaves", [0, 1])
def test_a_checkpoint_is_saved_before_the_lifetime_of_a_worker_is_over(leaves: int, tmp_path: Path) -> None:
    """At the end of its lifetime a worker calls `close_gracefully`, and its scheduler forgets it at once."""

    def go(dask_worker: Any) -> None:
        dask_worker.loop.add_callback(dask_worker.close_gracefully)

    with two_workers() as client:
        seen = Killer()

        def listen(event: LaunchEvent) -> None:
            seen(event)
            if event.kind == "step" and event.rank == 0 and event["step"] == 5 and event.attempt == 1:
                where = [seen.of("attempt")[0]["places"][leaves]]
                threading.Thread(target=client.run, args=(go,), kwargs={"workers": where}).start()
            if event.kind == "step" and event.attempt == 2:
                (tmp_path / "enough").touch()

        spawner = DaskRankSpawner(client, worker_seconds=2)
        launched = launch("rank_modules.beating", {"folder": str(tmp_path)}, spawner, 2, 1, listen, env=ENV)
        assert launched.attempts == 2
        assert "must end, because its worker is retiring" in seen.of("failed")[0]["text"]
        assert json.loads((tmp_path / "checkpoint.json").read_text())["step"] >= 5


@pytest.mark.slow
def test_a_scheduler_that_dies_is_reported_and_its_ranks_end(tmp_path: Path) -> None:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    file = str(tmp_path / "scheduler.json")
    code = "import sys; from dask.__main__ import main; sys.argv = ['dask', *sys.argv[1:]]; main()"
    dask = [sys.executable, "-c", code]
    common = ["--scheduler-file", file, "--no-dashboard"]
    scheduler = subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", *common], **quiet)
    workers = [subprocess.Popen([*dask, "worker", "--nthreads", "1", *common], **quiet) for _ in range(2)]
    client = Client(scheduler_file=wait_for(lambda: file if Path(file).exists() else None), timeout=30)
    client.wait_for_workers(2, timeout=60)

    def listen(event: LaunchEvent) -> None:
        if event.kind == "step" and event["step"] == 5:
            scheduler.kill()

    try:
        with pytest.raises(SchedulerError, match="scheduler is gone"):
            launch("rank_modules.ddp", job(tmp_path, hold=0), DaskRankSpawner(client), 2, 1, listen, env=ENV)
        wait_for(lambda: not ranks_running(), 15)
    finally:
        client.close(timeout=2)
        for process in (*workers, scheduler):
            process.terminate()
            process.wait(30)


@pytest.mark.slow
def test_a_frozen_worker_does_not_delay_the_others(tmp_path: Path) -> None:
    with two_workers() as client:
        frozen: list[int] = []

        def freeze(pids: dict[int, int]) -> int:
            frozen.append(psutil.Process(pids[1]).ppid())
            os.kill(frozen[0], signal.SIGSTOP)
            return pids[1]

        seen = Killer(freeze)
        try:
            spawner = DaskRankSpawner(client, worker_seconds=2)
            launched = launch("rank_modules.ddp", job(tmp_path, hold=1), spawner, 2, 1, seen, env=ENV)
        finally:
            os.kill(frozen[0], signal.SIGCONT)
        assert (launched.attempts, launched.ranks) == (2, 1)
        assert value(tmp_path) == pytest.approx(expected(STEPS, BATCH), abs=1e-12)


def test_a_frozen_worker_is_asked_once_and_counts_again_when_it_wakes(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskt2i.launch.dask_ranks._ASK_SECONDS", 1.5)
    spawner = DaskRankSpawner(client, worker_seconds=3)

    def asking() -> int:
        return sum(thread.name.endswith("(ask)") for thread in threading.enumerate())

    frozen = min(client.run(os.getpid).values())
    os.kill(frozen, signal.SIGSTOP)
    try:
        assert len(spawner.nodes(2)) == 1
        assert asking() == 1
    finally:
        os.kill(frozen, signal.SIGCONT)
    wait_for(lambda: not asking(), 15)
    assert len(spawner.nodes(2)) == 2


def test_all_workers_are_seen_while_the_client_refreshes_its_list_too(client: Client) -> None:
    """The client's own refresh can return no workers. If the spawner used that answer, all ranks would be lost."""
    with (
        dask.config.set({"distributed.client.scheduler-info-interval": "1ms"}),
        Client(client.scheduler.address) as hasty,
    ):
        assert {len(workers_of(hasty)) for _ in range(300)} == {2}


def test_prepare_runs_before_the_first_rank_and_its_notes_are_reported(tmp_path: Path) -> None:
    with (
        LocalCluster(1, processes=False, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        seen = Killer()
        spawner = DaskRankSpawner(client, prepare=lambda: ["made room"])
        launch("rank_modules.toy", {"do": "tell", "text": ""}, spawner, 1, 1, seen, env=ENV)
        assert [event.kind for event in seen.events][:2] == ["note", "attempt"]
        assert seen.of("note")[0]["text"] == "made room"


def driver(kind: str, about: dict[str, Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(TESTS / "rank_modules" / "driver.py"), kind, json.dumps(about)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENV},
        start_new_session=True,
    )


def until_step(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["kind"] == "step" and event["step"] == step:
            return
    raise AssertionError(process.communicate()[1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux wakes a process when its parent ends")
@pytest.mark.parametrize("kind", ["local", "dask"])
def test_a_stopped_rank_does_not_outlive_its_driver(kind: str, tmp_path: Path) -> None:
    with driver(kind, job(tmp_path, hold=1)) as process:
        until_step(process, 5)
        ranks = ranks_running()
        assert len(ranks) == 2
        for rank in ranks:
            rank.suspend()
        process.kill()
    wait_for(lambda: not ranks_running(), 20)


@pytest.mark.slow  # by default, tests/train/test_denoiser_rank.py kills the driver of the real trainer
@pytest.mark.parametrize("kind", ["attached", "local", "dask"])
def test_all_ranks_of_a_killed_driver_end_and_the_same_command_resumes(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "attached":
        kind = request.getfixturevalue("client").scheduler.address
    about = job(tmp_path, hold=1)
    with driver(kind, about) as process:
        until_step(process, 5)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    wait_for(lambda: not ranks_running(), 10)
    psutil.wait_procs(children, timeout=10)
    assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
    with driver(kind, about) as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert min(event["step"] for event in map(json.loads, out.splitlines()) if event["kind"] == "step") == 5
    assert value(tmp_path) == pytest.approx(expected(STEPS, BATCH), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "dask"])
def test_ctrl_c_on_a_terminal_reaches_only_the_driver(kind: str, tmp_path: Path) -> None:
    with driver(kind, job(tmp_path, hold=1)) as process:
        until_step(process, 3)
        begun = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - begun < 15
    assert ranks_running() == []


@pytest.mark.slow  # by default, turns are tested by unloading encoders
def test_two_launches_on_one_cluster_run_one_after_the_other(client: Client) -> None:
    """Each needs both workers. At once, each would hold one and wait for the other."""
    found: dict[int, object] = {}

    def work(number: int) -> None:
        try:
            job = {"do": "tell", "text": ""}
            found[number] = launch("rank_modules.toy", job, DaskRankSpawner(client), 2, 1, Killer(), env=ENV).ranks
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: 2, 1: 2}


def test_a_launch_that_never_gets_its_workers_says_that_another_training_has_them(client: Client) -> None:
    with sole_use(client, lambda: False, 1.0):
        spawner = DaskRankSpawner(client, worker_seconds=0.1)
        with pytest.raises(SchedulerError, match="Another training runs on the workers of tcp://"):
            launch("rank_modules.toy", {"do": "tell", "text": ""}, spawner, 1, 1, Killer(), env=ENV)
    launch("rank_modules.toy", {"do": "tell", "text": ""}, DaskRankSpawner(client), 1, 1, Killer(), env=ENV)


def test_launches_with_different_workers_run_beside_each_other(client: Client) -> None:
    first, second = sorted(client.scheduler_info(n_workers=-1)["workers"])
    quiet: Any = lambda: False  # noqa: E731
    with sole_use(client, quiet, 0.0, lambda: [first]):
        with sole_use(client, quiet, 0.0, lambda: [second]):
            pass
        with pytest.raises(SchedulerError, match="Another training"), sole_use(client, quiet, 0.0, lambda: [first]):
            pass
        with pytest.raises(SchedulerError, match="Another training"), sole_use(client, quiet, 0.0):
            pass
    with sole_use(client, quiet, 0.0), pytest.raises(SchedulerError), sole_use(client, quiet, 0.0, lambda: [first]):
        pass
    with sole_use(client, quiet, 0.0, lambda: [first, second]):
        pass


def test_a_claim_ends_with_the_client_that_made_it(client: Client) -> None:
    everyone = sorted(client.scheduler_info(n_workers=-1)["workers"])
    with Client(client.scheduler.address, set_as_default=False) as other:
        held = sole_use(other, lambda: False, 0.0, lambda: everyone)
        held.__enter__()
    with sole_use(client, lambda: False, 30.0):
        pass


HOLD = """
import sys
from distributed import Client
from daskt2i.launch.dask_ranks import DaskRankSpawner

def unload():
    print("unloads", flush=True)
    sys.stdin.read()
    return ()

with Client(sys.argv[1]) as client, DaskRankSpawner(client, prepare=unload).opened(print):
    pass
"""


def test_another_process_that_unloads_encoders_keeps_its_turn_until_it_dies(client: Client) -> None:
    """No rank runs yet, so only the scheduler can tell the two drivers apart."""
    command = [sys.executable, "-c", HOLD, client.scheduler.address]
    unloaded = []

    def unload() -> tuple[str, ...]:
        unloaded.append(1)
        return ()

    def begin(seconds: float) -> None:
        with DaskRankSpawner(client, worker_seconds=seconds, prepare=unload).opened(lambda message: None):
            pass

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "unloads\n"
        with pytest.raises(SchedulerError, match="Another training"):
            begin(0.0)
        assert unloaded == []
        other.kill()
    begin(60.0)
    assert unloaded == [1]


def test_workers_that_cannot_be_asked_are_given_back(client: Client) -> None:
    def gone() -> bool:
        raise SchedulerError("The scheduler is gone.")

    with pytest.raises(SchedulerError, match="is gone"), sole_use(client, gone, 1.0):
        pass
    with sole_use(client, lambda: False, 0.0):
        pass
