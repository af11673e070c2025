"""The figures of a run: each step is there once, also after an interruption, and TensorBoard reads them."""

from __future__ import annotations

import errno
import json
import threading
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from builders.disks import disk_of

from daskt2i.errors import StoreFull
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.metrics import EVENTS, METRICS, Metrics, read_metrics


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path if request.param == "local" else f"memory://{uuid4().hex}")


def write(folder: RunFolder, first: int, last: int, step: int = 0) -> None:
    metrics = Metrics(folder, step)
    for n in range(first, last + 1):
        metrics.add(n, loss=1 / n, rate=0.1)
    metrics.close()


def test_lines_are_read_as_they_were_written(folder: RunFolder) -> None:
    metrics = Metrics(folder)
    metrics.add(1, loss=0.1234567891234, norm=2)
    metrics.add(1, heldout_loss=0.5)
    metrics.close()
    assert read_metrics(folder) == [{"step": 1, "loss": 0.123456789, "norm": 2.0}, {"step": 1, "heldout_loss": 0.5}]


def test_going_back_to_a_checkpoint_drops_the_steps_after_it(folder: RunFolder) -> None:
    write(folder, 1, 6)
    write(folder, 4, 7, step=3)
    assert [line["step"] for line in read_metrics(folder)] == [1, 2, 3, 4, 5, 6, 7]
    write(folder, 1, 2)
    assert [line["step"] for line in read_metrics(folder)] == [1, 2]


def test_incomplete_lines_are_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, 1, 3)
    path = folder.local_path(METRICS)
    path.write_bytes(path.read_bytes()[:-7])
    assert [line["step"] for line in read_metrics(folder)] == [1, 2]
    with path.open("ab") as file:
        file.write(b'\n17\n{"loss": 3}\n\xff\n')
    assert [line["step"] for line in read_metrics(folder)] == [1, 2]
    write(folder, 3, 3, step=2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_without_a_file_there_are_no_lines(folder: RunFolder) -> None:
    assert read_metrics(folder) == []


def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = RunFolder(tmp_path)
    write(folder, 1, 5)
    write(folder, 3, 4, step=2)
    board = EventAccumulator(str(folder.local_path(EVENTS)))
    board.Reload()
    assert set(board.Tags()["scalars"]) == {"loss", "rate"}
    assert [e.step for e in board.Scalars("loss")] == [1, 2, 3, 4]
    assert [e.value for e in board.Scalars("loss")] == pytest.approx([1 / n for n in range(1, 5)])


def test_each_training_in_the_folder_has_its_own_figures(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, 1, 2)
    metrics = Metrics(folder, prefix="train-vae")
    metrics.add(9, psnr=20.0)
    metrics.close()
    assert len(read_metrics(folder)) == 2
    assert read_metrics(folder, "train-vae") == [{"step": 9, "psnr": 20.0}]


def test_a_full_disk_prints_no_traceback_of_tensorboards_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    with disk_of(tmp_path / "disk", "64k") as disk:
        metrics = Metrics(RunFolder(disk))
        metrics.add(1, n=1)
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(512)):
                pass

        def go_on() -> None:  # an event is longer than a line, so the events are full first
            for step in range(2, 150):
                metrics.add(step, n=1)

        with pytest.raises(StoreFull, match="free some space"):
            go_on()
        with pytest.raises(StoreFull, match="train/events"):
            metrics.close()
    assert "Traceback" not in capfd.readouterr().err
    broken = threading.Thread(target=lambda: [][0], name="another")  # what it raises is printed as before
    broken.start()
    broken.join()
    assert "IndexError" in capfd.readouterr().err


@pytest.mark.parametrize("what", ["lines", "events"])
def test_a_full_disk_is_reported_in_one_sentence(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(RunFolder(tmp_path))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if what == "lines":
            patch.setattr(Path, "open", full)
        else:
            patch.setattr(metrics._board, "add_scalar", full)
        with pytest.raises(StoreFull, match="free some space"):
            metrics.add(1, loss=0.5)
    metrics.close()
