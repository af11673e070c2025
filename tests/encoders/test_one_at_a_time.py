"""One process of a machine goes first, and the other processes wait for it."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pytest

from daskt2i.encoders import weights
from daskt2i.encoders.finding import one_at_a_time as turns

fcntl = pytest.importorskip("fcntl")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_other_processes_wait_for_the_first_and_then_run_together() -> None:
    order: list[str] = []
    inside = threading.Barrier(2)

    def follow() -> None:
        with turns.one_process_first("model") as first:
            order.append(f"first={first}")
            inside.wait(20)  # breaks unless both are inside at the same time

    threads = [threading.Thread(target=follow) for _ in range(2)]
    with turns.one_process_first("model") as first:
        assert first
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(0.1)
        order.append("the first leaves")
    for thread in threads:
        thread.join(20)
    assert order == ["the first leaves", "first=False", "first=False"]


def test_processes_with_other_names_do_not_wait() -> None:
    with turns.one_process_first("model") as one, turns.one_process_first("another") as two:
        assert (one, two) == (True, True)


def test_the_lock_is_released_when_its_holder_fails() -> None:
    with pytest.raises(KeyError), turns.one_process_first("model"):
        raise KeyError
    with turns.one_process_first("model") as first:
        assert first


def test_without_a_folder_for_locks_no_process_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with turns.one_process_first("model") as one, turns.one_process_first("model") as two:
        assert (one, two) == (True, True)


def test_large_weights_are_read_by_one_first_and_small_ones_by_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights, "LARGE_BYTES", 100)
    for name, size in (("small", 99), ("large", 100)):
        (tmp_path / name).write_bytes(bytes(size))
        weights.file_digest(tmp_path / name)
    assert len(list(tmp_path.glob("*.turn"))) == 1
