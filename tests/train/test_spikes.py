"""Spikes: found with a running median, told, skipped by all ranks alike, or the end of the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders.advice import told as raised
from rank_modules.fitting import Batch, Toy, fit_with, losses

from daskt2i.store.run_folder import RunFolder
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.figures.spikes import LEAST, WINDOW, SpikeWatch
from daskt2i.train.metrics import read_metrics

STEPS, AT = 32, 25


class Spiking(Toy):
    """One whose pictures are a thousand times as bright at one step."""

    def _batch(self, rows: range, what: str = "") -> Batch:
        batch = super()._batch(rows, "")
        return Batch(batch.pixels * 1000, batch.target, "") if what == "spike" else batch


def spiking(**spoil: Any) -> Spiking:
    return Spiking(spoil={AT: "spike", **{int(step[1:]): what for step, what in spoil.items()}})


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The events of a rank."""
    events: list[dict[str, Any]] = []
    monkeypatch.setattr("daskt2i.launch.rank.tell", lambda kind, **fields: events.append({"kind": kind, **fields}))
    return events


def marked(folder: Path) -> list[int]:
    return [line["step"] for line in read_metrics(RunFolder(folder)) if "spike" in line]


def test_a_spike_is_told_marked_and_counted(tmp_path: Path, told: list[dict[str, Any]]) -> None:
    fit_with(tmp_path, spiking(), steps=STEPS)
    assert marked(tmp_path) == [AT]
    (note,) = [event["text"] for event in told if "spike" in event.get("text", "")]
    assert note.startswith(f"Step {AT} is a spike: its loss")
    assert [event["spikes"] for event in told if event["kind"] == "done"] == [1]


def test_a_skipped_step_changes_neither_weights_nor_average_and_a_resume_skips_it_too(
    tmp_path: Path, told: list[dict[str, Any]]
) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    fit_with(calm, spiking(), steps=STEPS, on_spike="skip")
    assert marked(calm) == [AT]
    assert losses(calm)[AT] < 2 * losses(calm)[AT - 2]  # the next step is as those before
    with pytest.raises(StopIteration):
        fit_with(killed, spiking(_25="end"), steps=STEPS, on_spike="skip")  # the checkpoint of step 24 has the window
    fit_with(killed, spiking(), steps=STEPS, on_spike="skip")
    assert losses(killed) == losses(calm)
    assert (killed / "weights").read_bytes() == (calm / "weights").read_bytes()


def test_stop_ends_the_training_before_a_checkpoint_and_skip_goes_on(tmp_path: Path) -> None:
    with raised("train/figures/step_figures.py:StepFigures._is_spike LossSpike") as error:
        fit_with(tmp_path, spiking(), steps=STEPS, on_spike="stop")
    assert "The checkpoint of step 24 is kept" in str(error.value)
    newest = Checkpoints(RunFolder(tmp_path)).newest()
    assert newest is not None
    assert newest.step == 24
    fit_with(tmp_path, spiking(), steps=STEPS, on_spike="skip")  # as the message says
    assert marked(tmp_path) == [AT]


def test_values_that_stay_high_are_spikes_no_more_once_they_are_half_of_the_window() -> None:
    watch = SpikeWatch(10.0)
    found = [bool(watch.look(1.0, 1.0)) for _ in range(WINDOW)] + [bool(watch.look(1.0, 50.0)) for _ in range(WINDOW)]
    assert found.index(True) == WINDOW
    assert 0 < sum(found) <= WINDOW // 2 + 1
    assert not found[-1]


def test_the_first_steps_are_no_spikes_and_values_that_are_not_finite_are_left_out() -> None:
    watch = SpikeWatch(10.0)
    assert not any(watch.look(1.0, norm) for norm in [1.0] * (LEAST - 1) + [1000.0])
    assert not watch.look(float("nan"), 1.0)
    again = SpikeWatch(10.0)
    again.restore(json.loads(json.dumps(watch.about())))
    assert again.look(1.0, 99.0) == watch.look(1.0, 99.0) != ""
    assert again.count == watch.count == 1
