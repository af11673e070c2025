"""What decides the samples of a training: older trainings go on as they began, and notes say what to know."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from builders.runs import tiny_workflow

from daskt2i.config.settings import TrainSettings
from daskt2i.errors import FingerprintMismatch, Reason
from daskt2i.loader.content import GROUPS
from daskt2i.loader.dataset import SAMPLES
from daskt2i.store.layout import about_store
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.driver import identity_of, trained_steps
from daskt2i.train.samples import as_begun, known_split, notes_before
from daskt2i.types import Rejection


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


def test_a_note_tells_when_more_rows_are_held_out_than_train(own: RunFolder) -> None:
    assert list(notes_before(own, settings(), False, 1, 2**29)) == []
    rows = known_split(own, settings())
    assert rows is not None
    most = len(rows.training) + len(rows.heldout) - 1
    notes = list(notes_before(own, settings(validation=most), False, 1, 2**29))
    assert any("will train the model" in note and "set train.validation lower" in note for note in notes)


def reject(folder: RunFolder, *rows: int) -> None:
    """Change a receipt, as if these rows had been rejected: encode accepts them later, when their images are mended."""
    store = Receipts(folder)
    for receipt in list(store.read()):
        mine = tuple(Rejection(row, row, Reason.MISSING_FILE) for row in rows if receipt.start <= row < receipt.stop)
        accepted = receipt.stop - receipt.start - len(mine)
        store.write(dataclasses.replace(receipt, rejected=mine, accepted=accepted))


def test_a_training_is_not_continued_on_a_store_that_has_more_rows(own: RunFolder) -> None:
    workflow, stored = tiny_workflow(), about_store(ZarrStore(own))
    assert stored is not None
    identity = identity_of(workflow.train, stored)
    reject(own, 3, 11)
    began = as_begun(identity, own)
    Checkpoints(own).save(1, 4, {"model.a": torch.zeros(1)}, {"identity": began})
    assert trained_steps(workflow, own) == 1
    reject(own, 3)
    with pytest.raises(FingerprintMismatch, match=r'rejected: "2 rows, \w+" there, "1 row, \w+" now'):
        trained_steps(workflow, own)
    reject(own)
    with pytest.raises(FingerprintMismatch, match=r'rejected: "2 rows, \w+" there, nothing now'):
        trained_steps(workflow, own)
    Checkpoints(own).save(2, 8, {"model.a": torch.zeros(1)}, {"identity": identity})  # of an older version
    reject(own, 3)
    assert trained_steps(workflow, own) == 2


def test_a_new_training_compares_the_rows_that_came_since(own: RunFolder) -> None:
    reject(own, 3)
    assert list(notes_before(own, settings(), False, 1, 2**29)) == []
    made = own.read(GROUPS)
    list(notes_before(own, settings(), False, 1, 2**29))
    assert own.read(GROUPS) == made
    reject(own)
    own.write(GROUPS, json.dumps({**json.loads(made), "groups": [[0, 1]]}).encode())  # they are found anew
    list(notes_before(own, settings(), False, 1, 2**29))
    assert json.loads(own.read(GROUPS)).keys() == {"store", "groups"}
    assert json.loads(own.read(GROUPS))["groups"] != [[0, 1]]
