"""Who named a setting: the run folder, which a stranger may have written, or the user."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from builders.workflows import fake_settings, finish

import daskt2i
from daskt2i.errors import ConfigError, Interrupted
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


def test_a_folder_of_insights_alone_keeps_the_settings_and_those_of_an_encode_stay(tmp_path: Path) -> None:
    def ask(rows: int | None, out: Path) -> int:
        workflow = None if rows is None else fake_settings(rows=rows)
        with daskt2i.Run(workflow, out, scheduler="serial", progress=False) as run:
            return run.insights(pictures=False, tokens=False).rows

    new, encoded = tmp_path / "new", tmp_path / "encoded"
    assert ask(5, new) == 5
    assert ask(None, new) == 5
    assert run_settings(fake_settings(rows=6), new).differs == ""
    assert daskt2i.open_run(new).workflow.dataset.source.arguments["rows"] == 5
    finish(fake_settings(rows=4), encoded)
    before = (encoded / "workflow.yaml").read_bytes()
    assert "dataset.source.rows: 4 there, 5 now" in run_settings(fake_settings(rows=5), encoded).differs
    assert ask(5, encoded) == 5
    assert (encoded / "workflow.yaml").read_bytes() == before


def test_a_run_that_is_stopped_while_it_draws_scenes_continues_from_the_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("daskt2i.sources.scenes.write_scenes", stop)
        with pytest.raises(Interrupted):
            daskt2i.Run("demo", tmp_path / "run", settings={"scenes.rows": 7}, scheduler="serial").encode()
    monkeypatch.chdir(tmp_path / "run")
    for found in (run_settings(out=tmp_path / "run"), run_settings()):
        assert found.folder.local_path() == tmp_path / "run"
        assert found.workflow.scenes is not None
        assert found.workflow.scenes.rows == 7
