"""`train.where`: the rows that train and are held out, and which training they belong to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from builders.command_line import run
from builders.runs import TINY, tiny_workflow, trained_here
from builders.workflows import load_workflow

from daskt2i.config.settings import TrainSettings, Workflow
from daskt2i.errors import ConfigError, FingerprintMismatch
from daskt2i.evaluation.heldout_captions import heldout_captions
from daskt2i.events import Event, Note
from daskt2i.loader.dataset import LatentDataset
from daskt2i.loader.joined.chosen_rows import CHOSEN
from daskt2i.store.dataset import open_store
from daskt2i.store.layout import about_store
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.driver import identity_of, trained_steps
from daskt2i.train.samples import as_begun, notes_before, rows_of_training

WHERE = "image_id % 3 > 0"


def settings(**changes: object) -> TrainSettings:
    return tiny_workflow().train.model_copy(update={"validation": 4, "batch": 4, "where": WHERE, **changes})


def workflow(where: str | None) -> Workflow:
    found = tiny_workflow()
    return found.model_copy(update={"train": found.train.model_copy(update={"where": where})})


@pytest.fixture
def own(demo_run: Path, tmp_path: Path) -> RunFolder:
    """A store of 20 drawn scenes without a training."""
    for name in ("latents.zarr", "receipts"):
        shutil.copytree(demo_run / name, tmp_path / name)
    return RunFolder(tmp_path)


def wanted(folder: RunFolder) -> list[int]:
    ids = open_store(folder.root).image_id.values
    return [row for row in range(len(ids)) if ids[row] % 3 > 0]


def data(folder: RunFolder, where: str | None = WHERE, **changes: int) -> LatentDataset:
    given = {"seed": 0, "batch": 4, "heldout": 4, **changes}
    return LatentDataset(folder, where=where, **given)  # type: ignore[arg-type]


def test_only_rows_that_where_keeps_train_and_are_held_out(own: RunFolder) -> None:
    found = data(own)
    rows = wanted(own)
    assert 0 < len(rows) < 20
    assert found.split.left_out + len(found.heldout) + len(found.split.training) == len(rows)
    assert {*found.heldout.tolist(), *found.split.training.tolist()} <= set(rows)
    drawn = {int(row) for batch in found.batches(0, 4 * found.rows) for row in batch.rows}
    assert drawn == set(found.split.training.tolist())
    assert len(found.heldout) == 4
    found.close()


def test_ranks_read_the_list_that_the_driver_has_written(own: RunFolder) -> None:
    notes = list(notes_before(own, settings(where="words > 5 and image_id % 3 > 0"), False, 1, 2**29))
    rows = rows_of_training(own, "words > 5 and image_id % 3 > 0").tolist()
    assert notes[0].startswith("train.where (`words > 5 and image_id % 3 > 0`) keeps ")
    for shard in (own.local_path("latents.zarr") / "caption").glob("c.*"):
        shard.write_bytes(b"damaged")  # so nobody can find the words again
    assert data(own, "words > 5 and image_id % 3 > 0").chosen.tolist() == rows
    with pytest.raises(Exception, match="cannot be read"):
        data(own, "words > 4 and image_id % 3 > 0")


def test_a_list_of_other_rows_is_not_used(own: RunFolder) -> None:
    list(notes_before(own, settings(), False, 1, 2**29))
    kept = json.loads(own.read(CHOSEN))
    own.write(CHOSEN, json.dumps({**kept, "rows": [[0, 3]]}).encode())
    own.write(CHOSEN, json.dumps({**kept, "rows": [[0, 3]], "key": "of another store"}).encode())
    assert data(own, heldout=2).chosen.tolist() == wanted(own)
    own.write(CHOSEN, b"{torn")
    assert data(own, heldout=2).chosen.tolist() == wanted(own)


def test_a_training_without_where_has_the_identity_of_before(own: RunFolder) -> None:
    stored = about_store(ZarrStore(own))
    assert stored is not None
    plain = identity_of(settings(where=None), stored)
    assert "where" not in plain["train"]
    assert as_begun(plain, own) == plain
    assert identity_of(settings(), stored)["train"]["where"] == WHERE


def test_a_training_is_not_continued_on_other_rows(own: RunFolder) -> None:
    stored = about_store(ZarrStore(own))
    assert stored is not None
    begun = as_begun(identity_of(workflow(WHERE).train, stored), own)
    Checkpoints(own).save(1, 4, {"model.a": torch.zeros(1)}, {"identity": begun})
    assert trained_steps(workflow(WHERE), own) == 1
    with pytest.raises(FingerprintMismatch, match=r"train\.where"):
        trained_steps(workflow("image_id % 3 > 1"), own)
    with pytest.raises(FingerprintMismatch, match=r"train\.where"):
        trained_steps(workflow(None), own)
    other = {**begun, "chosen": "5 rows, 0123456789ab"}  # as from a column that was added again with other values
    Checkpoints(own).save(2, 8, {"model.a": torch.zeros(1)}, {"identity": other})
    with pytest.raises(FingerprintMismatch, match=r'chosen: "5 rows, 0123456789ab" there, "\d+ rows, \w+" now'):
        trained_steps(workflow(WHERE), own)


def test_a_trained_model_knows_its_rows_and_unseen_captions_come_from_them(own: RunFolder) -> None:
    told: list[Event] = []
    trained_here(load_workflow("demo", [*TINY, f"train.where={WHERE}", "train.steps=1"]), Path(own.root), told.append)
    assert any(isinstance(one, Note) and "train.where" in one.text for one in told)
    captions = open_store(own.root).caption.values[:, 0].tolist()
    held = data(own)
    found = heldout_captions(settings(where=None), own, 4)  # the settings of now say nothing of the rows
    assert found == [str(captions[row]) for row in held.heldout.tolist()]
    assert all(captions.index(text) in wanted(own) for text in found)
    held.close()


def test_the_plan_counts_the_rows_that_are_left(own: RunFolder) -> None:
    words = ["train", "--out", own.root, "--where", WHERE, "--dry-run", "--json"]
    done = run(*words, *(word for text in TINY for word in ("--set", text)))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == len(wanted(own))


def test_an_expression_that_leaves_too_few_rows_is_refused_before_a_rank_starts(own: RunFolder) -> None:
    with pytest.raises(ConfigError, match=r"train.where \(`image_id < 3`\) keeps, so no rows are left"):
        data(own, "image_id < 3")
