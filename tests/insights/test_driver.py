"""The report counts correctly on every executor, and bad data does not stop it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from builders import SHARED
from builders.coco import HOSTILE, PEOPLE, WITH_PEOPLE, coco_source, settings, workflow_file, write_coco
from builders.command_line import long_lines, one_error, one_object, run
from builders.workflows import load_workflow

import daskt2i
from daskt2i.errors import SourceError
from daskt2i.executors.multiprocessing import MultiprocessingExecutor
from daskt2i.executors.serial import SerialExecutor
from daskt2i.facts.selection import open_source
from daskt2i.facts.survey import Survey, survey_chunk
from daskt2i.facts.table import COLUMNS
from daskt2i.insights.driver import insights, settled
from daskt2i.insights.report import InsightsResult
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Chunk

CLIP = SHARED / "clip-tokenizer"


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page takes seconds, and has its own tests."""
    monkeypatch.setattr("daskt2i.insights.page.render", lambda *_: "<html></html>")


def report(folder: Path, out: Path, where: str | None = None, **options: Any) -> InsightsResult:
    return insights(
        settings(folder, where).dataset, RunFolder(out), options.pop("executor", SerialExecutor()), **options
    )


def told(found: InsightsResult) -> dict[str, Any]:
    return {k: v for k, v in found.to_json().items() if k not in ("files", "seconds", "workers")}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "data", missing=[3], same={6: 0})


def test_the_report_counts_people_captions_and_files(coco: Path, tmp_path: Path) -> None:
    found = told(report(coco, tmp_path / "out"))
    assert (found["rows"], found["people"], found["left_out"]) == (10, len(WITH_PEOPLE), 0)
    assert found["gender"] == {"male": 3, "female": 2, "neutral": 1}
    assert found["age"] == {"child": 1, "adult": 3, "mixed": 1, "unstated": 1}
    assert found["group"] == {"single": 3, "pair": 2, "group": 1}
    assert found["activities"] == {"ride": 2, "sit": 2, "hold": 1}
    assert found["captions"]["count"] == sum(map(len, PEOPLE))
    assert found["captions"]["per_image"] == {"0": 1, "1": 6, "2": 3}
    assert found["captions"]["tokens"] == {"4": 1, "5": 4, "6": 2, "7": 4, "8": 1}
    assert (found["captions"]["limit"], found["captions"]["cut"]) == (24, 0)
    assert found["images"]["rejected"] == {"missing-file": 1, "no-caption": 1}
    assert (found["images"]["unreadable"], found["images"]["exact_duplicates"]) == (1, 1)
    assert found["images"]["formats"] == {"BMP": 9}
    assert found["images"]["sizes"] == {"48 x 40": 9}
    assert found["licences"] == {"BY": 5, "</script><b>NC": 5}
    assert found["boxes"] == {}
    assert found["notes"] == []


def test_repeated_captions_are_counted(tmp_path: Path) -> None:
    texts = [
        ["A man rides a bike.", "a man rides bikes"],
        ["A man  rides a bike."],
        ["The bike rides a man"],
        ["A dog"],
    ]
    found = report(write_coco(tmp_path / "data", texts), tmp_path / "out").to_json()["captions"]
    assert (found["repeated"], found["alike"]) == (1, 3)
    assert found["most_repeated"] == [{"caption": "A man rides a bike.", "times": 4}]


