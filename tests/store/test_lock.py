"""The lock: only one process holds it, a second one gets its name, and a killed process holds it no longer."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders.waiting import wait_for

import daskt2i.store.publishing.lock
from daskt2i.errors import StoreBusy, StoreMissing, TakenOver
from daskt2i.store.publishing import lease
from daskt2i.store.publishing.lock import Holder, hold
from daskt2i.store.publishing.lock import holder as holding
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.status import status

_HOLDS = """
import os, subprocess, sys, time
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.publishing.lock import Holder, hold
with hold(RunFolder(sys.argv[1]), "encode"):
    child = ""
    if "popen" in sys.argv:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid
    if "fork" in sys.argv:
        child = os.fork()
        if not child:
            print("held", os.getpid(), flush=True)  # printed by the child, after it has closed its copy
            time.sleep(60)
            os._exit(0)
    if "fork that leaves" in sys.argv and os.fork() == 0:
        sys.exit()  # leaves the block, as a forked worker may do
    if "fork that leaves" in sys.argv:
        os.wait()
    if "fork" not in sys.argv:
        print("held", child, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: RunFolder, *how: str) -> Iterator[tuple[subprocess.Popen[bytes], int | None]]:
    """Another process that holds the folder until its standard input ends, and a child of it."""
    command = [sys.executable, "-W", "ignore", "-c", _HOLDS, folder.root, *how]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    child = None
    try:
        said = process.stdout.readline().split()
        assert said[:1] == [b"held"]
        child = int(said[1]) if len(said) > 1 else None
        yield process, child
    finally:
        process.kill()
        if child:
            os.kill(child, signal.SIGKILL)
        process.stdin.close()
        process.stdout.close()
        process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_a_second_process_is_refused_with_the_name_of_the_holder(folder: RunFolder) -> None:
    with holder(folder) as (process, _):
        with pytest.raises(StoreBusy) as caught, hold(folder, "encode"):
            pass
        said = str(caught.value)
        for part in (folder.root, "encode", f"pid {process.pid}", socket.gethostname(), "then run it again"):
            assert part in said
        assert process.poll() is None


def test_it_is_free_when_the_holder_ends(folder: RunFolder) -> None:
    with holder(folder) as (process, _):
        process.communicate(b"")
        assert process.returncode == 0
        assert not folder.exists("encode.lock")
        with hold(folder, "encode"):
            pass


@pytest.mark.parametrize("child", ["none", "popen", "fork"])
def test_it_is_free_at_once_when_the_holder_is_killed_even_if_its_children_live(folder: RunFolder, child: str) -> None:
    with holder(folder, child) as (process, pid):
        process.kill()
        process.wait()
        if pid:
            os.kill(pid, 0)  # it lives
        with hold(folder, "encode"):
            pass


def test_a_forked_child_that_exits_does_not_release_the_lock(folder: RunFolder) -> None:
    with holder(folder, "fork that leaves"):
        assert folder.exists("encode.lock")
        with pytest.raises(StoreBusy), hold(folder, "encode"):
            pass


def test_the_same_process_cannot_hold_it_twice_and_an_error_releases_it(folder: RunFolder) -> None:
    def fails() -> None:
        with hold(folder, "encode"):
            with pytest.raises(StoreBusy), hold(folder, "verify"):
                pass
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fails()
    assert not folder.exists("encode.lock")


def test_the_lock_file_of_a_killed_holder_does_not_block(folder: RunFolder) -> None:
    for left in (b"", b"{", b'{"pid": 1}', b"\xff" * 100):
        folder.write("encode.lock", left)
        with hold(folder, "encode"):
            assert json.loads(folder.read("encode.lock"))["pid"] == os.getpid()


