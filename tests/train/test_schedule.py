"""The rate of each step: cosine, constant, warmup-stable-decay; what may change when a training goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders.advice import told as raised
from builders.workflows import load_workflow
from rank_modules.fitting import STEPS, Toy, fit_with, losses, settings

from daskt2i.config.settings import OptimiserSettings, VaeSettings
from daskt2i.config.training.denoiser import TrainSettings
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.optimisation.schedule import rate
from daskt2i.train.resume import check_changes, curve_settings

WSD = {"schedule": "wsd", "decay": 0.5}


def rates(**changes: Any) -> list[float]:
    given = settings(warmup=2, steps=10, learning_rate=1.0, **changes)
    return [rate(given, step) for step in range(11)]


def test_a_constant_rate_stays_at_its_peak() -> None:
    assert rates(schedule="constant") == pytest.approx([0.5, *[1.0] * 10])


def test_wsd_stays_at_its_peak_and_falls_in_its_share_of_the_steps() -> None:
    line = rates(**WSD, decay_shape="linear", final_rate=0.1)
    assert line == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.82, 0.64, 0.46, 0.28, 0.1])
    root = rates(**WSD)
    assert root[5:] == pytest.approx([1 - (k / 5) ** 0.5 for k in range(6)])


def test_a_decay_that_is_as_long_as_the_training_begins_after_the_warmup() -> None:
    assert rates(schedule="wsd", decay=1.0, decay_shape="linear") == pytest.approx(
        [0.5, 1, *(1 - k / 8 for k in range(9))]
    )


@pytest.mark.parametrize("kind", [TrainSettings, VaeSettings])
def test_settings_that_are_not_used_are_not_in_the_identity(kind: type[OptimiserSettings]) -> None:
    usual = curve_settings(kind.model_validate({}))
    assert {"schedule", "decay", "decay_shape", "on_spike", "spike_factor"}.isdisjoint(usual)
    assert curve_settings(kind.model_validate({"schedule": "wsd"})) == {**usual, "schedule": "wsd"}


def test_wsd_gets_more_steps_before_its_decay_as_if_it_had_had_them_from_the_begin(tmp_path: Path) -> None:
    """The use of a constant rate: how long a training is may be decided late."""
    long, short = tmp_path / "long", tmp_path / "short"
    fit_with(long, **WSD, steps=2 * STEPS)
    with pytest.raises(StopIteration):  # as if the process were killed in step 6: the checkpoint of step 4 is constant
        fit_with(short, Toy(spoil={6: "end"}), **WSD)
    fit_with(short, **WSD, steps=2 * STEPS)
    assert losses(short) == losses(long)
    found = Checkpoints(RunFolder(short)).newest()
    assert found is not None
    assert "changes" not in found.about  # nothing changed: the finished steps had these rates too


def test_a_schedule_that_changes_on_the_way_is_recorded_by_name(tmp_path: Path) -> None:
    with pytest.raises(StopIteration):
        fit_with(tmp_path, Toy(spoil={10: "end"}))
    fit_with(tmp_path, schedule="constant")
    found = Checkpoints(RunFolder(tmp_path)).newest()
    assert found is not None
    assert found.about["changes"] == [{"step": 8, "schedule": ["cosine", "constant"]}]


def test_other_settings_are_refused_with_the_list_of_those_that_may_change(tmp_path: Path) -> None:
    fit_with(tmp_path, steps=4)
    there = Checkpoints(RunFolder(tmp_path))
    with raised("train/resume.py:check_changes ConfigError") as error:
        check_changes({"train.batch": 4, "train.steps": 9}, there)
    assert "train.batch cannot change" in str(error.value)
    assert "steps, learning_rate, warmup, final_rate, schedule" in str(error.value)
    check_changes({"train.steps": 9, "vae.on_spike": "skip", "launch.compile": True}, there)


def test_without_a_checkpoint_nothing_goes_on_and_set_begins(tmp_path: Path) -> None:
    with raised("train/resume.py:check_changes ConfigError") as error:
        check_changes({"train.steps": 9}, Checkpoints(RunFolder(tmp_path)))
    assert "no checkpoint" in str(error.value)
    assert load_workflow("demo", ["train.steps=9"]).train.steps == 9