def test_the_files_hold_the_whole_report(coco: Path, tmp_path: Path) -> None:
    found = report(coco, tmp_path / "out", top=1)
    place = tmp_path / "out" / "reports"
    assert json.loads((place / "insights.json").read_text(encoding="utf-8")) == {**found.to_json()}
    assert len(found.activities) == 1
    with (place / "insights.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == list(COLUMNS)
    assert [line["people"] for line in lines] == [str(row in WITH_PEOPLE).lower() for row in range(10)]
    assert lines[4]["activities"] == "sit"
    assert lines[6]["duplicate_of"] == "0"
    assert lines[3]["reason"] == "missing-file"
    assert (place / "insights.html").read_text(encoding="utf-8") == "<html></html>"


@pytest.mark.parametrize("workers", [2])
def test_several_processes_give_the_same_report_as_one(coco: Path, tmp_path: Path, workers: int) -> None:
    one = report(coco, tmp_path / "one")
    many = report(coco, tmp_path / "many", executor=MultiprocessingExecutor(workers))
    assert told(one) == told(many)
    assert many.workers == workers
    for name in ("insights.csv", "facts.parquet"):
        assert (tmp_path / "one" / "reports" / name).read_bytes() == (tmp_path / "many" / "reports" / name).read_bytes()


def test_a_where_limits_the_report_to_its_rows(coco: Path, tmp_path: Path) -> None:
    found = report(coco, tmp_path / "out", 'people and gender == "male" and not duplicate')
    assert (found.rows, found.left_out, found.captions) == (2, 8, 3)
    assert found.where == "people and gender == 'male' and (not duplicate)"
    assert report(coco, tmp_path / "out", "captions > 7").rows == 0
    # The facts cover all rows, and encode uses them.
    assert open_source(settings(coco).dataset, RunFolder(tmp_path / "out")).info().rows == len(WITH_PEOPLE)


def test_without_pictures_no_file_is_opened(coco: Path, tmp_path: Path) -> None:
    for path in (coco / "images").iterdir():
        path.unlink()
    found = report(coco, tmp_path / "out", pictures=False, tokens=False)
    assert (found.people, found.limit, found.formats) == (len(WITH_PEOPLE), 0, {})
    assert found.to_json()["images"]["looked_at"] is False


def test_the_hostile_set_gives_a_report(hostile: Path, tmp_path: Path) -> None:
    """The report rejects the same rows for the same reasons as encode (test_coco_mini)."""

    workflow = load_workflow(
        "demo", ["dataset.encoders.text.max_tokens=77"], str(hostile / "images"), str(hostile / "captions.json")
    )
    found = insights(settled(workflow), RunFolder(tmp_path / "out"), SerialExecutor())
    assert [reason or None for reason in found.table["reason"].to_pylist()] == HOSTILE
    assert (found.rows, sum(found.reasons.values()), found.orphan, found.cut) == (23, 13, 1, 1)
    assert found.table["width"].to_pylist()[9] == 200
    assert found.exact == 6


def test_a_missing_source_is_reported_in_one_sentence(coco: Path, tmp_path: Path) -> None:
    (coco / "captions.json").write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(SourceError):
        report(coco, tmp_path / "out")


def test_an_error_on_a_worker_is_raised(coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad(SerialExecutor):
        def run(self, work: Any, items: Any) -> Any:
            for item in items:
                yield item, OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        report(coco, tmp_path / "out", executor=Bad())
    assert not (tmp_path / "out" / "reports").exists()


# Tokens


@pytest.mark.parametrize("folder", ["demo", "clip"])
def test_token_counts_equal_those_of_the_encoder(folder: str) -> None:
    """With a tokenizer.json tokens are counted without transformers. The numbers must be the same."""
    from daskt2i.encoders.text import TextEncoder

    captions = ["A man riding a wave.", "", "猫 on a sofa 🐈", "supercalifragilistic " * 60, "  two\n lines "]
    if folder == "clip" and not CLIP.is_dir():
        pytest.skip("needs ../shared/data/clip-tokenizer")
    encoder = (
        TextEncoder("daskt2i:demo/text")
        if folder == "demo"
        else TextEncoder("openai/clip-vit-large-patch14", tokenizer=str(CLIP), weights="random")
    )
    counts, limit = encoder.count_tokens(captions)
    tokenizer = encoder._load_tokenizer(encoder.tokenizer_folder())
    assert counts == [len(tokenizer(text)["input_ids"]) for text in captions]
    assert limit == 77


def test_an_encoder_that_cannot_count_tokens_gives_a_note(coco: Path, tmp_path: Path) -> None:
    workflow = settings(coco, None)
    text = workflow.dataset.encoders.text.model_copy(update={"class_path": "insights.test_driver.Silent"})
    encoders = workflow.dataset.encoders.model_copy(update={"text": text})
    dataset = workflow.dataset.model_copy(update={"encoders": encoders})
    found = insights(dataset, RunFolder(tmp_path / "out"), SerialExecutor())
    assert found.limit == 0
    assert "has no count_tokens" in found.notes[0]


class Silent:
    """A text encoder without token counts."""

    def info(self) -> Any: ...
    def load(self, runtime: Any) -> None: ...
    def encode(self, items: Any, batch: Any) -> Any: ...


def test_a_survey_imports_no_torch(coco: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    from builders.workflows import child_environment

    code = (
        "import sys; from daskt2i import workflow; from daskt2i.insights import page\n"
        "page.render = lambda *_: ''\n"
        "try: workflow.app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'diffusers', 'distributed', 'zarr'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    workflow_file(coco)
    words = f"insights -w w.yaml -s serial --json -o {tmp_path / 'o'}".split()
    command = [sys.executable, "-c", code, *words]
    env = {**child_environment(), "PYTHONPATH": str(Path(daskt2i.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=coco, env=env)
    assert done.returncode == 0, done.stderr


# The command


def test_the_command(coco: Path, tmp_path: Path) -> None:
    given = ["insights", "-w", workflow_file(coco), "-s", "serial", "-o", tmp_path / "out"]
    found = one_object(run(*given, "--json"))
    assert found["people"] == len(WITH_PEOPLE)
    assert sorted(found["files"]) == ["csv", "html", "json"]
    shown = run(*given, "--where", "people")
    assert shown.returncode == 0, shown.stderr
    assert "6 images (100.0%)" in shown.stdout
    assert long_lines(shown.stdout + shown.stderr, tmp_path) == []
    assert ">>>peple<<<" in one_error(run(*given, "--where", "peple"))
    assert "rules" in one_error(run(*given, "--set", "dataset.facts.rules=nowhere.yaml"))


@pytest.mark.parametrize("command", ["insights", "suggest"])
def test_help_fits_80_columns(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLUMNS": "80", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    done = run(command, "--help")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_survey_is_small_when_pickled(coco: Path) -> None:
    import pickle

    from daskt2i.facts.selection import survey_of

    survey = survey_of(settings(coco).dataset)
    assert isinstance(survey, Survey)
    assert len(pickle.dumps(survey)) < 40_000
    source = settings(coco).dataset.source.build(object, "source")
    part = survey_chunk(survey, Chunk(0, 0, 10, tuple(source.rows(0, 10))))
    assert len(pickle.dumps(part)) < 10_000


def test_the_source_of_the_tests_matches_its_name(coco: Path) -> None:
    assert settings(coco).dataset.source.arguments == {k: v for k, v in coco_source(coco).items() if k != "class"}
