"""Files of earlier versions still work. Each frozen name is a test, and a run folder of 0.1.0 is tested too.

The version before the renaming of settings made `tests/data/run-0.1.zip`: fakes, 20 rows in 3 chunks, one missing
image, and a value for every setting that has an old name.

Covers: each setting, each value of a choice, each class with its arguments, each command with its options, as in a
user's file or command line; a whole run folder.
Does not cover: keys of files that daskt2i writes (`test_frozen_names`), checkpoints (`config/test_renamed`).
"""

from __future__ import annotations

import functools
import inspect
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import TESTS
from builders.command_line import application
from test_frozen_names import LIST

import daskt2i
from daskt2i.config.component import Component
from daskt2i.config.image_settings import BucketSettings
from daskt2i.config.renamed import RENAMED
from daskt2i.config.training.pretrained import PretrainedSettings
from daskt2i.config.workflow_file import load_workflow
from daskt2i.events import Event, Note

ROWS: dict[str, list[str]] = json.loads(LIST.read_text(encoding="utf-8"))

PRICES = {"currency": "EUR", "source": "a list", "date": "2026-01-01", "instances": [{"name": "m", "per_hour": 1.0}]}
SCENES = {"rows": 3, "seed": 0, "shapes": 1}
PRETRAINED = PretrainedSettings(model="sd15").model_dump()  # type: ignore[call-arg]
SECTIONS = {
    "dataset.encoders.image.class": "daskt2i.encoders.fake.FakeImageEncoder",
    "dataset.encoders.text.class": "daskt2i.encoders.fake.FakeTextEncoder",
    "dataset.source.class": "daskt2i.sources.fake.FakeSource",
    "prices": PRICES,
    "scenes": SCENES,
    "train.pretrained": PRETRAINED,
    "train.model.class": "diffusers.UNet2DConditionModel",
}
"""Values of settings that have no default."""

LISTS = {"evaluate.metrics", "launch.trackers"}
"""Settings whose value is a list of choices."""


@functools.cache
def demo() -> str:
    """The settings of the demo, as JSON."""
    return load_workflow("demo").model_dump_json(by_alias=True)


def value_of(key: str) -> Any:
    """A valid value of this setting: its default if it has one. An old name has the value of the new name."""
    section, _, name = key.rpartition(".")
    for row in RENAMED:
        if (section, name) == (row.section, row.old):
            default = value_of(f"{section}.{row.new}")
            return default + 1 if row.new == "max_restarts" else default
    data: Any = {**json.loads(demo()), "prices": PRICES, "scenes": SCENES}
    data["train"]["pretrained"] = PRETRAINED
    data["dataset"]["image"]["buckets"] = BucketSettings().model_dump()  # type: ignore[call-arg]
    for part in key.split("."):
        if isinstance(data, list):  # machines of a price table
            data = {"device": "cpu", "cores": 1, "gpus": 1, "memory_gib": None, "images_per_second": None, **data[0]}
        data = data[part]
    return data


def settable() -> Iterator[str]:
    """All settings in a section that are not inside a list."""
    for key in ROWS["settings"]:
        if "." in key and not key.startswith("prices.instances"):
            yield key


@pytest.mark.parametrize("key", list(settable()))
def test_a_setting_of_an_old_file_is_accepted(key: str) -> None:
    value = SECTIONS.get(key)
    if value is None:
        value = value_of(key)
    if key.startswith("prices."):
        found = load_workflow("demo", {"prices": {**PRICES, key.partition(".")[2]: value}})
    elif key.startswith("train.pretrained."):
        found = load_workflow("demo", {"train.pretrained.model": "sd15", key: value})
    else:
        found = load_workflow("demo", {key: value})
    old = any(key == f"{row.section}.{row.old}" for row in RENAMED)
    assert bool(found.notes) == old


