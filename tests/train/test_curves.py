"""Curves of a training: any window in few points, no spike lost, while the training writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from daskt2i.store.run_folder import RunFolder
from daskt2i.train.figures.curves import Curves
from daskt2i.train.figures.sheets import Sheets

METRICS = Path("train/metrics.jsonl")


def write(folder: Path, steps: range, mode: str = "a", **more: float) -> None:
    (folder / METRICS).parent.mkdir(exist_ok=True)
    with (folder / METRICS).open(mode) as file:
        for step in steps:
            file.write(json.dumps({"step": step, "loss": value(step), **more}) + "\n")


def value(step: int) -> float:
    return float(np.sin(step / 50) + 0.1 * (step % 7))


def test_few_points_are_the_values_themselves(tmp_path: Path) -> None:
    write(tmp_path, range(1, 11))
    window = Curves(RunFolder(tmp_path)).window("loss", 3, 6)
    assert window.steps.tolist() == [3, 4, 5, 6]
    for row in (window.low, window.mean, window.high):
        assert row.tolist() == [value(step) for step in range(3, 7)]


def test_many_points_are_smallest_mean_and_largest_of_equally_many(tmp_path: Path) -> None:
    write(tmp_path, range(1, 10_001))
    window = Curves(RunFolder(tmp_path)).window("loss", points=100)
    values = np.array([value(step) for step in range(1, 10_001)]).reshape(100, 100)
    assert window.steps.tolist() == list(range(100, 10_001, 100))
    np.testing.assert_allclose(window.low, values.min(1))
    np.testing.assert_allclose(window.mean, values.mean(1))
    np.testing.assert_allclose(window.high, values.max(1))


@pytest.mark.parametrize("remote", [False, True])
def test_lines_that_are_added_are_read_without_the_ones_before(tmp_path: Path, remote: bool) -> None:
    write(tmp_path, range(1, 5))
    folder = RunFolder(f"local://{tmp_path}" if remote else tmp_path)
    curves = Curves(folder)
    assert curves.figures() == {"loss": 4}
    write(tmp_path, range(5, 8), heldout_loss=0.5)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 8, "lo')  # a line that is being written
    assert curves.figures() == {"loss": 7, "heldout_loss": 7}
    assert curves.window("loss").steps.tolist() == [1, 2, 3, 4, 5, 6, 7]
    with (tmp_path / METRICS).open("a") as file:
        file.write('ss": 0.25}\n')
    assert curves.window("loss").mean[-1] == 0.25
    assert curves.window("heldout_loss").steps.tolist() == [5, 6, 7]


def test_a_training_that_goes_back_to_a_checkpoint_or_begins_anew_is_followed(tmp_path: Path) -> None:
    write(tmp_path, range(1, 20))
    curves = Curves(RunFolder(tmp_path))
    assert curves.figures() == {"loss": 19}
    write(tmp_path, range(1, 11), "w")
    assert curves.window("loss").steps.tolist() == list(range(1, 11))
    write(tmp_path, range(1, 8), "w")
    write(tmp_path, range(8, 40), heldout_loss=3.0)  # it went on from another step, and is longer than before
    assert curves.window("heldout_loss").steps.tolist() == list(range(8, 40))
    assert curves.window("loss").steps.tolist() == list(range(1, 40))
    write(tmp_path, range(1, 30), "w", norm=2.0)
    assert curves.figures() == {"loss": 29, "norm": 29}
    (tmp_path / METRICS).unlink()
    assert curves.figures() == {}
    assert curves.window("loss").steps.tolist() == []


def test_damaged_lines_and_values_that_are_not_finite_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    with (tmp_path / METRICS).open("a") as file:
        file.write('no JSON\n[1]\n{"step": "x", "loss": 1}\n{"step": 4, "loss": NaN, "note": "words"}\n')
    write(tmp_path, range(5, 7))
    curves = Curves(RunFolder(tmp_path))
    assert curves.window("loss").steps.tolist() == [1, 2, 3, 5, 6]
    assert curves.figures() == {"loss": 6}


def test_sheets_are_listed_by_step_and_other_files_are_not(tmp_path: Path) -> None:
    place = tmp_path / "train" / "sheets"
    place.mkdir(parents=True)
    for name in ("step-0000100.png", "step-0000000.png", ".step-0000050.png.part", "notes.txt", "step-12345678.png"):
        (place / name).write_bytes(name.encode())
    sheets = Sheets(RunFolder(tmp_path))
    assert sheets.steps() == (0, 100, 12_345_678)
    assert sheets.read(100) == b"step-0000100.png"
    with pytest.raises(FileNotFoundError):
        sheets.read(1)
