"""How commands end: exit codes by kind, streams that are closed or cannot encode, and signals that come again."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pytest
import typer
from builders import TESTS
from builders.command_line import one_object, run, start
from builders.waiting import wait_for
from builders.workflows import child_environment, small_settings, write_workflow
from rich.console import Console

import daskt2i
from daskt2i import workflow
from daskt2i.cli import endings
from daskt2i.cli.console import width, write
from daskt2i.cli.endings import ExitCode, report_errors
from daskt2i.cli.streams import PatientStream
from daskt2i.encoders.fake import FakeImageEncoder
from daskt2i.errors import ConfigError, Daskt2iError, Interrupted
from daskt2i.events import StageEnded, StageStarted
from daskt2i.types import Pixels


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), ExitCode.FAILURE),
        (RuntimeError("x"), ExitCode.FAILURE),
        (OSError(5, "x"), ExitCode.FAILURE),
        (ImportError("x"), ExitCode.FAILURE),
        (Interrupted("x"), ExitCode.STOPPED),
        (KeyboardInterrupt(), ExitCode.STOPPED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_error_has_its_exit_code(error: BaseException, code: ExitCode) -> None:
    with pytest.raises(typer.Exit) as info, report_errors():
        raise error
    assert info.value.exit_code == code


def test_no_message_shows_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), report_errors():
        raise FileNotFoundError(2, "No such file", "https://me:TOPSECRET@host/images")
    said = capsys.readouterr().err
    assert "https://***@host/images" in said
    assert "TOPSECRET" not in said


def test_a_wrong_command_line_has_the_code_2() -> None:
    assert run("status", "--nosuch").returncode == ExitCode.USAGE
    assert run("nosuch").returncode == ExitCode.USAGE
    assert run("--version").returncode == ExitCode.SUCCESS


def test_the_page_of_the_command_line_lists_the_exit_codes() -> None:
    page = (TESTS.parent / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} == set(ExitCode)


class ClientError(Exception):
    """As botocore has it."""

    response = {"Error": {"Code": "ExpiredToken"}}  # noqa: RUF012


class EndpointConnectionError(Exception):
    """As botocore has it."""


@pytest.mark.parametrize(
    ("error", "says"),
    [(ClientError("x"), "renew the credentials"), (EndpointConnectionError("x"), "check the addr")],
)
def test_an_error_of_a_library_that_may_pass_is_no_bug(
    error: Exception, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit), report_errors():
        raise error
    said = capsys.readouterr().err
    assert says in said
    assert "bug" not in said


# An error that nobody expected.


def test_the_traceback_of_a_bug_is_in_the_file_that_the_message_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), report_errors():
        raise RuntimeError("odd \udc80")
    said = capsys.readouterr().err
    found = re.search(r"the traceback is in (\S+\.log)", said)
    assert found
    assert "RuntimeError" in Path(found[1]).read_text()
    Path(found[1]).unlink()


class BrokenEncoder(FakeImageEncoder):
    def encode(self, items: Pixels, batch: int) -> dict[str, npt.NDArray[Any]]:
        raise TypeError("a mistake of its author")


def test_a_mistake_in_a_users_class_is_named_with_its_line_and_is_no_bug_of_daskt2i(
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoder: FakeImageEncoder = BrokenEncoder()
    with pytest.raises(typer.Exit), report_errors():
        encoder.encode(np.zeros((1, 8, 8, 3), np.uint8), 1)
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(rf"a mistake of its author\. It comes from line \d+ of {re.escape(__file__)}", said)
    assert "correct this file, and run the same command again" in said
    assert "bug" not in said


def test_a_mistake_below_code_of_daskt2i_is_a_bug_of_daskt2i(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), report_errors():
        FakeImageEncoder().encode(np.zeros((1, 8), np.uint8), 1)  # numpy and daskt2i stand below this line
    assert "This is a bug in daskt2i" in " ".join(capsys.readouterr().err.split())


def test_without_a_temporary_folder_the_message_names_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(typer.Exit) as info, report_errors():
        raise RuntimeError("odd")
    said = capsys.readouterr().err
    assert info.value.exit_code == ExitCode.FAILURE
    assert "odd" in said
    assert Path(__file__).name in said
    assert "Traceback" not in said


# Streams.


@pytest.fixture
def broken() -> Iterator[IO[str]]:
    """The writing end of a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as file:
        yield file


