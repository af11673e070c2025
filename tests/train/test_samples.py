"""What decides the samples of a training: older trainings go on as they began, and notes say what to know."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from builders.runs import tiny_workflow

from daskt2i.config.settings import TrainSettings
from daskt2i.loader.content import GROUPS
from daskt2i.loader.dataset import SAMPLES
from daskt2i.store.layout import about_store
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.driver import identity_of, trained_steps
from daskt2i.train.samples import as_begun, known_split, notes_before


def settings(**changes: object) -> TrainSettings:
    return tiny_workflow().train.model_copy(update={"validation": 4, "batch": 4, **changes})


@pytest.fixture
def own(demo_run: Path, tmp_path: Path) -> RunFolder:
    """A store of drawn scenes without a training."""
    for name in ("latents.zarr", "receipts"):
        shutil.copytree(demo_run / name, tmp_path / name)
    return RunFolder(tmp_path)


def test_a_training_keeps_the_samples_that_it_began_with(own: RunFolder) -> None:
    workflow, stored = tiny_workflow(), about_store(ZarrStore(own))
    assert stored is not None
    identity = identity_of(workflow.train, stored)
    assert as_begun(identity, own) == identity
    older = {key: value for key, value in identity.items() if key != SAMPLES}
    Checkpoints(own).save(1, 4, {"model.a": torch.zeros(1)}, {"identity": older})
    assert as_begun(identity, own) == older
    assert trained_steps(workflow, own) == 1  # it is not refused
    Checkpoints(own).save(2, 8, {"model.a": torch.zeros(1)}, {"identity": identity})
    assert as_begun(identity, own) == identity


def test_the_plan_knows_the_split_when_the_rows_were_compared(own: RunFolder) -> None:
    assert known_split(own, settings()) is None
    assert known_split(own, settings(validation=0)) is not None
    assert list(notes_before(own, settings(), False, 1, 2**29)) == []
    groups = json.loads(own.read(GROUPS))["groups"]
    found = known_split(own, settings())
    assert found is not None
    assert len(found.heldout) == 4
    held = set(found.heldout.tolist())
    assert all(held.issuperset(group) or held.isdisjoint(group) for group in groups)


def test_notes_tell_a_small_cache_missing_rows_and_an_older_training(own: RunFolder) -> None:
    (limited,) = notes_before(own, settings(), False, 1, 1000)
    assert "launch.cache" in limited
    rows = known_split(own, settings())
    assert rows is not None
    every = sorted([*rows.heldout.tolist(), *rows.training.tolist()])
    kept = json.loads(own.read(GROUPS))
    own.write(GROUPS, json.dumps({**kept, "groups": [every]}).encode())
    (fewer,) = notes_before(own, settings(), False, 1, 2**29)
    assert fewer.startswith("0 rows are held out instead of 4")
    (older,) = notes_before(own, settings(), True, 1, 2**29)
    assert "older version began this training" in older
