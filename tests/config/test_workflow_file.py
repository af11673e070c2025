"""Which layer of settings wins, the messages about wrong settings, and the fingerprint."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
import yaml
from builders.workflows import (
    IMAGE,
    SOURCE,
    TEXT,
    child_environment,
    component,
    fake_data,
    fake_settings,
    load_workflow,
    write_workflow,
)

from daskt2i.config.changes import COCO_SOURCE, Changes
from daskt2i.config.component import MOVED, Component
from daskt2i.config.workflow_file import changed, differences, find_file, fingerprint, parse_workflow, shipped
from daskt2i.encode.prepare import identity
from daskt2i.errors import ConfigError
from daskt2i.protocols import ImageEncoder, Source, TextEncoder


@pytest.fixture(autouse=True)
def _no_settings_of_the_user() -> Iterator[None]:
    with dask.config.set({"daskt2i": {}}):
        yield


@pytest.fixture
def workflow(tmp_path: Path) -> str:
    return str(write_workflow(tmp_path / "fake.yaml"))


# Which one wins


def test_defaults_fill_settings_that_nobody_set(workflow: str) -> None:
    run = load_workflow(workflow).run
    assert (run.retries, run.scheduler, run.threads, run.storage_options) == (2, "local", "auto", None)


def test_the_order_is_defaults_then_dask_config_then_workflow_then_set(tmp_path: Path) -> None:
    workflow = str(write_workflow(tmp_path / "w.yaml", batch=3, reader_threads=3))
    with dask.config.set({"daskt2i.run.retries": 7, "daskt2i.run.batch": 7, "daskt2i.run.reader_threads": 7}):
        run = load_workflow(workflow, ["run.reader_threads=9"]).run
    assert (run.text_batch, run.retries, run.batch, run.reader_threads) == (32, 7, 3, 9)


def test_the_last_of_two_sets_wins(workflow: str) -> None:
    assert load_workflow(workflow, ["run.batch=2", "run.batch=5"]).run.batch == 5


def test_environment_variables_and_files_of_dask_count(tmp_path: Path) -> None:
    workflow = write_workflow(tmp_path / "w.yaml")
    (tmp_path / "dask.yaml").write_text("daskt2i: {run: {reader_threads: 6, text-batch: 4}}")
    code = (
        "from daskt2i.config.workflow_file import load_workflow; "
        f"run = load_workflow({str(workflow)!r}).run; print(run.retries, run.reader_threads)"
    )
    environment = {**child_environment(), "DASK_DASKT2I__RUN__RETRIES": "5", "DASK_CONFIG": str(tmp_path / "dask.yaml")}
    (tmp_path / "dask.yaml").write_text("daskt2i: {run: {reader_threads: 6}}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == "5 6\n", done.stderr


def test_loading_leaves_dask_config_as_the_user_set_it(workflow: str) -> None:
    options = {"anon": True}
    with dask.config.set({"daskt2i.run.storage_options": options, "daskt2i.run.retries": 4}):
        loaded = load_workflow(workflow, ["run.storage_options.key=mine", "run.retries=1"])
        assert loaded.run.storage_options == {"anon": True, "key": "mine"}
        assert dask.config.get("daskt2i.run.storage_options") == {"anon": True}
        assert dask.config.get("daskt2i.run.retries") == 4


def test_a_program_that_reads_many_workflows_does_not_become_slower(
    workflow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask merges all mappings of defaults that it was given: 1,000 copies of ours take 15 ms each time."""
    load_workflow(workflow)
    before = len(dask.config.defaults)
    monkeypatch.delitem(dask.config.config, "daskt2i")
    load_workflow(workflow)
    assert len(dask.config.defaults) == before
    assert dask.config.get("daskt2i.run.retries") == 2, "what was taken out is there again"


def test_images_and_captions_replace_the_source_of_any_workflow(workflow: str) -> None:
    for name in (workflow, "demo"):
        loaded = load_workflow(name, (), "pictures.zip", "captions.json")
        assert loaded.scenes is None
        assert loaded.dataset.source.class_path == "daskt2i.sources.coco.CocoSource"
        assert loaded.dataset.source.arguments == {"images": "pictures.zip", "captions": "captions.json"}


