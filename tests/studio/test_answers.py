"""What a studio answers about runs, trainings and pictures; refusals are one sentence."""

from __future__ import annotations

import io
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.studios import TOKEN, Visitor, studio_of
from builders.waiting import wait_for
from PIL import Image

import daskt2i

PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def place(demo_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, one whose settings are damaged, and a folder that is none."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(demo_run, folder / "demo")
    (folder / "demo" / "train" / "sheets").mkdir()
    (folder / "demo" / "train" / "sheets" / "step-0000002.png").write_bytes(b"a sheet")
    (folder / "deep" / "broken").mkdir(parents=True)
    shutil.copy(demo_run / "daskt2i-run.json", folder / "deep" / "broken")
    shutil.copytree(demo_run, folder / "untrained", ignore=shutil.ignore_patterns("pipeline", "train"))
    (folder / "deep" / "broken" / "workflow.yaml").write_text("train: [no section]\n")
    (folder / "other").mkdir()
    return folder


@pytest.fixture(scope="module")
def studio(place: Path) -> Iterator[Visitor]:
    with studio_of(place) as visitor:
        yield visitor


def lines(visitor: Visitor, body: Any) -> list[dict[str, Any]]:
    answer = visitor.post("/api/runs/demo/pictures", body)
    assert answer.status == 200, answer.body
    return [json.loads(line) for line in answer.body.splitlines()]


def test_runs_are_listed_and_one_that_cannot_be_opened_says_why(studio: Visitor) -> None:
    broken, demo, untrained = studio.ask("/api/runs").json()["runs"]
    assert (broken["name"], demo["name"], untrained["name"]) == ("broken", "demo", "untrained")
    assert "train" in broken["problem"]
    assert untrained["training"]["step"] == 0
    assert demo["store"]["rows_done"] == 20
    assert demo["training"]["step"] == demo["training"]["steps"] == 3


def test_a_run_that_appears_is_shown_without_a_new_start(studio: Visitor, place: Path) -> None:
    shutil.copytree(place / "demo", place / "late")
    assert [run["name"] for run in studio.ask("/api/runs").json()["runs"]] == ["broken", "demo", "late", "untrained"]
    shutil.rmtree(place / "late")
    assert studio.ask("/api/runs/late").status == 404


def test_a_curve_is_the_one_of_the_run(studio: Visitor, place: Path) -> None:
    rows = np.frombuffer(studio.ask("/api/runs/demo/curve?figure=loss").body, "<f4").reshape(4, -1)
    metrics = daskt2i.open_run(place / "demo", progress=False).metrics
    assert rows[0].tolist() == [1, 2, 3]
    np.testing.assert_allclose(rows[2], metrics["loss"], rtol=1e-6)
    assert studio.ask("/api/runs/demo/curve?figure=nothing").body == b""
    assert studio.ask("/api/runs/demo/curve?first=x").said == "first is not a number, so nothing was read. Give one."


def test_sheets_and_requests_go_through_the_run_folder(studio: Visitor, place: Path) -> None:
    assert studio.ask("/api/runs/demo").json()["sheets"] == [2]
    assert studio.ask("/api/runs/demo/sheets/2").body == b"a sheet"
    assert studio.ask("/api/runs/demo/sheets/7").status == 404
    for what in ("pictures", "stop"):
        assert studio.post(f"/api/runs/demo/requests/{what}", {}).status == 202
        (place / "demo" / "train" / "requests" / what).unlink()
    assert "cannot be asked for dance" in studio.post("/api/runs/demo/requests/dance", {}).said


def test_a_picture_comes_step_by_step_and_is_the_one_of_sample(studio: Visitor, place: Path) -> None:
    told = lines(studio, {"prompt": PROMPT, "seed": 5, "steps": 3, "count": 2})
    assert told[0] == {"place": 0}
    assert [(line["step"], line["of"]) for line in told[1:-1]] == [(1, 3), (2, 3), (3, 3)]
    first, second = told[-1]["pictures"]
    assert first["about"]["Prompt"] == PROMPT
    assert (first["about"]["Seed"], second["about"]["Seed"]) == (5, 6)
    with daskt2i.open_run(place / "demo", scheduler="serial", progress=False) as run:
        same = run.sample(PROMPT, seed=5, steps=3).images[0]
    import base64

    image = Image.open(io.BytesIO(base64.b64decode(first["png"])))
    apart = np.abs(np.asarray(image).astype(int) - np.asarray(same))
    assert apart.max() <= 1, "a batch of two rounds in another way"
    assert image.text["Steps"] == "3"


def test_a_preview_is_one_small_file_and_a_suggestion_continues_the_text(studio: Visitor) -> None:
    answer = studio.post("/api/runs/demo/preview", {"prompt": PROMPT, "visitor": "me"})
    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answer.body)).size == (64, 64)
    found = studio.ask("/api/runs/demo/suggest?text=a").json()["suggestions"]
    assert found
    assert all(one["text"] for one in found)


