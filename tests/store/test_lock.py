"""The lock: only one process holds it, a second one gets its name, and a killed process holds it no longer."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import daskt2i.store.lock
from daskt2i.errors import StoreBusy
from daskt2i.store.lock import hold
from daskt2i.store.run_folder import RunFolder

_HOLDS = """
import os, subprocess, sys, time
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.lock import hold
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


def test_only_one_of_many_that_start_at_once_gets_it(folder: RunFolder) -> None:
    code = """
import sys, time
from daskt2i.errors import StoreBusy
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.lock import hold
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
    """A folder whose lock is an object with a heartbeat."""
    monkeypatch.setattr(daskt2i.store.lock, "SETTLE_SECONDS", 0.02)
    monkeypatch.setattr(daskt2i.store.lock, "BEAT_SECONDS", 0.05)
    if request.param == "memory":
        return RunFolder(f"memory://{uuid.uuid4().hex}/run")
    if request.param == "a system without flock":
        monkeypatch.setattr(daskt2i.store.lock, "fcntl", None)
        return RunFolder(tmp_path / "run")

    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(daskt2i.store.lock.fcntl, "flock", no_locks)
    return RunFolder(tmp_path / "run")


def lines(folder: RunFolder) -> dict[str, object]:
    found: dict[str, object] = json.loads(folder.read("encode.lock"))
    return found


def test_a_heartbeat_holds_it_and_is_renewed(beating: RunFolder) -> None:
    with hold(beating, "encode"):
        first = lines(beating)
        with pytest.raises(StoreBusy, match=f"pid {os.getpid()}"), hold(beating, "encode"):
            pass
        time.sleep(0.3)
        later = lines(beating)
        assert later["token"] == first["token"]
        assert float(str(later["beat"])) > float(str(first["beat"]))
    assert not beating.exists("encode.lock")
    with hold(beating, "encode"):
        pass


def test_a_lock_whose_heartbeat_stopped_is_stale(beating: RunFolder) -> None:
    left = {"label": "encode", "pid": 1, "host": "gone", "token": "x", "beat": time.time() - 100}
    beating.write("encode.lock", json.dumps(left).encode())
    with pytest.raises(StoreBusy, match="pid 1 on gone"), hold(beating, "encode"):
        pass
    for left["beat"] in (time.time() - 121, "nonsense", None):
        beating.write("encode.lock", json.dumps(left).encode())
        with hold(beating, "encode"):
            assert lines(beating)["pid"] == os.getpid()


def test_if_two_processes_write_the_lock_at_once_the_later_one_holds_it(
    beating: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = json.dumps({"label": "encode", "pid": 2, "host": "h", "token": "y", "beat": time.time()}).encode()
    monkeypatch.setattr("daskt2i.store.lock.time.sleep", lambda seconds: beating.write("encode.lock", other))
    with pytest.raises(StoreBusy, match="pid 2"), hold(beating, "encode"):
        pass
    assert beating.read("encode.lock") == other, "the lock of the other one is not ours to remove"


def test_a_holder_that_lost_its_stale_lock_does_not_take_it_back(beating: RunFolder) -> None:
    other = json.dumps({"label": "encode", "pid": 2, "token": "y", "beat": time.time()}).encode()
    with hold(beating, "encode"):
        beating.write("encode.lock", other)
        time.sleep(0.2)
    assert beating.read("encode.lock") == other
