"""Who named a setting: the run folder, which a stranger may have written, or the user."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from builders.workflows import fake_settings, finish

from daskt2i.errors import ConfigError
from daskt2i.session.run_settings import refuse_strangers, run_settings, scheduler_of, with_changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that names a cluster and an encoder from outside daskt2i."""
    out = tmp_path_factory.mktemp("settings") / "run"
    finish(fake_settings(rows=4), out)
    path = out / "workflow.yaml"
    data = yaml.safe_load(path.read_text())
    data["run"]["scheduler"] = "tcp://there:8786"
    data["dataset"]["encoders"]["image"]["class"] = "there.Encoder"
    path.write_text(yaml.safe_dump(data))
    return out


def test_a_scheduler_that_the_user_names_is_taken_and_one_that_only_the_folder_names_is_not(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"The settings in .* name the scheduler tcp://there:8786"):
        scheduler_of(run_settings(out=folder))
    for own in ("tcp://mine:8786", "tcp://there:8786"):
        named = run_settings(out=folder, settings={"run.scheduler": own})
        assert scheduler_of(named) == own
        assert scheduler_of(with_changes(named, {"train.steps": 1})) == own
    assert scheduler_of(run_settings(out=folder, settings={"run": {"scheduler": "mine.yaml"}})) == "mine.yaml"


def test_a_class_that_the_user_names_is_trusted_and_that_of_the_folder_beside_it_is_not(folder: Path) -> None:
    text = {"dataset.encoders.text.class": "mine.Text"}
    with pytest.raises(ConfigError, match=r"name there\.Encoder, which"):
        refuse_strangers(run_settings(out=folder, settings=text))
    refuse_strangers(run_settings(out=folder, settings=text | {"dataset.encoders.image.class": "mine.Image"}))
