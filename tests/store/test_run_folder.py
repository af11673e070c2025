"""The run folder: atomic writes that are on disk when they return, and errors that say what to do."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from daskt2i.errors import ConfigError, StoreError, StoreFull
from daskt2i.store.partial_files import partial_of
from daskt2i.store.publishing.attempts import begin_attempt
from daskt2i.store.publishing.publication import begin
from daskt2i.store.run_folder import RunFolder


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    if request.param == "disk":
        return RunFolder(tmp_path / "run [a] é")
    return RunFolder(f"memory://{uuid.uuid4().hex}/run [a]")


def test_objects_are_written_read_listed_and_deleted(folder: RunFolder) -> None:
    assert not folder.exists("receipts/a.json")
    assert folder.list("receipts") == []
    folder.write("receipts/b.json", b"two")
    folder.write("receipts/a.json", memoryview(b"one"))
    folder.write("workflow.yaml", b"")
    assert folder.read("receipts/a.json") == b"one"
    assert folder.read("workflow.yaml") == b""
    assert folder.list("receipts") == ["receipts/a.json", "receipts/b.json"]
    assert folder.list() == ["receipts/a.json", "receipts/b.json", "workflow.yaml"]
    assert folder.size("receipts/b.json") == 3
    assert folder.size("receipts/c.json") is None
    assert folder.sha256("receipts/b.json") == hashlib.sha256(b"two").hexdigest()
    folder.delete("receipts/a.json")
    folder.delete("receipts/a.json")
    assert folder.list("receipts") == ["receipts/b.json"]
    with pytest.raises(FileNotFoundError):
        folder.read("receipts/a.json")


def test_read_many_keeps_the_order_and_reports_a_missing_object(folder: RunFolder) -> None:
    names = [f"receipts/{i:04d}" for i in range(300)]
    for name in names:
        folder.write(name, name.encode())
    folder.delete(names[7])
    found = dict(folder.read_many(names[::-1]))
    assert list(found) == names[::-1]
    assert isinstance(found.pop(names[7]), FileNotFoundError)
    assert all(data == name.encode() for name, data in found.items())
    assert list(folder.read_many(names[3:4])) == [(names[3], names[3].encode())]
    assert list(folder.read_many([])) == []


def test_a_block_that_fails_leaves_the_old_object(folder: RunFolder) -> None:
    folder.write("manifest.parquet", b"before")

    def fails_half_way() -> None:
        with folder.writing("manifest.parquet") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails_half_way()
    assert folder.read("manifest.parquet") == b"before"
    assert folder.list() == ["manifest.parquet"]
    with folder.writing("manifest.parquet") as file:
        file.write(b"after")
    assert folder.read("manifest.parquet") == b"after"


@pytest.mark.parametrize("name", ["../x", "receipts/../../x", "/etc/passwd", "a\\b", "a\0b"])
def test_names_that_lead_out_of_the_folder_are_refused(folder: RunFolder, name: str) -> None:
    with pytest.raises(StoreError):
        folder.write(name, b"x")


def test_a_run_folder_can_be_pickled_and_found_from_another_working_directory(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = pickle.loads(pickle.dumps(folder))
    assert copy == folder
    assert hash(copy) == hash(folder)
    monkeypatch.chdir(tmp_path)
    assert RunFolder("runs/demo").local_path("receipts") == tmp_path / "runs" / "demo" / "receipts"


def test_a_file_address_is_a_path(tmp_path: Path) -> None:
    folder = RunFolder(f"file://{tmp_path}/run")
    assert folder == RunFolder(tmp_path / "run")
    assert folder.is_local
    free = folder.free_bytes()  # the folder does not exist yet
    assert free is not None
    assert free > 0


def test_a_remote_folder_has_no_path_and_no_free_space() -> None:
    folder = RunFolder("memory://x/")
    assert folder.root == "memory://x"
    assert folder.free_bytes() is None
    assert folder.sweep() == 0
    with pytest.raises(StoreError):
        folder.local_path("receipts")


def test_bytes_and_names_are_flushed_before_the_call_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see what is flushed")
    flushed: list[str] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    RunFolder(tmp_path / "run").write("receipts/a.json", b"x")
    assert flushed[:2] == [str(tmp_path), str(tmp_path / "run")], "the new folders, in their parents"
    assert flushed[2].startswith(str(tmp_path / "run" / "receipts" / ".a.json.")), "the bytes, before the rename"
    assert flushed[3:] == [str(tmp_path / "run" / "receipts")], "the name, after it"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_or_quota_that_fills_up_at_the_flush_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.write("a", b"before")

    def full(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull, match="free some space and run it again") as caught:
        folder.write("a", b"after")
    assert folder.root in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert folder.read("a") == b"before"
    assert list((tmp_path / "run").iterdir()) == [tmp_path / "run" / "a"]


def test_a_folder_of_somebody_else_is_a_clear_error(tmp_path: Path) -> None:
    RunFolder(tmp_path).write("receipts/a", b"x")
    tmp_path.chmod(0o500)
    (tmp_path / "receipts").chmod(0)
    for call in ("write('a', b'x')", "delete('receipts/a')", "read('receipts/a')", "list('receipts')", "size('x/a')"):
        if call.startswith("size"):
            tmp_path.chmod(0)
        outcome = _run(
            f"""
            import os
            from daskt2i.store.run_folder import RunFolder
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)  # because root may write everywhere
            RunFolder({str(tmp_path)!r}).{call}
            """
        )
        assert "StoreError" in outcome.splitlines()[-1], call
        assert "permission denied" in outcome, call
    tmp_path.chmod(0o700)
    (tmp_path / "receipts").chmod(0o700)


def test_an_unknown_address_and_a_missing_package_are_clear_errors() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        RunFolder("nonsense://x").read("a")
    with pytest.raises(ConfigError):
        RunFolder("")
    outcome = _run(
        """
        import sys
        sys.modules["s3fs"] = None
        from daskt2i.store.run_folder import RunFolder
        RunFolder("s3://bucket/run").read("a")
        """
    )
    assert "ConfigError" in outcome
    assert "pip install 'daskt2i[s3]'" in outcome


def test_partial_files_of_killed_processes_are_hidden_and_swept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write("receipts/a.json", b"x")
    killed = subprocess.Popen([sys.executable, "-c", _WRITES_AND_WAITS, str(tmp_path)], stdout=subprocess.PIPE)
    assert killed.stdout is not None
    with killed, killed.stdout:
        assert killed.stdout.readline() == b"writing\n"
        killed.kill()
    assert len(list((tmp_path / "receipts").iterdir())) == 2
    assert folder.list() == ["receipts/a.json"]
    assert folder.sweep() == 0, "it is young: its process may still write"
    assert folder.sweep(older_than=0) == 1
    assert [path.name for path in (tmp_path / "receipts").iterdir()] == ["a.json"]


@pytest.mark.parametrize("hours", [-5, 5])
def test_the_age_of_a_partial_file_is_that_of_the_file_system_and_not_of_our_clock(
    hours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system may be on a server, and the writer on another machine."""
    folder = RunFolder(tmp_path)
    young, old = (partial_of(tmp_path / "receipts" / name) for name in ("young", "old"))
    for path in (young, old):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    before = old.stat().st_mtime - 7200
    os.utime(old, (before, before))
    now = time.time() + 3600 * hours
    monkeypatch.setattr(time, "time", lambda: now)
    assert folder.sweep() == 1
    assert [path.name for path in young.parent.iterdir()] == [young.name]
    assert [path.name for path in tmp_path.iterdir()] == ["receipts"]