@pytest.mark.parametrize("as_json", [True, False])
def test_a_result_for_a_reader_that_has_gone_goes_nowhere(
    as_json: bool, broken: IO[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", PatientStream(broken))  # type: ignore[arg-type]
    for _ in range(3):
        write({"a": "b" * 100_000}, as_json, "a table")


@pytest.mark.parametrize("text", ["é", "\udc80", "日本"])
def test_json_has_only_characters_that_the_stream_can_encode(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for encoding in ("ascii", "utf-8", "latin-1"):
        with (tmp_path / "out").open("w", encoding=encoding) as file:
            monkeypatch.setattr(sys, "stdout", file)
            write({"a": text}, True, None)
        monkeypatch.undo()
        assert json.loads((tmp_path / "out").read_text(encoding=encoding)) == {"a": text}


def test_a_full_disk_behind_standard_output_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    file = open("/dev/full", "w")  # noqa: PTH123, SIM115  # closing it fails too
    monkeypatch.setattr(sys, "stdout", file)
    with pytest.raises(Daskt2iError, match="no space is left"):
        write({"a": 1}, True, None)
    monkeypatch.undo()
    with pytest.raises(OSError, match="space"):
        file.close()


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_a_full_disk_behind_the_help_is_one_sentence(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    file = open("/dev/full", "w")  # noqa: PTH123, SIM115  # closing it fails too
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr(sys, "argv", ["daskt2i", option])
    with pytest.raises(SystemExit) as info:
        workflow.run()
    monkeypatch.undo()
    assert info.value.code == ExitCode.FAILURE
    assert re.fullmatch(r"error: .*no space is left.*\n", capsys.readouterr().err)
    with pytest.raises(OSError, match="space"):
        file.close()


@pytest.mark.parametrize("columns", ["0", "", "80", "x"])
def test_a_console_prints_whatever_its_width_is_said_to_be(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    printed = io.StringIO()
    Console(file=printed, width=width(printed)).print("a table")
    assert printed.getvalue() == "a table\n"


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoded") / "é"
    daskt2i.Run(small_settings(), out, scheduler="serial", progress=False).encode()
    return out


def test_a_command_ends_quietly_whatever_its_streams_are(encoded: Path) -> None:
    """Closed descriptors, a reader that has gone, and a locale without é: all in one shell."""
    status = f"'{sys.executable}' -m daskt2i.workflow status --out '{encoded}'"
    ascii_only = "PYTHONUTF8=0 LC_ALL=C PYTHONIOENCODING=ascii"
    script = f"{ascii_only} {status} | head -c 0; echo ${{PIPESTATUS[0]}}; {status} --json >&- 2>&-; echo $?"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=child_environment())
    assert done.stdout.split() == ["0", "0"]
    assert done.stderr == ""
    assert one_object(run("status", "--out", encoded, "--json"))["out"] == str(encoded)


# Signals.


_BUSY = """
import sys, time
from zarr.core import sync
from daskt2i import workflow

async def nothing(): pass
def busy():
    end = time.monotonic() + 1
    while time.monotonic() < end: pass
def command():
    sync.sync(nothing())
    sync.loop[0].call_soon_threadsafe(busy)
workflow.run = command
workflow.main()
"""
"""A command that used Zarr, whose thread needs a second longer than the command."""


def test_a_command_on_a_busy_machine_ends_without_a_traceback_of_zarr() -> None:
    done = subprocess.run([sys.executable, "-c", _BUSY], capture_output=True, text=True, env=child_environment())
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_signal_changes_nothing_until_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    cleaned = 0

    def work() -> None:
        nonlocal cleaned
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned += 1

    before = signal.getsignal(signal.SIGINT)
    for patience, times in ((60.0, 0), (-1.0, 2)):
        monkeypatch.setattr(endings, "PATIENCE_SECONDS", patience)
        with pytest.raises(typer.Exit) as info, report_errors():
            work()
        assert info.value.exit_code == ExitCode.STOPPED
        assert ended == [ExitCode.STOPPED] * times
    assert cleaned == 2
    assert signal.getsignal(signal.SIGINT) is before


def stop_slowly(stage: str, number: int, heard: io.StringIO) -> None:
    endings.follow_stages(StageStarted("train", 1))
    endings.follow_stages(StageEnded("train") if not stage else StageStarted(stage, 1))
    try:
        os.kill(os.getpid(), number)
    finally:
        wait_for(lambda: heard.getvalue().endswith("\n"), seconds=60)


@pytest.mark.parametrize(("number", "advises"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_stop_that_takes_a_moment_says_at_once_what_is_finished(
    number: int, advises: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "TELL_SECONDS", 0.01)
    for stage, words in (("encode", "chunks that are finished"), ("train", "finish their step"), ("", "what runs")):
        # A file of our own: what pytest captures is read and emptied in two steps, and a line between them is lost.
        monkeypatch.setattr(sys, "stderr", heard := io.StringIO())
        with pytest.raises(typer.Exit), report_errors():
            stop_slowly(stage, number, heard)
        said, _, last = heard.getvalue().partition("\n")
        assert re.match(rf"Stopping: .*{words}", said)
        assert ("Press Ctrl-C again" in said) is advises
        assert last == f"{endings.STOPPED}\n"


def test_a_stop_that_takes_no_time_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), report_errors():
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(2 * endings.TELL_SECONDS)
    assert capsys.readouterr().err == f"{endings.STOPPED}\n"


STUBBORN = """
import time
from pathlib import Path
from daskt2i.encoders.fake import FakeImageEncoder

class Stubborn(FakeImageEncoder):
    calls = 0
    def encode(self, items, batch):
        Stubborn.calls += 1
        while Path("slow").exists() and Stubborn.calls > 4:
            Path("asleep").touch()
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                time.sleep(60)
        return super().encode(items, batch)
"""
"""An encoder that does not stop when it should."""


def test_a_second_ctrl_c_ends_at_once_as_the_line_says_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    (tmp_path / "slow").touch()
    settings = write_workflow(tmp_path / "w.yaml", rows=20, rows_per_chunk=4, image={"class": "stubborn.Stubborn"})
    command = [sys.executable, "-m", "daskt2i.workflow", "encode", "-s", "serial", "--json", "-w", str(settings)]
    command += ["--out", str(tmp_path / "run")]
    environment = {**child_environment(), "PYTHONPATH": os.pathsep.join([str(tmp_path), str(TESTS.parent)])}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        wait_for(lambda: (tmp_path / "asleep").exists() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        line = next(line for line in process.stderr if line.startswith("Stopping: "))
        assert "Press Ctrl-C again to end at once; what is committed stays." in line
        time.sleep(endings.PATIENCE_SECONDS + 0.1)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (ExitCode.STOPPED, "Stopped at once. What is committed stays.\n")
    (tmp_path / "slow").unlink()
    before = len(list(tmp_path.glob("run/receipts/*")))
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
    found = json.loads(done.stdout)
    assert (found["accepted"], found["chunks"]) == (20, {"done": 5 - before, "skipped": before, "failed": 0})
    assert before >= 1


def test_ctrl_c_during_imports_ends_the_process_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")  # it comes first
    environment = {**child_environment(), "PYTHONPATH": os.pathsep.join([str(tmp_path), str(TESTS.parent)])}
    command = [sys.executable, "-m", "daskt2i.workflow", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.STOPPED, "", "")


def test_ctrl_c_before_a_command_begins_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workflow, "app", lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as info:
        workflow.run()
    assert info.value.code == ExitCode.STOPPED
    assert capsys.readouterr().err == f"{endings.STOPPED}\n"


def test_four_times_ctrl_c_is_one_sentence(tmp_path: Path) -> None:
    settings = write_workflow(tmp_path / "w.yaml", rows=4000, rows_per_chunk=4)
    out = tmp_path / "run"
    arguments = ("encode", "--workflow", settings, "--out", out, "--scheduler", "serial", "--json")
    with start(*arguments) as process:
        wait_for(lambda: list(out.glob("receipts/*")) or process.poll() is not None)
        for _ in range(4):
            process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == ExitCode.STOPPED
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("Stopped.")
