"""`load_workflow`, `open_store` and `open_run` tell what is wrong with an argument, and the nearest right one works."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.advice import told
from builders.workflows import fake_settings, finish

import daskt2i
from daskt2i.errors import Daskt2iError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run folder. Do not change it."""
    place = tmp_path_factory.mktemp("runs")
    finish(fake_settings(rows=4), place / "birds")
    (place / "notes.txt").write_text("x")
    return place


@pytest.mark.parametrize("wrong", ["brids", "birds/workflow.yaml", "birds/nothing", ""])
def test_the_nearest_run_folder_is_named_and_opens(runs: Path, wrong: str) -> None:
    with told("store/dataset.py:_open_one StoreMissing") as error:
        daskt2i.open_store(runs / wrong)
    found = re.search(r"Did you mean (.*)\?$", str(error.value))
    assert found is not None
    assert found[1] == str(runs / "birds")
    assert daskt2i.open_store(found[1]).sizes["row"] == 4
    if wrong == "brids":
        with pytest.raises(Daskt2iError, match=re.escape(found[0])):
            daskt2i.open_run(runs / wrong)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: daskt2i.load_workflow(None), "^name is None, but it must be the name of a shipped workflow"),  # type: ignore[arg-type]
        (lambda: daskt2i.load_workflow(5), "^name is 5, but"),  # type: ignore[arg-type]
        (lambda: daskt2i.load_workflow("dmeo"), r"named 'dmeo'\. .* Did you mean demo\?$"),
        (lambda: daskt2i.load_workflow("Demo-Long.yml"), r"Did you mean demo-long\?$"),
        (lambda: daskt2i.load_workflow(setings={}), r"no argument 'setings'\. Did you mean settings\?"),  # type: ignore[call-arg]
        (lambda: daskt2i.open_store(None), "^path is None, but it must be a path or an address"),  # type: ignore[arg-type]
        (lambda: daskt2i.open_store(5), "^path is 5, but"),  # type: ignore[arg-type]
        (lambda: daskt2i.open_store(), "missing a required argument: 'path'"),  # type: ignore[call-arg]
        (lambda: daskt2i.open_store("x", 5), "^storage_options is 5, but it must be a mapping"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_argument_is_one_sentence(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(Daskt2iError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_folder_and_a_file_that_are_no_workflow_are_told_apart(runs: Path) -> None:
    with told("config/workflow_file.py:find_file ConfigError") as error:
        daskt2i.load_workflow(runs / "birds")
    assert "is a folder; give a run folder as the run folder (out), or to daskt2i.open_run" in str(error.value)
    assert daskt2i.open_run(runs / "birds").workflow == daskt2i.Run(out=runs / "birds").workflow
    with told("config/workflow_file.py:find_file ConfigError") as error:
        daskt2i.load_workflow(runs / "notes.txt")
    assert "ends in .yaml" in str(error.value)
