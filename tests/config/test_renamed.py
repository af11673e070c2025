"""Old names of settings give the same workflow as new names, in every kind of input. A note gives the new name."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
import yaml
from builders.coco import settings, write_coco
from builders.command_line import run
from builders.workflows import child_environment, fake_data, fake_settings, load_workflow, write_workflow

from daskt2i.config.renamed import RENAMED, RenamedKey, with_new_names, with_old_names
from daskt2i.config.settings import TrainSettings, VaeSettings, completed
from daskt2i.config.workflow_file import fingerprint
from daskt2i.encode.prepare import prepare
from daskt2i.encode.saved_workflow import settings_of
from daskt2i.errors import ConfigError
from daskt2i.facts.selection import facts_key
from daskt2i.protocols import Source
from daskt2i.store.run_folder import WORKFLOW, RunFolder
from daskt2i.train.resume import curve_settings

VALUES: dict[str, tuple[Any, Any]] = {
    "dataset.facts.instances": ("boxes.json", "boxes.json"),
    "run.readers": (5, 5),
    "run.recheck": ("size", "size"),
    "run.all_missing": ("reject", "reject"),
    "train.clip": (0.5, 0.5),
    "train.heldout": (7, 7),
    "train.dropout": (0.25, 0.25),
    "train.window": (3, 3),
    "vae.clip": (None, None),
    "vae.heldout": (9, 9),
    "launch.attempts": (5, 4),
    "launch.accumulate": (2, 2),
    "launch.keep": (4, 4),
    "launch.heldout_every": (50, 50),
    "launch.time_exchange": (True, True),
}
"""Old name -> a value that is not the default, and the same value under the new name."""


def _name(row: RenamedKey) -> str:
    return f"{row.section}.{row.old}"


each_row = pytest.mark.parametrize("row", RENAMED, ids=_name)
each_row_of_dask = pytest.mark.parametrize("row", [r for r in RENAMED if r.section in ("run", "launch")], ids=_name)


@pytest.fixture(autouse=True)
def _no_settings_of_the_user() -> Iterator[None]:
    with dask.config.set({"daskt2i": {}}):
        yield


@pytest.fixture
def plain(tmp_path: Path) -> str:
    """A workflow file without any renamed setting."""
    return str(write_workflow(tmp_path / "fake.yaml"))


def _file(path: Path, key: str, value: Any) -> str:
    """A workflow file with one more setting."""
    data: Any = fake_data()
    node = data
    *sections, last = key.split(".")
    for part in sections:
        node = node.setdefault(part, {})
    node[last] = value
    path.write_text(yaml.safe_dump({**data, "name": "fake"}), encoding="utf-8")
    return str(path)


def _new(row: RenamedKey) -> str:
    return f"{row.section}.{row.new}"


def test_the_table_of_values_has_every_renamed_setting() -> None:
    assert list(VALUES) == [_name(row) for row in RENAMED]


# Inputs that may contain old names


@each_row
def test_a_workflow_file_may_use_the_old_name(row: RenamedKey, tmp_path: Path, plain: str) -> None:
    given, meant = VALUES[_name(row)]
    old = load_workflow(_file(tmp_path / "old.yaml", _name(row), given))
    new = load_workflow(_file(tmp_path / "new.yaml", _new(row), meant))
    assert old == new
    assert old != load_workflow(plain)
    assert old.to_yaml() == new.to_yaml()
    assert (old.notes, new.notes) == ((row.note,), ())


@each_row
def test_set_may_use_the_old_name(row: RenamedKey, plain: str) -> None:
    given, meant = VALUES[_name(row)]
    old = load_workflow(plain, [f"{_name(row)}={json.dumps(given)}"])
    new = load_workflow(plain, [f"{_new(row)}={json.dumps(meant)}"])
    assert old == new
    assert old != load_workflow(plain)
    assert (old.notes, new.notes) == ((row.note,), ())


@each_row_of_dask
def test_dask_config_may_use_the_old_name(row: RenamedKey, plain: str) -> None:
    given, meant = VALUES[_name(row)]
    load_workflow(plain)  # this loads our defaults, which have the new name
    with dask.config.set({f"daskt2i.{_name(row)}": given}):
        old = load_workflow(plain)
    with dask.config.set({f"daskt2i.{_new(row)}": meant}):
        new = load_workflow(plain)
    assert old == new
    assert old != load_workflow(plain)
    assert (old.notes, new.notes) == ((row.note,), ())


def test_files_and_environment_variables_of_dask_may_use_old_names(tmp_path: Path, plain: str) -> None:
    (tmp_path / "dask.yaml").write_text("daskt2i: {run: {all-missing: reject}, launch: {attempts: 1}}")
    code = (
        "from daskt2i.config.workflow_file import load_workflow; "
        f"w = load_workflow({plain!r}); "
        "print(w.run.reader_threads, w.run.on_missing_chunk, w.launch.max_restarts, len(w.notes))"
    )
    environment = {**child_environment(), "DASK_DASKT2I__RUN__READERS": "5"}
    environment["DASK_CONFIG"] = str(tmp_path / "dask.yaml")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == "5 reject 0 3\n", done.stderr


def test_a_section_given_as_one_value_may_use_the_old_name(plain: str) -> None:
    found = load_workflow(plain, ["dataset.facts={instances: boxes.json, near: 3}"])
    assert (found.dataset.facts.coco_instances, found.dataset.facts.near) == ("boxes.json", 3)
    assert len(found.notes) == 1


# Order of inputs


def test_the_order_of_inputs_is_the_same_for_old_and_new_names(tmp_path: Path) -> None:
    file = _file(tmp_path / "w.yaml", "run.readers", 3)
    with dask.config.set({"daskt2i.run.reader_threads": 7, "daskt2i.run.recheck": "size"}):
        assert load_workflow(file).run.reader_threads == 3
        assert load_workflow(file).run.verify_on_resume == "size"
        assert load_workflow(file, ["run.reader_threads=9"]).run.reader_threads == 9
    file = _file(tmp_path / "w.yaml", "run.reader_threads", 3)
    with dask.config.set({"daskt2i.run.readers": 7}):
        assert load_workflow(file).run.reader_threads == 3
        assert load_workflow(file, ["run.readers=9"]).run.reader_threads == 9


def test_an_old_name_in_dask_config_overrides_our_default_without_changing_it(plain: str) -> None:
    with dask.config.set({"daskt2i.run": {"readers": 5, "retries": 4}}):
        found = load_workflow(plain).run
        assert (found.reader_threads, found.retries, found.text_batch) == (5, 4, 32)
        assert dask.config.get("daskt2i.run.reader_threads") == "auto"
        assert dask.config.get("daskt2i.run.readers") == 5


@each_row
def test_both_names_with_different_values_are_refused(row: RenamedKey, tmp_path: Path, plain: str) -> None:
    given, meant = VALUES[_name(row)]
    other = {"boxes.json": "others.json", 0.5: 0.75, 0.25: 0.5, None: 2.0, "size": "hash", "reject": "fail"}
    differs = False if meant is True else other.get(meant, 33)
    sentence = rf"{_name(row)} .*{_new(row)} .*Nothing was started; keep only {_new(row)}\."
    data: Any = yaml.safe_load(Path(_file(tmp_path / "both.yaml", _name(row), given)).read_text())
    node = data
    for part in row.section.split("."):
        node = node[part]
    node[row.new] = differs
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=sentence):
        load_workflow(str(tmp_path / "both.yaml"))
    node[row.new] = meant
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(data))
    assert load_workflow(str(tmp_path / "both.yaml")).notes == (row.note,)
    sets = [f"{_name(row)}={json.dumps(given)}", f"{_new(row)}={json.dumps(differs)}"]
    for order in (sets, sets[::-1]):
        with pytest.raises(ConfigError, match=rf"names of one setting.*give only {_new(row)}"):
            load_workflow(plain, order)


def test_both_names_in_dask_config_are_refused_if_they_differ(plain: str) -> None:
    both = {"daskt2i.run.readers": 5, "daskt2i.run.reader_threads": 6}
    with dask.config.set(both), pytest.raises(ConfigError, match=r"run\.readers is 5 and run\.reader_threads is 6 in"):
        load_workflow(plain)
    with dask.config.set({**both, "daskt2i.run.reader_threads": 5}):
        assert load_workflow(plain).run.reader_threads == 5


@pytest.mark.parametrize(
    ("given", "said"),
    [("0", r"launch\.max_restarts: .*given: -1"), ("2.5", r"launch\.max_restarts: .*given: 2\.5"), ("no", "given: ")],
)
def test_the_error_about_a_wrong_value_of_an_old_name_gives_the_new_name(plain: str, given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_workflow(plain, [f"launch.attempts={given}"])


def test_a_number_given_as_text_is_converted_too(plain: str) -> None:
    assert load_workflow(plain, ["launch.attempts='3'"]).launch.max_restarts == 2


def test_data_with_old_names_is_not_changed() -> None:
    data = {"train": {"clip": 0.5, "steps": 3}, "dataset": {"facts": {"instances": None}}, "run": 5}
    before = copy.deepcopy(data)
    found, notes = with_new_names(data, "of a test")
    assert data == before
    assert found == {
        "train": {"max_grad_norm": 0.5, "steps": 3},
        "dataset": {"facts": {"coco_instances": None}},
        "run": 5,
    }
    assert list(found["train"]) == ["max_grad_norm", "steps"]
    assert len(notes) == 2


# Notes


def test_copies_keep_notes_and_notes_do_not_count_in_comparisons(plain: str) -> None:
    found = load_workflow(plain, ["train.clip=0.5", "train.clip=0.75"])
    said = ("train.clip is now called train.max_grad_norm; the old name still works.",)
    assert found.notes == said
    assert found.model_copy(update={"name": "other"}).notes == said
    assert pickle.loads(pickle.dumps(found)).notes == said
    assert found == found.with_notes(())
    assert found.notes == said


def test_a_command_prints_each_note_once_on_standard_error(tmp_path: Path) -> None:
    file = _file(tmp_path / "old.yaml", "run.readers", 3)
    out = str(tmp_path / "out")
    encoded = run(
        "encode", "--workflow", file, "--out", out, "--scheduler", "serial", "--set", "run.readers=4", "--json"
    )
    said = "run.readers is now called run.reader_threads; the old name still works."
    assert encoded.returncode == 0, encoded.stderr
    assert encoded.stderr.count(said) == 1
    assert json.loads(encoded.stdout)["accepted"] == 20
    for command in ("status", "verify"):
        done = run(command, "--workflow", file, "--out", out)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(said) == 1
    assert "is now called" not in run("verify", "--out", out).stderr


def test_the_old_option_of_bench_scheduler_works_but_help_hides_it(tmp_path: Path) -> None:
    assert "--most-seconds" not in run("bench", "scheduler", "--help").stdout
    done = run("bench", "scheduler", "--workers", "none", "--out", str(tmp_path / "r"), "--most-seconds", "30")
    assert "--workers is 'none'" in done.stderr  # the only problem of the command
    assert "--most-seconds is now called --max-seconds" in done.stderr


# Files of an earlier version


def test_the_settings_of_an_old_run_folder_are_read_without_a_note(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    data = yaml.safe_load(fake_settings().to_yaml())
    for row in RENAMED:
        node = data
        for part in row.section.split("."):
            node = node[part]
        assert row.new in node
        del node[row.new]
        node[row.old] = VALUES[_name(row)][0]
    folder.write(WORKFLOW, yaml.safe_dump(data).encode())
    found = settings_of(folder)
    assert found is not None
    assert found.notes == ()
    assert (found.run.reader_threads, found.train.max_grad_norm, found.launch.max_restarts) == (5, 0.5, 4)
    assert found.dataset.facts.coco_instances == "boxes.json"
    with dask.config.set({"daskt2i.run.readers": 8}):
        assert settings_of(folder) == found


def test_the_identity_in_an_old_checkpoint_equals_the_identity_of_today() -> None:
    """The identity is copied from a version before the renaming, with all its old names."""
    # fmt: off
    shared = {
        "steps": 2, "batch": 4, "optimiser": "adamw", "learning_rate": 0.0001, "warmup": 100, "final_rate": 0.0,
        "betas": [0.9, 0.99], "weight_decay": 0.01, "clip": 0.5, "ema": 0.999, "heldout": 4, "seed": 0,
    }
    train = {
        **shared, "model": {"preset": "demo", "config": {"block_out_channels": [16, 16, 16]}}, "objective": "flow",
        "snr_gamma": 5.0, "shift": 1.0, "dropout": 0.25, "posterior": "sample", "window": 3,
    }
    vae = {
        **shared, "model": None, "config": {}, "crop": None, "flip": True,
        "loss": {"l1": 1.0, "l2": 2.0, "edges": 0.5, "kl": 3e-05},
    }
    # fmt: on
    now: dict[str, Any] = {"steps": 2, "batch": 4, "max_grad_norm": 0.5, "validation": 4}
    config = {"block_out_channels": [16, 16, 16]}
    learnt = TrainSettings.model_validate(
        {**now, "model": {"config": config}, "caption_dropout": 0.25, "shuffle_window": 3}
    )
    told = json.loads(learnt.model_dump_json(by_alias=True))
    assert completed({"store": "f" * 64, "train": train}) == {"store": "f" * 64, "train": told}
    assert completed(completed({"store": "", "train": train})) == completed({"store": "", "train": told})
    told = json.loads(VaeSettings.model_validate(now).model_dump_json(by_alias=True))
    assert completed({"image": {}, "vae": vae}) == {"image": {}, "vae": told}
    assert completed({"train": {**train, "clip": 1.0}}) != completed({"train": train})


def test_the_fingerprint_of_a_pipeline_did_not_change_with_the_renaming() -> None:
    """samples.json and pictures contain it. A version before the renaming computed it for the same training."""
    now = {"steps": 2, "batch": 4, "max_grad_norm": 0.5, "validation": 4, "caption_dropout": 0.25, "shuffle_window": 3}
    learnt = TrainSettings.model_validate({**now, "model": {"config": {"block_out_channels": [16, 16, 16]}}})
    store = "52cfdff0270faec4278ccf52f7b51e6f0df7b36b4caf7eb30cc18b23f70330e8"
    train = json.loads(learnt.model_dump_json(by_alias=True))
    identity = {"store": store, "train": train}
    before = "5b5b4a7b2f2310f6d40eb642986769966eaa3a0beb87192321d1713a7fe7dd00"
    older = {**identity, "train": curve_settings(learnt)}  # as `identity_of` does
    assert fingerprint(with_old_names(older)) == before
    assert completed(with_old_names(identity)) == identity


def test_the_fingerprint_of_a_store_with_where_did_not_change_with_the_renaming(tmp_path: Path) -> None:
    """A version before the renaming computed these for the same settings and files, with `facts.instances`."""
    coco = write_coco(tmp_path / "data")
    boxes = coco / "instances.json"
    boxes.write_text(
        json.dumps(
            {
                "categories": [{"id": 1, "name": "person"}],
                "annotations": [{"image_id": 101, "category_id": 1}, {"image_id": 101, "category_id": 1}],
            }
        )
    )
    prepared = prepare(settings(coco, "persons == 2", coco_instances=str(boxes)), tmp_path / "out")
    assert fingerprint(prepared.identity("fp32")) == "6d0ae753db106a89b60e2b9e90f6682652d44011aa39ee0d038736097a3353df"
    fake = fake_settings(rows=9).dataset
    facts = fake.facts.model_copy(update={"coco_instances": str(boxes)})
    fake = fake.model_copy(update={"where": "image_id > 4", "facts": facts})
    source: Source = fake.source.build(Source, "dataset.source")
    assert facts_key(fake, source) == "b0d1fa4b30902bd049692d8c8fe073a1ade816bbe71f8441f2e3afcf5c725354"