@pytest.mark.parametrize("row", ROWS["choices"])
def test_a_value_of_an_old_file_is_accepted(row: str) -> None:
    key, _, text = row.partition("=")
    value: Any = int(text) if text.isdecimal() else text
    if key.startswith("prices."):
        prices = {**PRICES, "instances": [{"name": "m", "per_hour": 1, "device": value}]}
        found = load_workflow("demo", {"prices": prices})
        assert found.prices is not None
        assert found.prices.instances[0].device == value
        return
    needs: dict[str, Any] = {"train.pretrained.model": "sd15"} if key.startswith("train.pretrained.") else {}
    needs |= {"train.pretrained.layers": ["*"]} if value == "layers" else {}
    value = [value] if key in LISTS else value
    kept = yaml.safe_load(load_workflow("demo", {**needs, key: value}).to_yaml())
    names = {f"{row.section}.{row.old}": f"{row.section}.{row.new}" for row in RENAMED}
    for part in names.get(key, key).split("."):
        kept = kept[part]
    assert kept == value or value in kept


@pytest.mark.parametrize("row", [row for row in ROWS["class paths"] if "(" not in row])
def test_a_class_of_an_old_file_exists_with_its_arguments(row: str) -> None:
    if not row.startswith("daskt2i."):
        pytest.importorskip(row.partition(".")[0], reason="an extra is not installed")
    factory = Component.model_validate({"class": row})._factory("of an old file")
    arguments = [one.partition("(")[2].rstrip(")") for one in ROWS["class paths"] if one.startswith(f"{row}(")]
    taken = inspect.signature(factory).parameters
    for argument in arguments:
        name = argument.partition("=")[0].lstrip("*")
        assert name in taken
        assert "=" not in argument or taken[name].default is not inspect.Parameter.empty


@pytest.mark.parametrize("row", [row for row in ROWS["commands"] if row])
def test_a_command_of_an_old_script_is_accepted(row: str) -> None:
    command = application()
    words = row.split()
    while words and not words[0].startswith("-"):
        if words[0] not in getattr(command, "commands", {}):
            break
        command = command.commands[words.pop(0)]
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    names |= {f"{name}" for parameter in command.params for name in [str(parameter.name), str(parameter.name).upper()]}
    assert not words or words[0] in names, f"{row}: {sorted(names)}"


# A run folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A run folder of 0.1.0, moved to another path."""
    shutil.unpack_archive(TESTS / "data" / "run-0.1.zip", tmp_path / "run")
    return tmp_path / "run"


def test_an_old_run_folder_is_complete_with_its_own_settings(old: Path) -> None:
    told: list[Event] = []
    run = daskt2i.open_run(old, scheduler="serial", progress=told.append)
    assert run.status().complete
    assert run.verify().ok
    again = run.encode()
    assert (again.done, again.skipped, again.accepted) == (0, 3, 19)
    assert dict(again.rejected) == {"missing-file": 1}
    assert not any(isinstance(event, Note) for event in told), "its user did not write the old names"


def test_old_names_in_an_old_run_folder_keep_their_meaning(old: Path) -> None:
    found = daskt2i.open_run(old, progress=False).workflow
    assert (found.run.reader_threads, found.run.verify_on_resume, found.run.on_missing_chunk) == (1, "hash", "reject")
    train = found.train
    assert (train.max_grad_norm, train.validation, train.caption_dropout, train.shuffle_window) == (0.5, 4, 0.2, 3)
    assert (found.vae.max_grad_norm, found.vae.validation) == (2.0, 3)
    launch = found.launch
    assert (launch.max_restarts, launch.gradient_accumulation_steps, launch.keep_checkpoints) == (4, 2, 4)
    assert (launch.validation_every, launch.profile_allreduce) == (9, True)


def test_a_damaged_chunk_of_an_old_run_folder_is_encoded_again_to_the_same_bytes(old: Path) -> None:
    shard = old / "latents.zarr" / "latent_mean" / "c.1.0.0.0"
    before = shard.read_bytes()
    shard.write_bytes(b"")
    again = daskt2i.open_run(old, scheduler="serial", progress=False).encode()
    assert (again.done, again.skipped) == (1, 2)
    assert shard.read_bytes() == before


def test_an_old_store_opens_with_its_rows(old: Path) -> None:
    found = daskt2i.open_store(old)
    assert found.sizes["row"] == 20
    assert int(found["valid"].values.sum()) == 19
    run = daskt2i.open_run(old, progress=False)
    assert list(run.manifest["status"]).count("accepted") == 19
