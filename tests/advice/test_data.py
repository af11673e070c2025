"""What `sources`, `facts`, `images` and `insights` tell a user to do works."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from builders.advice import told
from builders.coco import settings, write_coco
from builders.workflows import fake_settings
from PIL import ImageFile

import daskt2i
from daskt2i.config.settings import Workflow
from daskt2i.encoders.fake import FakeImageEncoder, FakeTextEncoder
from daskt2i.facts.captions.rules import OURS, load_rules
from daskt2i.facts.coco_instances import persons_of
from daskt2i.facts.expression import FACTS, parse_where
from daskt2i.images import read as images
from daskt2i.insights.suggest import Suggestions
from daskt2i.sources.coco import CocoSource
from daskt2i.sources.fake import bitmap
from daskt2i.sources.scenes import write_scenes
from daskt2i.store.layout import empty_prompt, store_arrays
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore


def run_of(out: Path, workflow: Workflow) -> daskt2i.Run:
    return daskt2i.Run(workflow, out, scheduler="serial", progress=False)


# Sources.


@pytest.mark.parametrize("kind", ["folder", "zip", "address"])
def test_each_kind_of_place_of_images_that_is_named_is_read(kind: str, tmp_path: Path) -> None:
    folder = write_coco(tmp_path)
    captions = str(folder / "captions.json")
    row = next(iter(CocoSource(str(folder / "images"), captions).rows(0, 1)))
    place = str(folder / "images")
    if kind == "zip":
        place = str(tmp_path / "images.zip")
        with zipfile.ZipFile(place, "w") as archive:
            for path in (folder / "images").iterdir():
                archive.write(path, path.name)
        with told("sources/files/zipped.py:Zip.__init__ SourceError"):
            CocoSource(captions, captions).read(row)
        with told("sources/files/zipped.py:Zip.__init__ SourceMissing"):
            CocoSource(f"memory://{tmp_path.name}/nothing.zip", captions).read(row)
    elif kind == "address":
        import fsspec

        files = fsspec.filesystem("memory")
        for path in (folder / "images").iterdir():
            files.pipe_file(f"/{tmp_path.name}/{path.name}", path.read_bytes())
        place = f"memory://{tmp_path.name}"
        with told("sources/files/opening.py:_open SourceMissing"):
            CocoSource(f"memory://{tmp_path.name}-nothing", captions).read(row)
    else:
        with told("sources/files/opening.py:_open SourceMissing"):
            CocoSource(str(folder / "imagse"), captions).read(row)
    assert CocoSource(place, captions).read(row)


RIGHT: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "1.bmp"}],
    "annotations": [{"image_id": 1, "caption": "A dog"}],
}


def _wrong(path: Path, kind: str) -> None:
    """A caption file with one thing wrong."""
    if kind == "no list":
        path.write_text(json.dumps({"images": {}, "annotations": []}))
    elif kind == "no images":
        path.write_text(json.dumps({**RIGHT, "images": []}))
    elif kind == "packed wrongly":
        path.write_bytes(b"not packed")
    elif kind == "no text":
        path.write_bytes(b'{"images": "\xff\xfe\xfa"}')
    elif kind == "cut":
        path.write_text(json.dumps(RIGHT)[:-5])
    elif kind == "no caption":
        path.write_text(json.dumps({**RIGHT, "annotations": [{"image_id": 1, "category_id": 1}]}))
    elif kind == "no object":
        path.write_text(json.dumps({**RIGHT, "images": ["1.bmp"]}))
    elif kind == "no number":
        path.write_text(json.dumps({**RIGHT, "images": [{"id": "one", "file_name": "1.bmp"}]}))


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("no list", "sources/coco_index.py:parse SourceError"),
        ("no images", "sources/coco_index.py:parse SourceError"),
        ("not there", "sources/coco_index.py:_load SourceMissing"),
        ("packed wrongly", "sources/coco_index.py:_load SourceError"),
        ("no text", "sources/coco_index.py:_load SourceError"),
        ("cut", "sources/coco_index.py:_load SourceError"),
        ("no caption", "sources/coco_index.py:_attach SourceError"),
        ("no object", "sources/coco_index.py:_fields SourceError"),
        ("no number", "sources/coco_index.py:_integer SourceError"),
    ],
)
def test_a_caption_file_of_the_form_that_is_expected_is_read(kind: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.bmp").write_bytes(bitmap(40, 40, (1, 2, 3)))
    path = tmp_path / ("captions.json.gz" if kind == "packed wrongly" else "captions.json")
    _wrong(path, kind)
    with told(place):
        CocoSource(str(tmp_path / "images"), str(path)).info()
    text = json.dumps(RIGHT).encode()
    path.write_bytes(gzip.compress(text) if kind == "packed wrongly" else text)
    assert CocoSource(str(tmp_path / "images"), str(path)).info().captions == 1


def test_text_that_is_a_path_is_taken_as_a_place_of_data(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "run::1")
    captions = str(folder / "captions.json")
    with told("addresses.py:expanded ConfigError"):
        CocoSource("", captions)
    with told("addresses.py:expanded ConfigError"):
        CocoSource(str(folder / "images"), "a\0b")
    assert CocoSource(str(folder / "images"), captions).info().rows


def test_a_path_that_is_not_relative_to_a_removed_folder_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_coco(tmp_path / "data")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with told("sources/files/opening.py:absolute SourceError"):
        CocoSource("images", "captions.json")
    assert CocoSource(str(folder / "images"), str(folder / "captions.json")).info().rows


def test_a_folder_in_place_of_a_pipe_is_read(tmp_path: Path) -> None:
    folder = write_coco(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with told("sources/files/opening.py:_open SourceError"):
        CocoSource(str(tmp_path / "pipe"), str(folder / "captions.json")).info()
    assert CocoSource(str(folder / "images"), str(folder / "captions.json")).info().rows


def test_one_file_of_a_zip_archive_is_read_at_the_address_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    with zipfile.ZipFile(tmp_path / "annotations.zip", "w") as archive:
        archive.writestr("annotations/captions_val.json", json.dumps(RIGHT))
        archive.writestr("annotations/captions_train.json", json.dumps({**RIGHT, "images": RIGHT["images"] * 2}))
    monkeypatch.chdir(tmp_path)
    with told("sources/coco_index.py:_load SourceError") as error:
        CocoSource("images", "annotations.zip").info()
    name = "annotations/captions_train.json"
    assert name in str(error.value)
    address = next(word for word in str(error.value).split() if word.startswith("zip://")).rstrip(".")
    assert CocoSource("images", address.replace("NAME", name)).info().rows == 2


def test_captions_that_are_one_text_each_are_read(tmp_path: Path) -> None:
    folder = write_coco(tmp_path)
    path = folder / "captions.json"
    whole = json.loads(path.read_text())
    listed = [{"image_id": one["image_id"], "caption": [one["caption"]]} for one in whole["annotations"]]
    path.write_text(json.dumps({**whole, "annotations": listed}))
    with told("sources/coco_index.py:_attach SourceError"):
        CocoSource(str(folder / "images"), str(path)).info()
    texts = [{"image_id": one["image_id"], "caption": text} for one in listed for text in one["caption"]]
    path.write_text(json.dumps({**whole, "annotations": texts}))
    assert CocoSource(str(folder / "images"), str(path)).info().captions == len(texts)


def test_lists_of_one_data_set_are_read(tmp_path: Path) -> None:
    folder = write_coco(tmp_path)
    path = folder / "captions.json"
    whole = json.loads(path.read_text())
    others = [{**one, "image_id": one["image_id"] + 5000} for one in whole["annotations"]]
    path.write_text(json.dumps({**whole, "annotations": others}))
    with told("sources/coco_index.py:_attach SourceError"):
        CocoSource(str(folder / "images"), str(path)).info()
    path.write_text(json.dumps(whole))
    assert CocoSource(str(folder / "images"), str(path)).info().captions == len(others)


def test_scenes_of_whole_numbers_are_drawn(tmp_path: Path) -> None:
    with told("sources/scenes.py:_identity ConfigError"):
        write_scenes(tmp_path, 0)
    with told("sources/scenes.py:_identity ConfigError"):
        write_scenes(tmp_path, 1, -1)
    assert write_scenes(tmp_path, 1, 0).is_file()


def test_another_folder_or_an_empty_one_takes_scenes(tmp_path: Path) -> None:
    place, other = tmp_path / "scenes", tmp_path / "other"
    write_scenes(place, 2)
    with told("sources/scenes.py:_holds SourceError"):
        write_scenes(place, 3)
    assert write_scenes(other, 3).is_file()
    shutil.rmtree(place)
    assert write_scenes(place, 3).is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with told("sources/scenes.py:_check_free SourceError"):
        write_scenes(tmp_path / "mine", 2)
    assert write_scenes(tmp_path / "new", 2).is_file()
    shutil.rmtree(tmp_path / "mine")
    assert write_scenes(tmp_path / "mine", 2).is_file()


def test_the_same_call_draws_when_what_stood_in_the_way_is_gone(tmp_path: Path) -> None:
    place = tmp_path / "scenes"
    (place).mkdir()
    (place / "images").write_text("a file where a folder belongs")
    with told("sources/scenes.py:write_scenes SourceError"):
        write_scenes(place, 2)
    (place / "images").unlink()
    assert write_scenes(place, 2).is_file()


def test_whole_pictures_are_read_when_the_switch_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bitmap(40, 40, (1, 2, 3))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with told("images/read.py:read_framed ConfigError"):
        images.read(data, 32, images.Limits())
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    assert images.read(data, 32, images.Limits()).pixels.shape == (32, 32, 3)


# Facts.


def test_the_example_of_an_expression_keeps_rows(tmp_path: Path) -> None:
    with told("facts/expression.py:parse_where ConfigError") as error:
        parse_where("  ")
    example = str(error.value).partition("`")[2].partition("`")[0]
    assert parse_where(example)
    whole = settings(write_coco(tmp_path), example)
    assert run_of(tmp_path / "run", whole).encode().left_out


@pytest.mark.parametrize(
    ("place", "wrong", "right"),
    [
        ("facts/expression.py:parse_where ConfigError", "words", "words >= 1"),
        ("facts/expression.py:_Check._want ConfigError", "people and 1", "people and words == 1"),
        ("facts/expression.py:_Check._compare ConfigError", "group is 'single'", "group == 'single'"),
        ("facts/expression.py:_Check._contains ConfigError", "group in ['single', 1]", "group in ['single', 'pair']"),
        ("facts/expression.py:_Check._contains ConfigError", "words in [1, 'two']", "words in [1, 2]"),
        ("facts/expression.py:_Check._contains ConfigError", "1 in activities", "'ride' in activities"),
        ("facts/expression.py:_Check._known ConfigError", "group == 'lonely'", "group == 'single'"),
        ("facts/expression.py:_Check._named ConfigError", "peoples", "people"),
        ("facts/expression.py:_Check._named ConfigError", "single", "group == 'single'"),
    ],
)
def test_an_expression_as_it_is_suggested_is_taken(place: str, wrong: str, right: str) -> None:
    with told(place):
        parse_where(wrong)
    assert parse_where(right)


def test_every_value_that_a_fact_can_have_is_taken() -> None:
    for name, about in FACTS.items():
        if not about.values:
            continue
        with told("facts/expression.py:_Check._known ConfigError"):
            parse_where(f"{name} == 'never'")
        for value in about.values:
            assert parse_where(f"{name} == {value!r}")


def test_insights_show_what_there_is_where_an_expression_keeps_nothing(tmp_path: Path) -> None:
    folder = write_coco(tmp_path)
    run = run_of(tmp_path / "run", settings(folder, "people and not people"))
    with told("facts/selection.py:choose ConfigError"):
        run.encode()
    report = run.insights(tokens=False)
    assert report.to_json()
    assert (tmp_path / "run" / "reports" / "insights.html").is_file()
    assert run_of(tmp_path / "run", settings(folder, "people")).encode().accepted


@pytest.mark.parametrize("wrong", ["", "version: 0\n"], ids=["not there", "another version"])
def test_a_copy_of_our_rules_is_taken(wrong: str, tmp_path: Path) -> None:
    place = tmp_path / "rules.yaml"
    if wrong:
        place.write_text(wrong)
        with told("facts/captions/rules.py:compile_rules ConfigError"):
            load_rules(place)
    else:
        with told("facts/captions/rules.py:load_rules ConfigError"):
            load_rules(place)
    shutil.copy(OURS, place)
    assert load_rules(place)
    workflow = settings(write_coco(tmp_path), "people", rules=str(place))
    assert run_of(tmp_path / "run", workflow).encode().accepted


def test_an_instance_file_of_the_form_that_is_expected_is_read(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": []}))
    with told("facts/coco_instances.py:persons_of ConfigError"):
        persons_of(str(path))
    right = {
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{"image_id": 5, "category_id": 1}],
    }
    path.write_text(json.dumps(right))
    assert persons_of(str(path)) == {5: 1}


@pytest.mark.parametrize("what", ["no people", "not there"])
def test_another_instance_file_or_none_counts_people(what: str, tmp_path: Path) -> None:
    category = {"id": 1, "name": "person"}
    right, wrong = tmp_path / "right.json", tmp_path / "wrong.json"
    right.write_text(json.dumps({"categories": [category], "annotations": [{"image_id": 5, "category_id": 1}]}))
    if what == "no people":
        wrong.write_text(json.dumps({"categories": [{**category, "name": "dog"}], "annotations": []}))
    run = run_of(tmp_path / "run", settings(write_coco(tmp_path), "words >= 1"))
    name = "dataset.facts.coco_instances"
    given = run.with_settings({name: str(wrong)})
    if what == "no people":
        with told("facts/coco_instances.py:persons_of ConfigError"):
            given.encode()
    else:
        with told("facts/coco_instances.py:read_instances ConfigError"):
            given.encode()
    assert run.with_settings({name: str(right)}).plan().view()
    assert run.plan().view()


def test_encode_gives_the_captions_to_suggest_from(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    image, text = FakeImageEncoder().info(32), FakeTextEncoder().info()
    made = {name: array[0] for name, array in FakeTextEncoder().encode([""], 1).items()}
    ZarrStore(folder).create(20, 8, store_arrays(image, text, 2), {}, empty_prompt(text, made))
    with told("insights/suggest.py:Suggestions.of_store StoreError"):
        Suggestions.of_store(tmp_path / "run")
    run = run_of(tmp_path / "other", fake_settings())
    run.encode()
    caption = str(run.store["caption"].values[0][0])
    assert run.suggest(caption[:3])
