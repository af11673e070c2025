"""Captions of validation rows are those that the drawn model did not learn, whatever the settings say now."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders.workflows import fake_settings, finish

from daskt2i.config.settings import TrainSettings
from daskt2i.evaluation.heldout_captions import heldout_captions
from daskt2i.loader.dataset import SAMPLED, SAMPLES, LatentDataset
from daskt2i.sources.fake import colour
from daskt2i.store.run_folder import RunFolder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(fake_settings(rows=24, rows_per_chunk=8, resolution=32), out)
    return RunFolder(out)


def label(folder: RunFolder, identity: Any) -> None:
    """What a pipeline says of its training."""
    folder.write("pipeline/daskt2i.json", json.dumps({"identity": identity}).encode())


@pytest.mark.parametrize("now", [{"seed": 0}, {"validation": 12}, {"validation": 0}, {"seed": 1}])
def test_they_are_of_the_rows_that_the_training_held_out(store: RunFolder, now: dict[str, int]) -> None:
    label(store, {"train": {"seed": 1, "validation": 4}, SAMPLES: dict(SAMPLED)})
    data = LatentDataset(store, seed=1, batch=4, heldout=4)
    data.close()
    settings = TrainSettings.model_validate({"seed": 1, "validation": 4, "batch": 4, **now})
    found = heldout_captions(settings, store, 12)
    assert len(found) == 4
    assert found == [f"colour {red} {green} {blue}, 0" for red, green, blue in map(colour, data.heldout.tolist())]


def test_a_training_without_validation_rows_has_none(store: RunFolder) -> None:
    label(store, {"train": {"validation": 0}})
    assert heldout_captions(TrainSettings.model_validate({"validation": 4, "batch": 4}), store, 4) == []


@pytest.mark.parametrize("identity", [None, [1], {}, {"train": 3}])
def test_without_a_known_training_the_settings_count(store: RunFolder, identity: Any) -> None:
    label(store, identity)
    assert len(heldout_captions(TrainSettings.model_validate({"validation": 4, "batch": 4}), store, 12)) == 4
