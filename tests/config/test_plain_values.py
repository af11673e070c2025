"""No setting takes an endless number, yes in place of a number, or half a character; the message names the setting."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from builders.outcomes import sentence_of
from builders.workflows import write_workflow
from hypothesis import given
from hypothesis import strategies as st

from daskt2i.config import plain_values
from daskt2i.config.settings import (
    EvaluateSettings,
    InstanceSettings,
    LaunchSettings,
    SampleSettings,
    SceneSettings,
    TrainSettings,
    VaeSettings,
    Workflow,
)
from daskt2i.config.workflow_file import load_workflow, parse_workflow
from daskt2i.documents import read_yaml
from daskt2i.errors import ConfigError

CIRCLE: dict[str, Any] = {}
CIRCLE["again"] = CIRCLE


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_workflow(tmp_path_factory.mktemp("settings") / "w.yaml"))


@pytest.mark.parametrize(
    ("setting", "value", "clause"),
    [
        ("run.min_psnr", math.nan, "run.min_psnr should be a finite number (given: nan)"),
        ("run.min_psnr", math.inf, "should be a finite number"),
        ("train.learning_rate", math.inf, "should be a finite number"),
        ("train.learning_rate", -1e-4, "should be greater than 0"),
        ("train.betas", [math.nan, 0.9], "train.betas.0 should be a finite number"),
        ("train.betas", [True, 0.9], "train.betas.0 should be a number, not yes or no"),
        ("train.seed", 2**70, "train.seed should be a number below 2**63"),
        ("train.seed", -1, "train.seed: input should be greater than or equal to 0"),
        ("sample.seed", 2**63, "should be a number below 2**63"),
        ("scenes", {"rows": 3, "seed": -1}, "scenes.seed: input should be greater than or equal to 0"),
        ("run.retries", True, "run.retries should be a number, not yes or no (given: True)"),
        ("run.workers", True, "run.workers should be a number, not yes or no"),
        ("run.batch", 10**5000, "run.batch should be a number below 2**63 (given: a number of more than 100 digits)"),
        ("run.batch", [1] * 10**5, "run.batch: should be a whole number from 1, or auto (given: [1, 1"),
        ("train.model.config", {"a": [{"b": math.nan}]}, "train.model.config.a.0.b should be a finite number"),
        ("vae.config", CIRCLE, "vae.config.again.again.again.again.again.again.again… should not be nested more"),
        ("dataset.encoders.image.x", 10**5000, "dataset.encoders.image.x should be a number below 2**63"),
        ("run.device", "\ud83d", "run.device should be whole text, without half a surrogate pair (given: '?')"),
        ("sample.prompts", ["a", "\ud83d"], "sample.prompts.1 should be whole text"),
        ("run.storage_options", {"a": math.inf}, "run.storage_options.a should be a finite number"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_refused_by_the_name_of_its_setting(
    setting: str, value: Any, clause: str, path: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_workflow(path, {setting: value})
    assert clause in str(caught.value)
    assert len(str(caught.value)) < 500
    str(caught.value).encode()


@pytest.mark.parametrize("cache", ["-5", "1e999", "inf", "nan", "x", ""])
def test_a_size_that_is_none_is_refused(cache: str, path: str) -> None:
    with pytest.raises(ConfigError, match=r"launch\.cache is"):
        load_workflow(path, {"launch.cache": cache})


def test_yes_and_no_stay_where_they_belong(path: str) -> None:
    found = load_workflow(path, {"run.check_disk": False, "train.model.config": {"flip": True}, "launch.compile": True})
    assert (found.run.check_disk, found.train.model.config, found.launch.compile) == (False, {"flip": True}, True)


MODELS = (TrainSettings, VaeSettings, SampleSettings, EvaluateSettings, SceneSettings, InstanceSettings, LaunchSettings)


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (model, name)
        for model in MODELS
        for name, about in model.model_fields.items()
        if plain_values.takes_numbers(about.annotation)
    ],
)
def test_every_number_of_every_section_refuses_what_no_number_is(model: Any, field: str) -> None:
    for value in (True, math.nan, math.inf, -math.inf, 2**63, [math.nan, math.nan], "x", {"x": {"y": math.nan}}):
        with pytest.raises(ValueError, match=field):
            model.model_validate({field: value})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3),
    max_leaves=5,
)
SETTINGS = st.sampled_from(
    ["run.batch", "run.min_psnr", "train.betas", "dataset.where", "dataset.source.images", "scenes", "prices", "run",
     "train.model", "dataset.encoders.image.class", "sample.prompts", "launch.cache", "name", "train", "dataset"]
)  # fmt: skip


@given(SETTINGS, VALUES)
def test_any_value_of_a_setting_gives_a_workflow_or_one_sentence(path: str, setting: str, value: Any) -> None:
    found = sentence_of(ConfigError, load_workflow, path, {setting: value})
    if isinstance(found, Workflow):
        assert parse_workflow(read_yaml(found.to_yaml().encode()), "x") == found


def test_line_breaks_of_unicode_survive_in_the_settings_of_a_run_folder(path: str) -> None:
    prompts = ["a\u2028b", "\x85", "\ufeff", "ü\n\U0001f992", " a "]
    found = load_workflow(path, {"sample.prompts": prompts})
    assert parse_workflow(read_yaml(found.to_yaml().encode()), "x").sample.prompts == prompts
    assert "ü" in load_workflow(path, {"sample.prompts": ["ü"]}).to_yaml()  # as it was always written


def test_a_workflow_file_that_names_a_setting_twice_is_refused(path: str) -> None:
    doubled = Path(path).with_name("doubled.yaml")
    doubled.write_text(Path(path).read_text() + "\nrun: {batch: 2}\nrun: {batch: 3}\n")
    with pytest.raises(ConfigError, match=r"doubled\.yaml cannot be read as YAML: the key 'run' occurs twice"):
        load_workflow(str(doubled))
