"""What messages about access, transport and reads that hang tell a user to do works."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from builders.advice import told
from builders.workflows import fake_settings

import daskt2i
from daskt2i import retries
from daskt2i.encode import read_ahead
from daskt2i.encode.read_ahead import Care, reading_ahead
from daskt2i.faults.patience import patiently
from daskt2i.images.framing import square
from daskt2i.images.read import Limits
from daskt2i.sources.fake import FakeSource
from daskt2i.types import Row


class Faulty(FakeSource):
    """A source that does what a file says: refuses, or is away. Without the file it reads."""

    def __init__(self, mark: str, rows: int = 24) -> None:
        super().__init__(rows)
        self.mark = Path(mark)

    def read(self, row: Row) -> bytes:
        if self.mark.exists():
            raise {"refuse": PermissionError, "away": ConnectionRefusedError}[self.mark.read_text()](13, "no")
        return super().read(row)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "ACCESS_SECONDS", 0.001)
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(read_ahead, "_LOOK_SECONDS", 0.02)


def _run(tmp_path: Path, **run: Any) -> daskt2i.Run:
    source = {"class": f"{__name__}.Faulty", "mark": str(tmp_path / "mark")}
    workflow = fake_settings(rows=24, rows_per_chunk=4, source=source, **run)
    return daskt2i.Run(workflow, tmp_path / "run", scheduler="serial", progress=False)


def test_encode_continues_with_new_credentials(tmp_path: Path) -> None:
    (tmp_path / "mark").write_text("refuse")
    run = _run(tmp_path)
    with told("faults/patience.py:given_up AccessRefused") as error:
        run.encode()
    assert ".bmp was refused 3 times (PermissionError: [Errno 13] no)" in str(error.value)
    (tmp_path / "mark").unlink()
    assert run.encode().raise_for_failed().accepted == 24


def test_encode_continues_when_the_server_is_back(tmp_path: Path) -> None:
    (tmp_path / "mark").write_text("away")
    run = _run(tmp_path, transport_patience=0.0)
    with told("faults/patience.py:given_up TransportFailed"):
        run.encode()
    (tmp_path / "mark").unlink()
    assert run.encode().raise_for_failed().accepted == 24


class Hanging(FakeSource):
    """Its row 1 does not return while `gone` is set."""

    def __init__(self) -> None:
        super().__init__(4)
        self.gone, self.back = threading.Event(), threading.Event()

    def read(self, row: Row) -> bytes:
        if row.index == 1 and self.gone.is_set():
            self.back.wait(60)
        return super().read(row)


def test_a_read_that_hangs_is_given_up_and_reads_when_the_mount_is_back() -> None:
    source = Hanging()
    source.gone.set()

    def read() -> list[int]:
        care = Care(timeout=0.1)
        rows = source.rows(0, 4)
        with reading_ahead(source, rows, square(32), Limits(1, 10**6), threads=2, window=4, care=care) as readings:
            return [reading.row.index for reading in readings]

    with told("faults/patience.py:stalled ReadStalled"):
        read()
    source.gone.clear()
    assert read() == [0, 1, 2, 3]
    source.back.set()


def test_what_passes_is_waited_for() -> None:
    answers = [TimeoutError("late"), ConnectionResetError(104, "reset"), b"data"]
    waited: list[str] = []

    def call() -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(call, "a.jpg", 10.0, lambda text, limit: waited.append(text), lambda seconds: None) == b"data"
    assert waited == [
        "a.jpg: TimeoutError: late; tried again",
        "a.jpg: ConnectionResetError: [Errno 104] reset; tried again",
        "",
    ]
