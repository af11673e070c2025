"""What `config` tells a user to do works: settings, workflow files, classes that a workflow names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from builders.advice import told
from builders.coco import coco_source, write_coco
from builders.workflows import IMAGE, fake_data, small_settings, write_workflow

import daskt2i
from daskt2i import protocols
from daskt2i.config.component import Component
from daskt2i.config.workflow_file import load_workflow, shipped
from daskt2i.errors import ConfigError


def test_both_of_images_and_captions_are_taken(tmp_path: Path) -> None:
    given = coco_source(write_coco(tmp_path))
    with told("config/changes.py:Changes.apply ConfigError"):
        daskt2i.Run(small_settings(), tmp_path / "run", captions=given["captions"])
    run = daskt2i.Run(
        write_workflow(tmp_path / "w.yaml"), tmp_path / "run", images=given["images"], captions=given["captions"]
    )
    assert run.workflow.dataset.source.arguments["images"] == given["images"]


def test_a_dataset_section_that_holds_settings_is_taken(tmp_path: Path) -> None:
    given = coco_source(write_coco(tmp_path))
    path = write_workflow(tmp_path / "w.yaml")
    data = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**data, "dataset": "coco"}))
    both = {"images": given["images"], "captions": given["captions"]}
    with told("config/changes.py:Changes.apply ConfigError"):
        daskt2i.Run(path, tmp_path / "run", **both)
    path.write_text(yaml.safe_dump({**data, "dataset": {k: v for k, v in data["dataset"].items() if k != "source"}}))
    assert daskt2i.Run(path, tmp_path / "run", **both).workflow.dataset.source.arguments["images"]


def test_changes_by_dotted_key_are_taken(tmp_path: Path) -> None:
    wrong: Any = ["train.steps=100"]
    with told("config/changes.py:by_dotted_key ConfigError"):
        load_workflow("demo", wrong)
    with told("session/arguments.py:check_arguments ConfigError"):
        daskt2i.Run(small_settings(), tmp_path, settings=wrong)
    assert daskt2i.Run(small_settings(), tmp_path, settings={"train.steps": 100}).workflow.train.steps == 100


def test_a_key_of_section_and_key_is_taken(tmp_path: Path) -> None:
    with told("config/changes.py:_set ConfigError"):
        daskt2i.Run(small_settings(), tmp_path, settings={"batch": 2})
    assert daskt2i.Run(small_settings(), tmp_path, settings={"run.batch": 2}).workflow.run.batch == 2


def test_the_name_of_a_single_value_is_taken_as_the_message_has_it(tmp_path: Path) -> None:
    with told("config/changes.py:_set ConfigError") as error:
        daskt2i.Run(small_settings(), tmp_path, settings={"run.batch.size": 2})
    assert "batch is a single value" in str(error.value)
    assert daskt2i.Run(small_settings(), tmp_path, settings={"run.batch": 2}).workflow.run.batch == 2


def test_one_of_two_values_of_a_setting_alone_is_taken(tmp_path: Path) -> None:
    with told("config/changes.py:_set ConfigError") as error:
        daskt2i.Run(small_settings(), tmp_path, settings={"dataset.where": "people"}, where="not people")
    assert "dataset.where has two values" in str(error.value)
    assert daskt2i.Run(small_settings(), tmp_path, where="not people").workflow.dataset.where == "not people"


def test_the_new_name_of_a_setting_alone_is_taken(tmp_path: Path) -> None:
    with told("config/changes.py:_set ConfigError"):
        daskt2i.Run(small_settings(), tmp_path, settings={"train.clip": 1.0, "train.max_grad_norm": 2.0})
    alone = daskt2i.Run(small_settings(), tmp_path, settings={"train.max_grad_norm": 2.0})
    assert alone.workflow.train.max_grad_norm == 2.0


def test_the_new_name_alone_in_a_workflow_file_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(yaml.safe_dump(fake_data() | {"train": {"clip": 1.0, "max_grad_norm": 2.0}}))
    with told("config/renamed.py:with_new_names ConfigError"):
        daskt2i.Run(path, tmp_path / "run")
    path.write_text(yaml.safe_dump(fake_data() | {"train": {"max_grad_norm": 2.0}}))
    assert daskt2i.Run(path, tmp_path / "run").workflow.train.max_grad_norm == 2.0


def test_an_old_name_may_be_written_as_its_new_one_says(tmp_path: Path) -> None:
    notes = daskt2i.Run(small_settings(), tmp_path, settings={"launch.attempts": 3}, progress=False).workflow.notes
    assert [note for note in notes if "launch.max_restarts" in note]
    new = daskt2i.Run(small_settings(), tmp_path, settings={"launch.max_restarts": 2}, progress=False).workflow
    assert (new.notes, new.launch.max_restarts) == ((), 2)


def test_a_class_with_the_methods_of_its_protocol_is_taken() -> None:
    with told("config/component.py:Component.build ConfigError"):
        Component.model_validate({"class": "builtins.dict"}).build(protocols.ImageEncoder, "dataset.encoders.image")
    assert protocols.ImageEncoder.__doc__  # the page that the message names
    assert Component.model_validate({"class": IMAGE}).build(protocols.ImageEncoder, "dataset.encoders.image")


def test_a_class_that_gets_the_arguments_that_it_takes_is_made() -> None:
    needy = "daskt2i.encoders.vae.VaeEncoder"
    with told("config/component.py:Component.build ConfigError") as error:
        Component.model_validate({"class": needy}).build(protocols.ImageEncoder, "encoder")
    assert "'model'. Nothing was started; give encoder the arguments" in str(error.value)
    assert Component.model_validate({"class": needy, "model": "daskt2i:demo/vae"}).build(
        protocols.ImageEncoder, "encoder"
    )


@pytest.mark.parametrize("wrong", ["FakeImageEncoder", IMAGE.replace("Encoder", "Encodr"), "nowhere.Encoder"])
def test_a_dotted_path_that_is_spelt_rightly_is_taken(wrong: str, tmp_path: Path) -> None:
    data = fake_data(image={"class": wrong})
    path = tmp_path / "w.yaml"
    path.write_text(yaml.safe_dump(data))
    with told("config/component.py:Component._factory ConfigError"):
        daskt2i.Run(path, tmp_path / "run", scheduler="serial").plan()
    right = daskt2i.Run(path, tmp_path / "run", settings={"dataset.encoders.image.class": IMAGE}, scheduler="serial")
    assert right.plan().image_info.arrays


def test_a_class_in_a_module_that_can_be_imported_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = fake_data(image={"class": "encoder_of_this_test.Encoder"})
    path = tmp_path / "w.yaml"
    path.write_text(yaml.safe_dump(data))
    run = daskt2i.Run(path, tmp_path / "run", scheduler="serial")
    with told("config/component.py:Component._factory ConfigError"):
        run.plan()
    (tmp_path / "encoder_of_this_test.py").write_text(
        "from daskt2i.encoders.fake import FakeImageEncoder as Encoder\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert run.plan().image_info.arrays


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        ("config/workflow_file.py:find_file ConfigError", "nothing.yaml"),
        ("config/workflow_file.py:find_file ConfigError", "dmo"),
    ],
)
def test_every_workflow_that_is_listed_and_a_path_are_taken(place: str, wrong: str, tmp_path: Path) -> None:
    with told(place) as error:
        daskt2i.load_workflow(wrong)
    named = [path.stem for path in shipped("workflows").glob("*.yaml")]
    assert all(name in str(error.value) for name in named)
    assert all(daskt2i.load_workflow(name).name == name for name in named)
    assert daskt2i.load_workflow(str(write_workflow(tmp_path / "w.yaml"))).name == "fake"


def test_a_file_that_starts_as_the_message_says_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="such as `name:` and `dataset:`"):
        daskt2i.load_workflow(str(path))
    path.write_text(yaml.safe_dump({"name": "mine", "dataset": fake_data()["dataset"]}))
    assert daskt2i.load_workflow(str(path)).name == "mine"


def test_a_section_as_in_the_message_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(yaml.safe_dump({**fake_data(), "run": "fast"}))
    with told("config/workflow_file.py:_section ConfigError"):
        daskt2i.load_workflow(str(path))
    path.write_text(yaml.safe_dump({k: v for k, v in fake_data().items() if k != "run"}) + "run: {batch: 4}\n")
    assert daskt2i.load_workflow(str(path)).run.batch == 4


def test_a_date_in_quotes_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    text = yaml.safe_dump(fake_data(source={"day": "DAY"}))
    path.write_text(text.replace("DAY", "2024-05-01"))
    with told("config/workflow_file.py:_require_plain ConfigError"):
        daskt2i.load_workflow(str(path))
    path.write_text(text.replace("DAY", "'2024-05-01'"))
    assert daskt2i.load_workflow(str(path)).dataset.source.arguments["day"] == "2024-05-01"


def test_the_setting_that_was_meant_is_taken() -> None:
    with told("config/workflow_file.py:parse_workflow ConfigError") as error:
        daskt2i.load_workflow("demo", {"dataset.rows_per_chunck": 3})
    meant = str(error.value).partition("did you mean ")[2].partition("?")[0]
    assert daskt2i.load_workflow("demo", {meant: 3}).dataset.rows_per_chunk == 3