_WRITES_AND_WAITS = """
import sys, time
from daskt2i.store.partial_files import partial_of
from daskt2i.store.publishing.attempts import begin_attempt
from daskt2i.store.publishing.publication import begin
from daskt2i.store.run_folder import RunFolder
with RunFolder(sys.argv[1]).writing("receipts/b.json") as file:
    file.write(b"half"); file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("cannot mount a small disk here (needs root)")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_write_that_does_not_fit_leaves_nothing_behind(small_disk: Path) -> None:
    folder = RunFolder(small_disk / "run")
    folder.write("small", b"x" * 1000)
    with pytest.raises(StoreFull):
        folder.write("small", b"y" * 3_000_000)
    assert folder.read("small") == b"x" * 1000
    assert folder.list() == ["small"]
    assert len(list((small_disk / "run").iterdir())) == 1
    folder.write("other", b"z" * 1_000_000)


def _run(code: str) -> str:
    """The standard error of a new interpreter."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stderr


@pytest.mark.parametrize(
    ("doing", "words"),
    [
        ("stage attempts/0f3e/0000012-00112233445566ff/valid.c.0", "write chunk 12"),
        ("write attempts/0f3e/0000000-00112233445566ff", "write chunk 0"),
        ("write attempts/0f3e", "write the folder of unfinished chunks"),
        ("stage receipts/chunk-0000003.json", "write the receipt of chunk 3"),
        ("publish latents.zarr/valid/c.0", "write latents.zarr"),
        ("write encode.lock", "write the lock of the run folder"),
        ("write manifest.parquet", "write manifest.parquet"),
        ("list what is", "list what is"),
        ("train", "train"),
    ],
)
def test_messages_have_no_internal_names(doing: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(StoreFull) as caught, RunFolder(tmp_path).explaining(doing):
        raise OSError(errno.ENOSPC, "full")
    assert f"(could not {words})" in str(caught.value)


def test_a_staged_object_is_called_by_its_final_name_and_that_of_an_attempt_by_its_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publication = begin(RunFolder(tmp_path))
    attempt = begin_attempt(RunFolder(tmp_path), publication.run, 7)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull, match=r"could not write chunk 7\)"):
        attempt.write("valid.c.7", b"x")
    with pytest.raises(StoreFull, match=r"could not write workflow\.yaml\)"):
        publication.folder.write("workflow.yaml", b"x")