def test_status_names_the_encode_that_has_made_no_store_yet(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with hold(folder, "encode"), pytest.raises(StoreMissing, match=r"yet\. It is in use by encode \(pid"):
        status(folder)
    with pytest.raises(StoreMissing, match="Run encode to make one"):
        status(folder)


def test_only_one_of_many_that_start_at_once_gets_it(folder: RunFolder) -> None:
    code = """
import sys, time
from daskt2i.errors import StoreBusy
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.publishing.lock import Holder, hold
sys.stdin.readline()
try:
    with hold(RunFolder(sys.argv[1]), "encode"):
        print("held", flush=True)
        sys.stdin.readline()
except StoreBusy:
    print("busy", flush=True)
"""
    command = [sys.executable, "-c", code, folder.root]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in started:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    said = [process.stdout.readline().strip() for process in started]  # type: ignore[union-attr]
    for process in started:
        process.communicate("end\n")
    assert sorted(said) == ["busy", "busy", "busy", "held"]


@pytest.fixture(params=["memory", "a disk without locks", "a system without flock"])
def beating(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A folder whose lock is an object with signs of life."""
    monkeypatch.setattr(daskt2i.store.publishing.lock, "SETTLE_SECONDS", 0.02)
    monkeypatch.setattr(daskt2i.store.publishing.lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(daskt2i.store.publishing.lock, "DEAD_SECONDS", 0.6)
    if request.param == "memory":
        return RunFolder(f"memory://{uuid.uuid4().hex}/run")
    if request.param == "a system without flock":
        monkeypatch.setattr(daskt2i.store.publishing.lock, "fcntl", None)
        return RunFolder(tmp_path / "run")

    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(daskt2i.store.publishing.lock.fcntl, "flock", no_locks)
    return RunFolder(tmp_path / "run")


def dead(folder: RunFolder, number: int = 0) -> lease.Claim:
    """A claim whose holder was killed."""
    claim = lease.take(
        folder, next(reversed(lease.chain(folder)), None), {"pid": 1, "host": "gone", "token": f"t{number}"}
    )
    assert claim
    lease.beat(folder, claim, 3)
    return claim


def lock_objects(folder: RunFolder) -> list[str]:
    return [name for name in folder.list() if name.startswith("encode.lock")]


def test_a_holder_that_lives_is_named_after_one_sign_of_life(
    beating: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daskt2i.store.publishing.lock, "DEAD_SECONDS", 1e9)
    told: list[str] = []
    busy = pytest.raises(StoreBusy, match=f"pid {os.getpid()}")
    with hold(beating, "encode"), busy, hold(beating, "encode", told.append):
        pass
    assert len(told) == 1
    assert "this run takes over" in told[0]
    assert lock_objects(beating) == []
    with hold(beating, "encode", told.append):
        assert len(told) == 1


def test_a_silent_holder_is_dead_after_the_stated_time_and_is_followed(beating: RunFolder) -> None:
    dead(beating)
    begun = time.monotonic()
    with hold(beating, "encode") as alive:
        assert time.monotonic() - begun >= 0.6
        assert [claim.about["pid"] for claim in lease.chain(beating)] == [1, os.getpid()]
        alive()
    assert lock_objects(beating) == []


@pytest.mark.parametrize("hours", [-5, 5])
def test_the_clock_of_the_machine_does_not_matter(
    beating: RunFolder, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    now = time.time
    old = {"label": "encode", "pid": 1, "host": "gone", "token": "x", "beat": now()}  # of an older version
    beating.write("encode.lock", json.dumps(old).encode())
    with contextlib.ExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: now() + 3600 * hours)
            stack.enter_context(hold(beating, "encode"))
        with pytest.raises(StoreBusy, match=f"pid {os.getpid()}"), hold(beating, "encode"):
            pass


def test_only_one_of_many_follows_a_dead_holder(beating: RunFolder) -> None:
    dead(beating)
    ends = threading.Event()

    def tries(number: int) -> str:
        try:
            with hold(beating, f"encode {number}"):
                ends.wait(10)
                return "held"
        except StoreBusy:
            return "busy"

    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(tries, number) for number in range(4)]
        wait(found, 5, FIRST_COMPLETED)
        wait_for(lambda: sum(one.done() for one in found) >= 3)
        ends.set()
        assert sorted(one.result() for one in found) == ["busy", "busy", "busy", "held"]


def test_a_holder_that_was_followed_is_told_so_and_takes_nothing_back(beating: RunFolder) -> None:
    with hold(beating, "encode") as alive:
        alive()
        after = lease.take(beating, lease.chain(beating)[-1], {"pid": 2, "token": "y"})
        time.sleep(0.2)
        with pytest.raises(TakenOver):
            alive()
    assert lease.chain(beating)[-1] == after, "the lock of the other one is not ours to remove"


def test_a_holder_that_slept_looks_before_it_goes_on(beating: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daskt2i.store.publishing.lock, "BEAT_SECONDS", 60)  # its thread has not woken yet
    with hold(beating, "encode") as alive:
        alive()
        lease.take(beating, lease.chain(beating)[-1], {"pid": 2, "token": "y"})
        alive()
        awake = daskt2i.store.publishing.lock._awake
        monkeypatch.setattr(daskt2i.store.publishing.lock, "_awake", lambda: awake() + 3600)
        with pytest.raises(TakenOver):
            alive()


def test_a_holder_looks_before_it_removes_others_whatever_its_clock_says(
    beating: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some clocks stand still while a machine sleeps."""
    monkeypatch.setattr(daskt2i.store.publishing.lock, "BEAT_SECONDS", 60)  # its thread has not woken yet
    monkeypatch.setattr(daskt2i.store.publishing.lock, "_awake", lambda: 0.0)
    with hold(beating, "encode") as alive:
        lease.take(beating, lease.chain(beating)[-1], {"pid": 2, "token": "y"})
        with pytest.raises(TakenOver):
            alive()


def test_claims_of_one_process_make_no_circle(beating: RunFolder) -> None:
    about = {"pid": 1, "token": "t"}
    for _ in range(3):
        assert lease.take(beating, next(reversed(lease.chain(beating)), None), about)
    assert len(lease.chain(beating)) == 3


def test_a_claim_that_follows_nobody_is_withdrawn(beating: RunFolder) -> None:
    gone = dead(beating)
    lease.release(beating, gone)
    late = lease.take(beating, gone, {"pid": 2, "token": "y"})  # it found the holder dead before that
    assert late is not None
    assert not lease.holds(beating, late)
    lease.withdraw(beating, late)
    assert lock_objects(beating) == []


def test_status_names_the_holder_and_says_what_it_cannot_know(
    beating: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daskt2i.store.publishing.lock, "DEAD_SECONDS", 1e9)
    assert holding(beating).words == ""
    with hold(beating, "encode"):
        assert holding(beating).words.endswith("not known whether it still runs")
        wait_for(lambda: holding(beating).words.endswith(")"))
    assert holding(beating).words == ""
    dead(beating)
    assert "pid 1 on gone" in holding(beating).words
    monkeypatch.setattr(daskt2i.store.publishing.lock, "BEAT_SECONDS", 0)
    assert "no sign of life for 0 s" in holding(beating).words
    monkeypatch.setattr(daskt2i.store.publishing.lock, "DEAD_SECONDS", 0)
    assert holding(beating).words == ""


@pytest.mark.parametrize("kind", ["flock", "object"])
def test_the_lock_says_to_which_step_a_training_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "object":
        monkeypatch.setattr(daskt2i.store.publishing.lock, "fcntl", None)
    folder = RunFolder(tmp_path)
    with hold(folder, "train", steps=60):
        assert (holding(folder).label, holding(folder).steps) == ("train", 60)
        assert holding(folder).known is (kind == "flock"), (
            "one look at a lock object cannot tell whether its holder lives"
        )
        assert holding(folder).words.startswith(f"train (pid {os.getpid()} on ")
    with hold(folder, "encode"):
        assert (holding(folder).label, holding(folder).steps) == ("encode", None)
    assert holding(folder) == Holder()


@pytest.mark.parametrize("kind", ["flock", "object"])
def test_the_lock_holds_no_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(sys, "argv", ["encode", "--set", "secret=hunter2"])
    if kind == "object":
        monkeypatch.setattr(daskt2i.store.publishing.lock, "fcntl", None)
    with hold(RunFolder(tmp_path), "encode"):
        found = (tmp_path / "encode.lock").read_text()
        assert "hunter2" not in found
        assert json.loads(found)["pid"] == os.getpid()