@pytest.mark.parametrize("given", [{"images": "x"}, {"captions": "x"}])
def test_images_without_captions_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="give both"):
        load_workflow("demo", (), **given)


# Set


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("run.scheduler=local:4", "local:4"),
        ("run.scheduler=tcp://10.0.0.5:8786", "tcp://10.0.0.5:8786"),
        ("run.scheduler= joblib ", "joblib"),
        ("run.scheduler='a=b'", "a=b"),
    ],
)
def test_set_takes_yaml_values(workflow: str, text: str, value: str) -> None:
    assert load_workflow(workflow, [text]).run.scheduler == value


def test_set_reaches_arguments_of_components_and_whole_components(workflow: str) -> None:
    text = "dataset.encoders.image={class: mine.Encoder, depth: 3}"
    loaded = load_workflow(workflow, ["dataset.source.rows=5", text, "name=other", "scenes={rows: 3}"])
    assert loaded.dataset.source.arguments["rows"] == 5
    assert loaded.dataset.encoders.image == component("mine.Encoder", depth=3)
    assert loaded.name == "other"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "run",
        "run.batch",
        "run.=1",
        ".batch=1",
        "batch=1",
        "run..batch=1",
        "=",
        "run.batch=[",
        "run.batch=2020-13-45",
    ],
)
def test_a_set_of_another_form_is_named(workflow: str, text: str) -> None:
    with pytest.raises(ConfigError, match="--set") as error:
        load_workflow(workflow, [text])
    assert repr(text) in str(error.value)


def test_set_inside_a_single_value_is_named(workflow: str) -> None:
    with pytest.raises(ConfigError, match="batch is a single value"):
        load_workflow(workflow, ["run.batch.x=1"])


