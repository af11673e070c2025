"""What columns of a store tell a user to do works."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders.advice import covers, told
from builders.coco import settings, write_coco
from builders.workflows import IMAGE, TEXT, fake_settings

import daskt2i
from daskt2i.cli.front import parse_arguments
from daskt2i.events import Event, Note
from daskt2i.facts.selection import open_source
from daskt2i.store.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> daskt2i.Run:
    return daskt2i.Run(fake_settings(), tmp_path / "run", scheduler="serial", progress=False)


def test_a_column_with_a_right_name_and_encoder_is_added_after_the_encode(run: daskt2i.Run) -> None:
    with told("facts/accepted.py:AcceptedRows.__init__ StoreMissing"):
        run.add("words", TEXT)
    run.encode()
    with told("store/columns/places.py:column_folder ConfigError"):
        run.add("My words", TEXT)
    with told("encode/columns/workflow.py:column_workflow ConfigError"):
        run.add("caption", TEXT)
    with told("encode/columns/workflow.py:column_workflow ConfigError"):
        run.add("words", "fake")
    assert run.add("my_words", TEXT).accepted == 20
    assert "my_words_text_states" in run.store


def test_a_store_gets_a_column_after_it_is_encoded_to_its_end_and_mended(run: daskt2i.Run) -> None:
    run.encode()
    receipt = Path(run.out) / "receipts" / "chunk-0000001.json"
    receipt.unlink()
    with told("facts/accepted.py:AcceptedRows.__init__ StoreError"):
        run.add("words", TEXT)
    run.encode()
    whole = receipt.read_bytes()
    receipt.write_bytes(b"{}")
    with told("facts/accepted.py:AcceptedRows.rows SourceError"):
        run.add("words", TEXT)
    receipt.write_bytes(whole)
    assert run.verify().ok
    run.encode()
    assert run.add("words", TEXT).accepted == 20


def test_the_data_of_the_store_are_taken_again(run: daskt2i.Run) -> None:
    run.encode()
    other = daskt2i.Run(fake_settings(rows=24), run.out, scheduler="serial", progress=False)
    with told("facts/accepted.py:AcceptedRows.__init__ FingerprintMismatch"):
        other.add("words", TEXT)
    assert run.add("words", TEXT).accepted == 20


def test_another_argument_is_another_column_or_the_old_one_is_deleted(run: daskt2i.Run) -> None:
    run.encode()
    run.add("words", TEXT, arguments={"features": 4})
    with told("encode/prepare.py:refuse_other FingerprintMismatch") as error:
        run.add("words", TEXT, arguments={"features": 6})
    said = str(error.value)
    assert "The column words in" in said
    assert "dataset.encoders.text.features: 4 there, 6 now" in said
    assert run.add("words", TEXT, arguments={"features": 4}).skipped
    assert run.add("words6", TEXT, arguments={"features": 6}).accepted == 20
    shutil.rmtree(Path(run.out) / "columns" / "words")
    assert run.add("words", TEXT, arguments={"features": 6}).accepted == 20


def test_a_column_that_is_moved_back_goes_on(run: daskt2i.Run, tmp_path: Path) -> None:
    run.encode()
    run.add("words", TEXT)
    place, away = Path(run.out) / "columns" / "words", tmp_path / "away"
    place.rename(away)
    dataset = daskt2i.load_workflow(away / "workflow.yaml").dataset
    with told("store/columns/places.py:folder_of_store ConfigError"):
        open_source(dataset, RunFolder(away))
    with told("facts/selection.py:open_source ConfigError"):
        open_source(dataset)
    place.parent.mkdir(exist_ok=True)
    away.rename(place)
    assert open_source(dataset, RunFolder(place)).info().rows == 20


def test_original_images_are_put_back_or_the_store_is_encoded_again(tmp_path: Path) -> None:
    covers("session/stages.py:Stages._add Note")
    coco = write_coco(tmp_path / "coco")
    images = sorted((coco / "images").iterdir())
    heard: list[Event] = []
    with daskt2i.Run(settings(coco, None), tmp_path / "run", scheduler="serial", progress=heard.append) as run:
        run.encode()
        shutil.copy(images[0], tmp_path / "kept")
        shutil.copy(images[1], images[0])
        run.add("other", IMAGE)
        assert any(isinstance(one, Note) and "The picture of 1 row" in one.text for one in heard)
        with run.with_settings({"run.on_changed_images": "encode"}) as again:
            again.encode()
        heard.clear()
        run.add("other", IMAGE)
    assert not [one for one in heard if isinstance(one, Note) and "picture" in one.text]


def test_arguments_of_an_encoder_are_written_as_the_message_says() -> None:
    with told("cli/front.py:_parsed ConfigError"):
        parse_arguments(["encoder.features=4"])
    assert parse_arguments(["subfolder=vae", "features=4"]) == {"subfolder": "vae", "features": 4}
