"""Prompts become picture files that record how they were made, on any executor, and are not drawn twice."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import daskt2i
from daskt2i.errors import ConfigError, ModelMissing, SourceMissing
from daskt2i.events import Activity, Event, Note, Progress
from daskt2i.executors.multiprocessing import MultiprocessingExecutor
from daskt2i.executors.serial import SerialExecutor
from daskt2i.protocols import Executor, ExecutorInfo
from daskt2i.sample.driver import SampleResult, draw, read_prompts, requests_for
from daskt2i.sample.image_grid import file_name, image_grid, png
from daskt2i.sample.painter import DrawnPicture, SampleRequest, SamplerSettings
from daskt2i.store.run_folder import RunFolder
from daskt2i.workflow import app

DEMO_TEXT = Path(daskt2i.__file__).parent / "demo" / "text"
LOOK = SamplerSettings(steps=2, guidance=3.0, sampler="dpm++", batch=2)
WISHES = requests_for(["a red circle", "a blue star", "a green ring"], 5)


def drawn(executor: Executor, folder: Path, requests: list[SampleRequest] = WISHES, **more: Any) -> np.ndarray:
    pictures = draw(RunFolder(folder), requests, LOOK, executor, "cpu", **more)
    assert [picture.request for picture in pictures] == requests
    return np.stack([picture.pixels for picture in pictures]).astype(int)


@pytest.mark.slow  # by default, other tests show that a picture does not depend on its batch
def test_two_workers_draw_the_same_pictures_as_one(demo_run: Path) -> None:
    counted: list[Event] = []
    here = drawn(SerialExecutor(1), demo_run, listener=counted.append)
    assert counted[-1] == Progress("pictures drawn", 3, 3)
    there = drawn(MultiprocessingExecutor(2, 1, None), demo_run)
    assert np.abs(here - there).max() <= 1


def test_without_a_pipeline_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="Train first"):
        drawn(SerialExecutor(1), tmp_path)


class NoPictures(SerialExecutor):
    """Workers that start, and draw nothing."""

    def start(self) -> ExecutorInfo:
        super().start()
        return ExecutorInfo(2, 1, None)

    def run(self, work: Any, items: Any) -> Any:
        return iter(())


def test_what_takes_time_before_the_first_picture_is_told(tmp_path: Path) -> None:
    told: list[Event] = []
    folder = RunFolder(tmp_path)
    folder.write("pipeline/model_index.json", b"{}")
    assert draw(folder, [], LOOK, NoPictures(1), "cpu", told.append) == []
    starts, loads = told
    assert isinstance(starts, Activity)
    assert "first the workers start" in starts.text
    assert isinstance(loads, Activity)
    assert re.match(r"2 workers are ready after .*; each loads torch, diffusers and the model", loads.text)


class Blank(NoPictures):
    """Workers that draw black pictures, and know which prompts are cut."""

    def run(self, work: Any, items: Any) -> Any:
        for start, part in items:
            black = np.zeros((8, 8, 3), np.uint8)
            yield (start, part), [DrawnPicture(one, black, len(one.prompt) > 150) for one in part]


TOKENIZERS = {
    "tokenizer.json": ("tokenizer.json",),
    "vocabulary": ("vocab.json", "merges.txt"),
    "remote": ("tokenizer.json",),
    "none": (),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_prompt_that_will_be_cut_is_told_once_before_the_workers_start(kind: str, tmp_path: Path) -> None:
    folder = RunFolder(f"memory://{uuid4().hex}" if kind == "remote" else tmp_path)
    folder.write("pipeline/model_index.json", b"{}")
    about = json.loads((DEMO_TEXT / "tokenizer_config.json").read_text())
    for name in TOKENIZERS[kind]:
        folder.write(f"pipeline/tokenizer/{name}", (DEMO_TEXT / name).read_bytes())
        folder.write("pipeline/tokenizer/tokenizer_config.json", json.dumps({**about, "model_max_length": 26}).encode())
    long, told = "a red circle on white " * 9, []
    requests = requests_for(["a red circle", long, "a red circle and a blue star on white"], 5, count=2)
    assert len(draw(folder, requests, LOOK, Blank(1), "cpu", told.append)) == 6
    (place,) = [place for place, event in enumerate(told) if isinstance(event, Note)]
    assert place == (len(told) - 1 if kind == "none" else 0)
    assert told[place].text.startswith("1 of 3 prompts is longer than what the text encoder reads")
    assert told[place].text.endswith(", which is cut after 'a red circle on'.") == (kind != "none")


class NoStart(SerialExecutor):
    """Workers that must not start."""

    def start(self) -> ExecutorInfo:
        raise AssertionError("workers were started")


def test_without_a_pipeline_no_worker_is_started(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing):
        drawn(NoStart(1), tmp_path)


@pytest.fixture
def run_copy(demo_run: Path, tmp_path: Path) -> Path:
    """A run folder that has only a pipeline, to draw into."""
    shutil.copytree(demo_run / "pipeline", tmp_path / "run" / "pipeline")
    return tmp_path / "run"


def test_a_model_that_pooled_padding_draws_with_a_note_and_a_newer_one_without(run_copy: Path) -> None:
    label = run_copy / "pipeline" / "daskt2i.json"
    said = json.loads(label.read_text())

    def notes(**changes: Any) -> list[str]:
        label.write_text(json.dumps({**said, **changes}))
        heard: list[Event] = []
        drawn(SerialExecutor(1), run_copy, WISHES[:1], listener=heard.append)
        return [event.text for event in heard if isinstance(event, Note)]

    (note,) = notes(masked=True)
    assert "An older version trained this model" in note
    assert notes(masked=True, pooled_text="without padding") == []
    assert notes(masked=False) == []


def command(*words: str) -> Any:
    return CliRunner().invoke(app, [*words, "--scheduler", "serial", "--json"], catch_exceptions=False)


def test_the_command_writes_a_sheet_and_pictures_that_record_how_they_were_made(run_copy: Path) -> None:
    words = ["sample", "-p", "a red circle", "-p", "Ein grüner Stern", "--seed", "7", "--steps", "2", "--guidance", "2"]
    done = command(*words, "--count", "2", "--sampler", "euler", "-o", str(run_copy))
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    files = [Path(name) for name in said["files"]]
    assert said["pictures"] == 4
    assert [re.sub("-[0-9a-f]{8}[.]", ".", path.name) for path in files] == [
        "sheet.png",
        "000-a-red-circle-seed7.png",
        "001-a-red-circle-seed8.png",
        "002-ein-gr-ner-stern-seed7.png",
        "003-ein-gr-ner-stern-seed8.png",
    ]
    with Image.open(files[4]) as picture:
        assert picture.size == (64, 64)
        assert picture.text == {  # type: ignore[attr-defined]
            "Prompt": "Ein grüner Stern", "Seed": "8", "Steps": "2", "Guidance": "2", "Sampler": "euler",
            "Software": "daskt2i",
        }  # fmt: skip
    with Image.open(files[0]) as picture:
        assert picture.text["Prompts"] == "a red circle\nEin grüner Stern"  # type: ignore[attr-defined]
        assert picture.text["Seeds"] == "7, 8"  # type: ignore[attr-defined]
    before = files[1].stat().st_mtime_ns
    repeated = command(*words, "--count", "2", "--sampler", "euler", "-o", str(run_copy))
    assert "These 4 pictures are there already" in repeated.stderr
    again = json.loads(repeated.stdout)
    assert again["files"] == said["files"]
    assert files[1].stat().st_mtime_ns == before  # nothing was drawn again
    files[2].unlink()
    command(*words, "--count", "2", "--sampler", "euler", "-o", str(run_copy))
    assert files[2].exists()


def test_a_file_of_prompts_has_one_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa red circle\n\n# of no account\n  a blue star  \n", encoding="utf-8")
    assert read_prompts(str(path)) == ["a red circle", "a blue star"]
    with pytest.raises(SourceMissing, match=r"none\.txt cannot be read"):
        read_prompts(str(tmp_path / "none.txt"))
    for text in ("", " \n", "# only a comment\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="has no prompts, so nothing was drawn"):
            read_prompts(str(path))
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        read_prompts(str(path))


def test_without_prompts_the_error_says_how_to_give_them() -> None:
    with pytest.raises(ConfigError, match=r"Give prompts \(prompts\), or set sample\.prompts"):
        requests_for([], 0)


def test_file_names_are_safe_and_short_for_any_prompt() -> None:
    assert re.fullmatch("003-etc-passwd-rm-rf-seed1-[0-9a-f]{8}.png", file_name(3, "../../etc/passwd; rm -rf", 1))
    assert re.fullmatch("000-prompt-seed2-[0-9a-f]{8}.png", file_name(0, "赤い丸", 2))
    assert len(file_name(1, "word " * 100, 0)) < 80


def test_pictures_that_differ_in_anything_have_different_file_names() -> None:
    names = [
        *(file_name(0, prompt, 1, 20) for prompt in ("赤い丸", "青い丸", "two dogs!", "two dogs?", "a" * 60, "a" * 61)),
        *(file_name(0, "two dogs!", seed, steps) for seed, steps in ((2, 20), (1, 21))),
    ]
    assert len(set(names)) == len(names)
    assert file_name(0, "two dogs!", 1, 20) == file_name(0, "two dogs!", 1, 20)


def test_a_sheet_holds_every_picture_enlarged_in_rows_with_frames() -> None:
    pictures = [np.full((16, 16, 3), 20 * i, np.uint8) for i in range(5)]
    page = image_grid(pictures, ["a label that is much too long for three lines of text " * 3] * 5, columns=3)
    tile = 128 + 8
    assert page.shape == (2 * (tile + 3 * 13) + 8, 3 * tile + 8, 3)
    assert page[8 + 64, 8 + tile + 64].tolist() == [20, 20, 20]
    framed = image_grid(pictures[:2], ["", ""], marks=[True, False])
    assert framed[6, 60].tolist() == [30, 140, 60]
    assert framed[6, 8 + tile + 60].tolist() == [200, 40, 40]
    with pytest.raises(ValueError, match="cannot make a sheet"):
        image_grid([], [])
    assert png(pictures[0], {"Seed": 1}).startswith(b"\x89PNG")


def test_a_slow_speed_is_not_said_to_be_zero(tmp_path: Path) -> None:
    result = SampleResult(("sheet.png", "one.png"), 1, 39.4, tuple(WISHES[:1]), RunFolder(tmp_path))
    assert dict(result.view().rows)["pictures"] == "1 (0.03 pictures/s, 39.4 s)"


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (2, 3)])
def test_several_pictures_of_a_prompt_are_in_a_row_of_their_own(count: int, rows: int, tmp_path: Path) -> None:
    folder, requests = RunFolder(tmp_path), requests_for(["a circle", "a star", "a ring"], 0, count)
    for number in range(len(requests)):
        folder.write(f"samples/{number}.png", b"a picture")
    files = tuple(folder.address(f"samples/{number}.png") for number in (0, *range(len(requests))))
    shown = SampleResult(files, len(requests), 1.0, tuple(requests), folder).view().html()
    assert shown.count('<div class="pictures">') == rows
    assert shown.count("<img ") == len(requests)