def test_the_form_that_clients_of_openai_know_is_answered(studio: Visitor) -> None:
    given = {"prompt": PROMPT, "n": 2, "model": "demo", "steps": 1, "response_format": "b64_json"}
    found = studio.post("/v1/images/generations", given).json()
    assert len(found["data"]) == 2
    assert all(one["b64_json"] for one in found["data"])
    assert "b64_json" in studio.post("/v1/images/generations", {**given, "response_format": "url"}).said


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        ({}, 400, "Write what the picture should show"),
        ({"prompt": "  "}, 400, "Write what the picture should show"),
        ({"prompt": "word " * 10_000}, 400, "Write at most 2,000"),
        ({"prompt": PROMPT, "steps": 10**6}, 400, "Give at most 100"),
        ({"prompt": PROMPT, "steps": 0}, 400, "steps is not a whole number from 1"),
        ({"prompt": PROMPT, "count": 1000}, 400, "Give at most 16"),
        ({"prompt": PROMPT, "seed": -1}, 400, "seed is not a whole number from 0"),
        ({"prompt": PROMPT, "seed": True}, 400, "seed is not a whole number"),
        ({"prompt": PROMPT, "guidance": "much"}, 400, "guidance is not a number"),
        ({"prompt": "x" * 80_000}, 413, "larger than 64 KiB"),
        (b"no JSON", 400, "not a JSON object"),
        (b"[1]", 400, "not a JSON object"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(studio: Visitor, given: Any, status: int, says: str) -> None:
    for path in ("/api/runs/demo/preview", "/api/runs/demo/pictures"):
        answer = studio.post(path, given)
        assert answer.status == status
        assert says in answer.said
        assert "Traceback" not in answer.said


def test_an_error_after_the_answer_began_is_its_last_line(studio: Visitor) -> None:
    told = lines(studio, {"prompt": PROMPT, "sampler": "no such one"})
    assert "There is no sampler 'no such one'" in told[-1]["error"]["message"]


def test_a_run_without_a_model_says_so(studio: Visitor) -> None:
    answer = studio.post("/api/runs/untrained/preview", {"prompt": PROMPT})
    assert answer.status == 404
    assert "pipeline" in answer.said
    assert studio.post("/api/runs/untrained/requests/pictures", {}).status == 202


def test_a_visitor_who_vanishes_frees_the_thread(studio: Visitor) -> None:
    def counted(name: str) -> float:
        text = studio.ask("/metrics").body.decode()
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    before = counted("daskt2i_studio_given_up_total")
    body = json.dumps({"prompt": PROMPT, "steps": 100, "count": 16}).encode()
    with socket.create_connection(("127.0.0.1", studio.port)) as link:
        link.sendall(
            b"POST /api/runs/demo/pictures HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
            + TOKEN.encode()
            + b"\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert link.recv(1000)
    wait_for(lambda: counted("daskt2i_studio_given_up_total") > before)
    assert studio.post("/api/runs/demo/preview", {"prompt": PROMPT}).status == 200
