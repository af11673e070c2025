"""What `train.where` tells a user to do works."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders.advice import told
from train.test_where import WHERE

from daskt2i import open_run
from daskt2i.loader.joined.chosen_rows import chosen_rows
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.samples import rows_of_training


@pytest.fixture
def own(demo_run: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(demo_run, tmp_path / "run", ignore=shutil.ignore_patterns("train", "pipeline")))


def test_an_expression_that_keeps_no_row_can_be_exchanged_or_left_out(own: RunFolder) -> None:
    with told("loader/joined/chosen_rows.py:chosen_rows ConfigError") as error:
        rows_of_training(own, "image_id < 0")
    assert "or null for all rows" in str(error.value)
    assert len(rows_of_training(own, WHERE))
    run = open_run(own.root).with_settings({"train.where": None})
    assert len(rows_of_training(own, run.workflow.train.where)) == 20
    assert len(chosen_rows(own, rows_of_training(own, None), "any", "image_id >= 0")) == 20