# Wrong settings


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("run.bach=4", "there is no setting run.bach"),
        ("dataset.colour=red", "there is no setting dataset.colour"),
        ("dataset.rows_per_chunck=3", r"no setting dataset.rows_per_chunck (did you mean dataset.rows_per_chunk?)"),
        ("train.model.presett=demo", r"no setting train.model.presett (did you mean train.model.preset?)"),
        ("shoes.size=4", "there is no setting shoes"),
        ("run.batch=0", "run.batch: should be a whole number from 1, or auto (given: 0)"),
        ("run.batch=many", "run.batch: should be a whole number from 1, or auto (given: 'many')"),
        ("run.workers=0", "run.workers: should be a whole number from 1, or auto"),
        ("run.threads=-1", "run.threads: should be a whole number from 1, or auto"),
        ("run.reader_threads=0", "run.reader_threads: should be a whole number from 1, or auto"),
        ("run.retries=-1", "run.retries: input should be greater than or equal to 0"),
        ("run.verify_on_resume=never", "run.verify_on_resume: input should be 'auto', 'hash' or 'size'"),
        ("run.min_psnr=high", "run.min_psnr: input should be a valid number"),
        ("run.storage_options=x", "run.storage_options: input should be a valid dictionary"),
        ("dataset.image.resolution=7", "dataset.image.resolution: input should be greater than or equal to 8"),
        ("dataset.image.resolution=64.5", "dataset.image.resolution: input should be a valid integer"),
        ("dataset.rows_per_chunk=0", "dataset.rows_per_chunk: input should be greater than or equal to 1"),
        ("dataset.precision=fp64", "dataset.precision: input should be 'auto', 'fp32', 'bf16' or 'fp16'"),
        ("dataset.encoders.audio.class=x.Y", "there is no setting dataset.encoders.audio"),
        ("dataset.encoders.image.class=5", "dataset.encoders.image.class: input should be a valid string"),
        (
            "dataset.source.since=2020-01-01",
            "dataset.source.since is datetime.date(2020, 1, 1), which JSON cannot hold",
        ),
        ("dataset.encoders.text.limit=.nan", "dataset.encoders.text.limit should be a finite number (given: nan)"),
        ("scenes.rows=0", "scenes.rows: input should be greater than or equal to 1"),
    ],
)
def test_an_error_names_the_setting(workflow: str, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_workflow(workflow, [text])
    assert sentence in str(error.value)
    assert workflow in str(error.value)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (("dataset",), "dataset is missing"),
        (("dataset", "source"), "dataset.source is missing"),
        (("dataset", "encoders", "text"), "dataset.encoders.text is missing"),
        (("dataset", "source", "class"), "dataset.source.class is missing"),
    ],
)
def test_a_missing_setting_is_named(tmp_path: Path, missing: tuple[str, ...], sentence: str) -> None:
    data = fake_data()
    node = data
    for part in missing[:-1]:
        node = node[part]
    del node[missing[-1]]
    (tmp_path / "w.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=sentence):
        load_workflow(str(tmp_path / "w.yaml"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1", "cannot be read as YAML"),
        ("", "does not hold settings at its top level"),
        ("- one\n- two", "does not hold settings at its top level"),
        ("name: x\nrun: [1, 2]", "`run:` of"),
        ("name: x\nrun: {batch: 2020-13-45}", "cannot be read as YAML"),
        ("name: x\ndataset: all", "dataset: input should be"),
        ("\tname: x", "cannot be read as YAML"),
        (b"name: \xff\xfe", "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_not_a_workflow_is_named(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError, match=sentence) as error:
        load_workflow(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_section_of_dask_config_does_not_hide_the_defaults(workflow: str) -> None:
    with dask.config.set({"daskt2i.run": "fast"}):
        assert load_workflow(workflow).run.retries == 2


def test_scenes_can_be_taken_out_and_a_wrong_one_is_named() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.source is missing"):
        load_workflow("demo", ["scenes=null"])
    with pytest.raises(ConfigError, match="scenes: input should be"):
        load_workflow("demo", ["scenes=5"])
    fake = f"dataset.source={{class: {SOURCE}}}"
    assert load_workflow("demo", ["scenes=null", fake]).dataset.source.class_path == SOURCE


def test_a_change_to_scenes_counts_in_a_workflow_that_is_already_resolved() -> None:
    """A resolved workflow has a source that was made from its scenes. It must not hide the change."""
    named = load_workflow("demo", ["scenes.rows=50"])
    resolved = load_workflow("demo")
    assert changed(resolved, Changes({"scenes.rows": 50}), "here").dataset.source == named.dataset.source
    assert changed(resolved, Changes({"scenes": {"rows": 50}}), "here").scenes == named.scenes, "nested means the same"
    coco = {"class": COCO_SOURCE, "images": "/r/scenes/images", "captions": "/r/scenes/captions.json"}
    drawn = changed(resolved, Changes({"dataset.source": coco}), "here")  # as the run folder keeps it
    assert changed(drawn, Changes({"scenes.rows": 50}), "here").dataset.source == named.dataset.source
    assert changed(drawn, Changes({"run.batch": 2}), "here").dataset == drawn.dataset
    own = {"images": "/r/scenes/images", "captions": "/r/scenes/captions.json"}
    mine = changed(resolved, Changes(**own), "here")
    assert changed(mine, Changes({"scenes.rows": 50}), "here").dataset == mine.dataset, "images of the user stay"


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "evil.yaml"
    path.write_text(f"name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_workflow(str(path))
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_workflow("demo", [f"run.device=!!python/object/apply:os.system ['touch {mark}']"])
    assert not mark.exists()


@pytest.mark.parametrize("size", ["much", "-1 MiB", "1e400 MB", "5 apples"])
def test_a_cache_that_is_not_a_size_is_refused(size: str) -> None:
    with pytest.raises(ConfigError, match=r"launch\.cache is '.*'; give a size such as 512 MiB"):
        load_workflow("demo", [f"launch.cache={size}"])
    assert load_workflow("demo", ["launch.cache=512 MiB"]).launch.cache_bytes() == 512 * 2**20


@pytest.mark.parametrize("name", ["nowhere", "nowhere.yaml", "../workflows/demo", "", ".", "demo/"])
def test_an_unknown_workflow_name_is_refused_with_the_shipped_names(name: str) -> None:
    with pytest.raises(ConfigError, match="demo"):
        find_file(name, "workflows")


# Components


@pytest.mark.parametrize(
    ("class_path", "arguments", "sentence"),
    [
        ("Encoder", {}, "give a dotted path"),
        (".Encoder", {}, "give a dotted path"),
        ("..relative.Encoder", {}, "cannot be imported"),
        ("no.such.module.Encoder", {}, "cannot be imported"),
        (f"{IMAGE}Misspelt", {}, "cannot be imported"),
        ("os.path", {}, "does not take these settings"),
        (IMAGE, {"colour": 1}, "does not take these settings"),
        (IMAGE, {"channels": 1}, "3 or more channels"),
        ("pathlib.PurePath", {}, "does not fit ImageEncoder: .*: decode, encode, info, load"),
        (SOURCE, {}, "does not fit ImageEncoder"),
        (TEXT, {}, "does not fit ImageEncoder: .*: decode"),
    ],
)
def test_a_component_that_does_not_fit_is_named(class_path: str, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        component(class_path, **arguments).build(ImageEncoder, "dataset.encoders.image")


def test_an_image_encoder_is_no_text_encoder() -> None:
    """It has all the methods that a text encoder has, with other arguments."""
    with pytest.raises(ConfigError, match=r"dataset.encoders.text.class names .* does not fit TextEncoder: .*: info"):
        component(IMAGE).build(TextEncoder, "dataset.encoders.text")


@pytest.mark.parametrize(("class_path", "protocol"), [(SOURCE, Source), (IMAGE, ImageEncoder), (TEXT, TextEncoder)])
def test_a_component_that_fits_is_built(class_path: str, protocol: type) -> None:
    assert isinstance(component(class_path).build(protocol, "x"), protocol)


def test_a_third_party_class_with_wider_methods_fits() -> None:
    assert component(f"{__name__}.Wide").build(ImageEncoder, "x")


class Wide:
    """Its methods take more arguments than the protocol asks for."""

    def info(self, *args: Any, **more: Any) -> Any: ...
    def load(self, runtime: Any, verbose: bool = False) -> None: ...
    def encode(self, pixels: Any, batch: int = 1) -> Any: ...
    def decode(self, arrays: Any) -> Any: ...


# What decides bytes


def _identity(**settings: Any) -> dict[str, Any]:
    dataset = fake_settings(**settings).dataset
    source = dataset.source.build(Source, "x").info()
    image = dataset.encoders.image.build(ImageEncoder, "x").info(dataset.image.resolution)
    return identity(dataset, source, image, dataset.encoders.text.build(TextEncoder, "x").info(), "fp32")


@pytest.mark.parametrize(
    "settings",
    [
        {"batch": 2},
        {"scheduler": "serial"},
        {"threads": 3},
        {"retries": 0},
        {"gate_rows": 0},
        {"verify_on_resume": "size"},
    ],
    ids=str,
)
def test_how_it_runs_does_not_change_the_fingerprint(settings: dict[str, Any]) -> None:
    assert fingerprint(_identity(**settings)) == fingerprint(_identity())


@pytest.mark.parametrize(
    ("settings", "clause"),
    [
        ({"resolution": 64}, "dataset.image.resolution: 32 there, 64 now"),
        ({"rows_per_chunk": 4}, "dataset.rows_per_chunk: 8 there, 4 now"),
        ({"image": {"channels": 5}}, "dataset.encoders.image.channels: 4 there, 5 now"),
        (
            {"text": {"class": "daskt2i.encoders.fake.FakeTextEncoder", "pooled": False}},
            "pooled: true there, false now",
        ),
        ({"rows": 21}, "dataset.source.rows: 20 there, 21 now"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_of_the_data_change_the_fingerprint_and_the_difference_is_named(
    settings: dict[str, Any], clause: str
) -> None:
    there, now = _identity(), _identity(**settings)
    assert fingerprint(there) != fingerprint(now)
    assert any(clause in told for told in differences(there, now))


def test_locations_do_not_change_an_identity_and_other_arguments_do() -> None:
    path = "daskt2i.encoders.text.TextEncoder"
    here = component(path, model="/here", revision="main", tokenizer="t", max_tokens=9)
    there = component(path, model="/there", subfolder="text_encoder", max_tokens=9)
    assert here.identity() == there.identity()
    assert here.identity()["max_tokens"] == 9


def test_a_default_that_is_written_out_is_the_same_setting() -> None:
    path = "daskt2i.encoders.text.TextEncoder"
    assert component(path, model="m").identity() == component(path, model="m", pad="length", seed=0).identity()


class Shelf:
    """A source that names its own arguments that are locations."""

    locations = frozenset({"folder"})

    def __init__(self, folder: str, model: str = "oak") -> None:
        pass


def test_a_class_may_name_the_arguments_that_are_locations() -> None:
    here, there = (
        component("config.test_workflow_file.Shelf", folder="/a"),
        component("config.test_workflow_file.Shelf", folder="/b"),
    )
    assert here.identity() == there.identity() == {"class": "config.test_workflow_file.Shelf", "model": "oak"}


def test_the_content_of_a_caption_file_counts(tmp_path: Path) -> None:
    import json

    found = []
    for name, caption in [("one", "a dog"), ("two", "a dog"), ("three", "a cat")]:
        (tmp_path / name).mkdir()
        image = {"id": 1, "file_name": "1.jpg", "width": 8, "height": 8}
        document = {"images": [image], "annotations": [{"id": 1, "image_id": 1, "caption": caption}]}
        (tmp_path / name / "captions.json").write_text(json.dumps(document))
        part = component(
            "daskt2i.sources.coco.CocoSource",
            images=str(tmp_path / name),
            captions=str(tmp_path / name / "captions.json"),
        )
        found.append(fingerprint({**part.identity(), **part.build(Source, "x").info().content}))
    assert found[0] == found[1] != found[2]


def test_differences_tell_a_number_from_its_text_and_empty_from_missing() -> None:
    assert differences({"a": 1, "b": {}}, {"a": "1"}) == [
        'dataset.a: 1 there, "1" now',
        "dataset.b: {} there, nothing now",
    ]
    assert differences({"a": [1, 2], "b": {"c": "x"}}, {"a": (1, 2), "b": {"c": "x"}}) == []


def test_the_fingerprint_is_the_same_in_every_process_and_order() -> None:
    assert fingerprint({"a": 1, "b": [True, None, "é"]}) == fingerprint({"b": [True, None, "é"], "a": 1})
    assert len(fingerprint({})) == 64


# Files


@pytest.mark.parametrize("name", sorted(path.stem for path in shipped("workflows").glob("*.yaml")))
def test_every_shipped_workflow_loads_and_its_components_can_be_built(name: str) -> None:
    loaded = load_workflow(name)
    assert loaded.name == name
    dataset = loaded.dataset
    assert dataset.source.build(Source, "dataset.source")
    assert dataset.encoders.image.build(ImageEncoder, "dataset.encoders.image")
    assert dataset.encoders.text.build(TextEncoder, "dataset.encoders.text")


def test_the_promised_workflows_are_shipped() -> None:
    assert {"demo", "coco-sd15", "coco-sdxl", "coco-sd3", "coco-taesd", "coco-uvit"} <= {
        path.stem for path in shipped("workflows").glob("*.yaml")
    }


def test_a_workflow_written_out_reads_back_the_same() -> None:
    for settings in (
        load_workflow("demo"),
        load_workflow("coco-sd15"),
        fake_settings(text={"nan_for": None}, source={"missing": [1], "uncaptioned": []}),
    ):
        assert parse_workflow(yaml.safe_load(settings.to_yaml()), "itself") == settings


def test_null_arguments_survive_being_written_out() -> None:
    settings = fake_settings(image={"class": "x.Y", "pad": None})
    assert "pad" in parse_workflow(yaml.safe_load(settings.to_yaml()), "itself").dataset.encoders.image.arguments


@pytest.mark.parametrize("old", MOVED)
def test_a_class_is_found_by_its_old_path(old: str) -> None:
    """So a store that was made under the old path still works."""
    assert Component.model_validate({"class": old})._factory("x") is Component.model_validate(
        {"class": MOVED[old]}
    )._factory("x")


def test_a_workflow_shows_a_few_lines_and_in_a_notebook_all_settings_without_secrets() -> None:
    sets = ["run.storage_options.key=AKIA1", "run.storage_options.secret=s3cr3t", "dataset.where=people"]
    workflow = load_workflow("demo", sets)
    lines = repr(workflow).splitlines()
    assert lines[0] == "Workflow  demo"
    assert len(lines) < 10
    assert any(line.split() == ["where", "people"] for line in lines)
    assert "900 steps of 64 samples" in repr(workflow)
    shown = workflow._repr_html_()
    assert "shuffle_window: 8" in shown
    assert "s3cr3t" not in shown + repr(workflow)
