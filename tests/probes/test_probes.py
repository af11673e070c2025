"""Measurements of the machine: made once, kept, and harmless if they crash."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from daskt2i.probes import cache, child
from daskt2i.probes.measure import Measured, seconds_of

NAMES = ("torch", "ncnn")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def measured(function: str = "well", measure: bool = True, about: str = "", **arguments: float) -> Measured:
    arguments = arguments or {"torch": 2.0, "ncnn": 1.0}
    return seconds_of("engine", [about], ("numpy",), NAMES, f"builders.measuring:{function}", arguments, measure)


def test_figures_are_measured_once_for_each_question() -> None:
    assert measured(measure=False) == Measured({})
    assert measured() == Measured({"torch": 2.0, "ncnn": 1.0})
    assert measured(torch=5.0, ncnn=5.0) == measured(measure=False) == Measured({"torch": 2.0, "ncnn": 1.0})
    assert measured(about="another model", measure=False) == Measured({})


@pytest.mark.parametrize(
    "text", ["", "[]", '{"key": 1}', "\x00", "{}", '{"key": KEY, "seconds": {"torch": "x"}}', "[" * 100_000]
)
def test_damaged_figures_count_as_missing_and_are_replaced(text: str) -> None:
    key = ["engine", cache.machine_key(("numpy",)), [""]]
    assert cache.keep(key, {"torch": 2.0, "ncnn": 1.0}) == ""
    (file,) = cache.folder().iterdir()
    before = file.read_text()
    file.write_text(text.replace("KEY", before[before.index("[") : before.rindex("]") + 1]))
    assert measured(measure=False) == Measured({})
    assert cache.keep(key, {"torch": 2.0, "ncnn": 1.0}) == ""
    assert file.read_text() == before


def test_a_pipe_in_place_of_figures_counts_as_missing_and_is_replaced() -> None:
    key = ["engine", cache.machine_key(("numpy",)), [""]]
    assert cache.keep(key, {"torch": 2.0, "ncnn": 1.0}) == ""
    (file,) = cache.folder().iterdir()
    file.unlink()
    os.mkfifo(file)
    assert measured(measure=False) == Measured({})
    assert cache.keep(key, {"torch": 2.0, "ncnn": 1.0}) == ""
    assert measured(measure=False) == Measured({"torch": 2.0, "ncnn": 1.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0, 1e9, 10**400])
def test_a_figure_that_is_no_time_is_not_taken(value: float) -> None:
    key = ["engine", cache.machine_key(("numpy",)), [""]]
    assert cache.keep(key, {"torch": value, "ncnn": 1.0}) == ""
    assert measured(measure=False) == Measured({})


def test_processes_that_write_at_the_same_time_lose_nothing() -> None:
    threads = [threading.Thread(target=cache.keep, args=(["engine", n], {"torch": 1.0 + n})) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [cache.read(["engine", n]) for n in range(16)] == [{"torch": 1.0 + n} for n in range(16)]
    assert len(list(cache.folder().iterdir())) == 16, "no partial file is left"


def test_figures_that_cannot_be_kept_are_used_and_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = measured()
    assert found.seconds == {"torch": 2.0, "ncnn": 1.0}
    assert found.notes[0].startswith("What was measured on this machine cannot be kept (Not a directory: ")
    assert found.notes[0].endswith("), so the next run measures again.")


@pytest.mark.parametrize(
    ("function", "failure"),
    [
        ("illegal", "its process was ended by SIGILL (an illegal instruction)"),
        ("raises", "the library is broken"),
        ("leaves", "its process ended with the exit code 3"),
        ("is_not_there", "module 'builders.measuring' has no attribute 'is_not_there'"),
    ],
)
def test_a_measurement_that_crashes_ends_its_own_process_alone(function: str, failure: str) -> None:
    assert child.run(f"builders.measuring:{function}", {}).failure == failure


def test_a_measurement_that_hangs_is_ended() -> None:
    assert child.run("builders.measuring:hangs", {}, limit=1.0).failure == "it took longer than 1 s"


def test_figures_of_a_measurement_that_crashed_are_not_kept() -> None:
    assert measured("illegal").failure.startswith("its process was ended by SIGILL")
    assert measured("well", torch=1.0) == Measured({"torch": 1.0}, "it gave no figures")
    assert measured(measure=False) == Measured({})


def test_a_process_that_cannot_start_and_a_package_that_is_missing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = seconds_of("engine", [], ("no-such-package",), NAMES, "builders.measuring:well", {})
    assert found == Measured({}, "no-such-package is not installed")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert child.run("builders.measuring:well", {}).failure.startswith("its process could not be started (No such file")
