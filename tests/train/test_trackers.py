"""A tracker gets every step once, also after a restart, and none that fails or hangs ends a training."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from builders.advice import told
from PIL import Image

from daskt2i.errors import ConfigError
from daskt2i.events import Event, LaunchEvent, Note
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.trackers import follow
from daskt2i.train.trackers.follow import Trackers
from daskt2i.train.trackers.place import place_of_files

SHEET = "train/sheets/step-0000002.png"


class Remembering:
    """A tracker that keeps what it gets."""

    def __init__(self) -> None:
        self.id, self.steps, self.sheets = "r1", list[tuple[int, dict[str, float]]](), list[int]()
        self.config: Mapping[str, Any] = {}
        self.known: list[str | None] = []

    def open(self, name: str, folder: RunFolder, prefix: str, config: Mapping[str, Any], known: str | None) -> Any:
        self.config = config
        self.known.append(known)
        return self

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.steps.append((step, dict(figures)))

    def sheet(self, step: int, at: int, png: bytes) -> None:
        self.sheets.append(step)

    def close(self) -> None:
        pass


def written(folder: RunFolder, *lines: dict[str, float]) -> None:
    folder.write("train/metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())


def run(folder: RunFolder, opener: Any, name: str = "wandb", seconds: float = 60.0) -> list[Event]:
    """A training of one event, whose figures are all in the file at its end."""
    heard: list[Event] = []
    settings = {"train": {"steps": 3}, "source": {"url": "https://me:hunter22@host/a"}}
    trackers = Trackers([name], folder, "train", settings, heard.append, opener, seconds)
    trackers.hear(LaunchEvent("step", 1, 0, {"step": 1}))
    if folder.exists(SHEET):
        trackers.hear(LaunchEvent("sheet", 1, 0, {"step": 2, "file": SHEET}))
    trackers.close()
    return heard


def drawn(folder: RunFolder) -> None:
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    folder.write(SHEET, png.getvalue())


LINES = ({"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "heldout_loss": 2.5})


def test_every_step_comes_once_with_all_its_figures_and_without_secrets(tmp_path: Path) -> None:
    folder, tracker = RunFolder(tmp_path), Remembering()
    written(folder, *LINES)
    drawn(folder)
    run(folder, tracker.open)
    assert tracker.steps == [(1, {"loss": 3.0}), (2, {"loss": 2.0, "heldout_loss": 2.5})]
    assert tracker.sheets == [2]
    assert tracker.config["source"] == {"url": "https://***@host/a"}


def test_a_training_that_goes_on_continues_its_run_without_steps_twice(tmp_path: Path) -> None:
    folder, tracker = RunFolder(tmp_path), Remembering()
    drawn(folder)
    written(folder, *LINES)
    run(folder, tracker.open)
    written(folder, LINES[0], {"step": 2, "loss": 2.0}, {"step": 3, "loss": 1.0})  # step 2 was done again
    run(folder, tracker.open)
    assert [step for step, _ in tracker.steps] == [1, 2, 3]
    assert tracker.sheets == [2]
    assert tracker.known == [None, "r1"]


def test_a_tracker_that_fails_costs_one_note(tmp_path: Path) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no network")

    heard = run(RunFolder(tmp_path), fails)
    notes = [one.text for one in heard if isinstance(one, Note)]
    assert len(notes) == 1
    assert "wandb failed (RuntimeError: no network)" in notes[0]
    assert "The training is not affected" in notes[0]
    assert any(isinstance(one, LaunchEvent) for one in heard)


def test_a_tracker_that_hangs_is_left_behind(tmp_path: Path) -> None:
    released = threading.Event()

    def hangs(*_: Any) -> Any:
        released.wait(60)
        return Remembering()

    try:
        heard = run(RunFolder(tmp_path), hangs, seconds=0.05)
    finally:
        released.set()
    assert [one.text for one in heard if isinstance(one, Note) and "did not answer" in one.text]


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "find_spec", lambda name: None)
    with told("train/trackers/follow.py:require_packages ConfigError") as info:
        follow.require_packages(["wandb"])
    assert info.type is ConfigError
    assert "pip install 'daskt2i[wandb]'" in str(info.value)
    follow.require_packages([])  # it was taken out of launch.trackers


def test_wandb_writes_an_offline_run_into_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = RunFolder(tmp_path)
    written(folder, *LINES)
    drawn(folder)
    heard = run(folder, follow.open_tracker)
    assert [one.text for one in heard if isinstance(one, Note)] == []
    assert len(list((tmp_path / "train" / "wandb").glob("offline-run-*/*.wandb"))) == 1


@pytest.mark.slow  # importing mlflow takes seconds
def test_mlflow_writes_figures_settings_and_sheets_into_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = RunFolder(tmp_path)
    written(folder, *LINES)
    drawn(folder)
    heard = run(folder, follow.open_tracker, "mlflow")
    written(folder, *LINES, {"step": 3, "loss": 1.0})
    heard += run(folder, follow.open_tracker, "mlflow")
    assert [one.text for one in heard if isinstance(one, Note)] == []
    (losses,) = (tmp_path / "train" / "mlflow").glob("*/*/metrics/loss")
    assert [line.split()[1:3] for line in losses.read_text().splitlines()] == [["3.0", "1"], ["2.0", "2"], ["1.0", "3"]]
    assert (losses.parents[1] / "params" / "train.steps").read_text() == "3"
    assert (losses.parents[1] / "artifacts" / "sheets" / "step-0000002.png").is_file()


def test_no_sheet_is_missed_by_a_tracker_that_is_slow(tmp_path: Path) -> None:
    folder, tracker, released = RunFolder(tmp_path), Remembering(), threading.Event()
    drawn(folder)

    def slow(*given: Any) -> Any:
        released.wait(60)
        return tracker.open(*given)

    trackers = Trackers(["wandb"], folder, "train", {}, lambda event: None, slow)
    for step in range(1, 301):  # more than wait for a tracker
        trackers.hear(LaunchEvent("step", 1, 0, {"step": step}))
        if step % 50 == 0:
            trackers.hear(LaunchEvent("sheet", 1, 0, {"step": step, "file": SHEET}))
    released.set()
    trackers.close()
    assert tracker.sheets == [50, 100, 150, 200, 250, 300]


def test_a_run_that_cannot_be_continued_gets_all_steps(tmp_path: Path) -> None:
    folder, tracker, other = RunFolder(tmp_path), Remembering(), Remembering()
    written(folder, *LINES)
    run(folder, tracker.open)
    other.id = "r2"
    run(folder, other.open)
    assert [step for step, _ in other.steps] == [1, 2]


def test_files_of_a_tracker_have_one_place_also_behind_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert place_of_files(RunFolder(tmp_path / "run"), "train/mlflow") == tmp_path / "run/train/mlflow"
    first, again, other = (place_of_files(RunFolder(f"memory://{one}"), "train/mlflow") for one in ("a", "a", "b"))
    assert first == again != other
    assert first.is_dir()
    assert tmp_path / "cache" in first.parents
