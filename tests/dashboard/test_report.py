"""The report of a run folder: equal to its store and its metrics, also without events; one page without a request."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import TESTS
from builders.shapes import BUCKETS, shaped, write_photographs
from builders.workflows import fake_settings
from rich.console import Console

import daskt2i
from daskt2i.dashboard.figures.encode import Chunks
from daskt2i.dashboard.messages import Messages
from daskt2i.dashboard.report.result import ReportResult, report
from daskt2i.dashboard.run_state import RunState
from daskt2i.dashboard.state.train import MOST_LEVELS
from daskt2i.display.tables import result_table
from daskt2i.errors import StoreError
from daskt2i.events import Note
from daskt2i.store.publishing import lock
from daskt2i.store.run_folder import EVENTS, RunFolder
from daskt2i.store.status import status

METRICS = [
    {"step": 1, "loss": 0.9, "rate": 1e-4, "norm": 1.0},
    {"step": 2, "loss": 0.5, "rate": 2e-4, "norm": 2.0},
    {"step": 2, "heldout_loss": 0.75},
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encode with bad rows, a note that looks like a script, and the metrics of a training."""
    out = tmp_path_factory.mktemp("reported") / "run"
    workflow = fake_settings(rows=40, source={"missing": [3], "unreadable": [5, 6]})
    with daskt2i.Run(workflow, out, scheduler="serial", progress=False) as run:
        run.encode()
    (out / "train").mkdir()
    (out / "train/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in METRICS))
    messages = Messages("r", str(out))
    with (out / EVENTS).open("a", encoding="utf-8") as file:
        for one in messages.hear(Note("<script>alert(1)</script> is the name of a file")):
            file.write(json.dumps({**one, "stage": "encode"}) + "\n")
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> RunFolder:
    """The same folder, to change it."""
    shutil.copytree(finished, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def assert_true(found: ReportResult, out: Path) -> None:
    """The report has the numbers of status and of the metrics."""
    there, told = status(RunFolder(out)).to_json(), found.to_json()
    for name in ("rows", "rows_done", "accepted", "rejected", "captions", "bytes"):
        assert told["encode"][name] == there[name], name
    assert told["encode"]["chunks"] == {"waiting": 0, "running": 0, "written": 5, "again": 0, "failed": 0}
    assert (told["train"]["step"], told["train"]["loss"], told["train"]["heldout_loss"]) == (2, 0.5, 0.75)
    assert told["train"]["learning_rate"] == 2e-4


def test_a_report_has_the_numbers_of_status_and_of_the_metrics(finished: Path) -> None:
    found = report(RunFolder(finished))
    assert_true(found, finished)
    assert found.unknown == ()
    assert found.to_json()["stages"] == {"encode": "done"}
    assert json.loads(json.dumps(found.to_json())) == found.to_json()


def test_a_store_in_buckets_counts_its_rows_and_not_the_numbers_between_them(tmp_path: Path) -> None:
    """Each bucket begins with a new chunk, so some row numbers have no row."""
    workflow = shaped(write_photographs(tmp_path / "photographs"), {"buckets": BUCKETS})
    with daskt2i.Run(workflow, tmp_path / "run", scheduler="serial", progress=False) as run:
        run.encode()
    there, found = status(RunFolder(tmp_path / "run")), report(RunFolder(tmp_path / "run"))
    told = found.to_json()["encode"]
    assert (told["rows"], told["rows_done"], told["chunks"]["written"]) == (there.rows, there.rows, there.chunks)
    assert found.state.estimate_so_far()["bytes_in_all"] == there.bytes, "nothing is left to write"
    assert found.unknown == ()


def test_the_losses_by_noise_level_come_from_the_metrics(copy: RunFolder) -> None:
    looks = [
        {
            "step": step,
            "heldout_loss": 1.0,
            "heldout_loss_ema0.5": 1.0,
            "heldout_loss_t0": 1 / step,
            "heldout_loss_t9": 2.0,
        }
        for step in range(1, 31)
    ]
    copy.write("train/metrics.jsonl", "".join(json.dumps(line) + "\n" for line in looks).encode())
    levels = report(copy).state.by_level
    assert levels.last == (30, {"0": pytest.approx(1 / 30), "9": 2.0})
    assert next(iter(levels)) == (1, {"0": 1.0, "9": 2.0})
    assert len(levels) <= MOST_LEVELS + 1
    assert RunState.from_json(report(copy).state.to_json()).by_level.last == levels.last


EVALUATED = {
    "prompts": 64,
    "seeds": 4,
    "count": 256,
    "all": 0.9,
    "shape": 0.95,
    "intervals": {"all": [0.8574, 0.9309], "shape": [0.91, 0.97]},
    "words": {"shape": {"<b>star</b>": {"count": 40, "share": 0.5, "interval": [0.35, 0.65]}}},
    "fid": 6.1,
    "kid": 0.002,
    "figure_intervals": {"kid": [0.001, 0.003]},
    "published": {"fid": {"U-ViT-S/2": 5.95}},
    "drawn": 256,
    "reference": "val2014.zip",
}


def test_what_evaluate_measured_is_on_the_page_with_intervals_and_by_word(copy: RunFolder, tmp_path: Path) -> None:
    assert "evaluate" not in report(copy).to_json()
    copy.write("reports/evaluate.json", json.dumps(EVALUATED).encode())
    found = report(copy, tmp_path / "page.html")
    assert found.to_json()["evaluate"]["fid"] == 6.1
    said = "right: all 90.0 % (85.7 % to 93.1 %), fid 6.1 (published: U-ViT-S/2 5.95), kid 0.002 (0.001 to 0.003)"
    assert dict(found.view().rows)["evaluate"] == f"{said}; 256 pictures"
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for words in ("Evaluation", "compared with val2014.zip", "85.7 % to 93.1 %", "shape &lt;b&gt;star", "50.0 % of 40"):
        assert words in page, words
    copy.write("reports/evaluate.json", b'["torn')
    assert any("reports/evaluate.json cannot be read" in line for line in report(copy).unknown)


DAMAGE = {"none": None, "empty": b"", "no text": b"\xff\x00" * 50, "half a line": None}


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_whole_events_the_numbers_come_from_receipts_and_one_line_says_what_is_unknown(
    copy: RunFolder, damage: str
) -> None:
    path = copy.local_path(EVENTS)
    if damage == "none":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-30] if damage == "half a line" else DAMAGE[damage] or b"")
    found = report(copy)
    assert_true(found, copy.local_path())
    (line,) = found.unknown
    assert line.startswith("events.jsonl of this folder is not complete")
    assert found.state.parts["encode_image"] > 0
    assert found.state.workers_seen == 1


def test_a_folder_of_an_older_version_has_a_report(tmp_path: Path) -> None:
    shutil.unpack_archive(TESTS / "data" / "run-0.1.zip", tmp_path / "old")
    folder = RunFolder(tmp_path / "old")
    found, there = report(folder), status(folder)
    assert (found.state.rows_done, found.state.accepted, found.state.bytes) == (
        there.rows_done,
        there.accepted,
        there.bytes,
    )
    assert any("events.jsonl" in line for line in found.unknown)
    assert found.view().text()
    assert not folder.exists(EVENTS), "a report writes nothing into the folder"


def test_a_chunk_that_is_gone_since_the_events_is_not_counted(copy: RunFolder) -> None:
    copy.delete("receipts/chunk-0000001.json")
    found = report(copy)
    assert (found.state.rows_done, found.state.chunk_states["waiting"], found.state.strip) == (32, 1, "W.WWW")


def test_unreadable_metrics_are_named_and_the_rest_is_shown(copy: RunFolder) -> None:
    copy.delete("train/metrics.jsonl")
    copy.local_path("train/metrics.jsonl").mkdir()
    found = report(copy)
    assert found.state.rows_done == 40
    assert any("metrics of the training cannot be read" in line for line in found.unknown)


def test_a_summary_fits_80_columns_and_a_notebook_shows_it_without_a_script(finished: Path) -> None:
    found = report(RunFolder(finished))
    file = io.StringIO()
    Console(width=80, file=file).print(result_table(found))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "40: 37 accepted, 3 rejected" in " ".join(text.split())
    assert "<script" not in found._repr_html_()


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "new folder" / "report.html"
    with daskt2i.open_run(finished, progress=False) as run:
        assert run.report(html=path).html == str(path)
    return path.read_text(encoding="utf-8")


def test_the_page_holds_everything_and_asks_for_nothing(page: str) -> None:
    loads = r"<(?:script|img|link|iframe)[^>]*\s(?:src|href)=[\"']?(?!data:)[a-z/]"
    body = page[page.rindex("</head>") :]
    assert re.findall(loads, body) == []
    assert "default-src 'none'" in page
    for word in ("Encode", "Rejected rows", "Training", "Estimate"):
        assert f"{word}" in body
    assert "unreadable-image" in page


def test_the_axis_of_few_chunks_has_whole_numbers() -> None:
    assert Chunks().plot.xaxis[0].ticker.min_interval == 1


def test_text_of_the_data_is_escaped_on_the_page(page: str) -> None:
    assert "<script>alert(1)" not in page
    assert "alert(1)" in page


def without_bokeh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were not installed."""
    for name in [one for one in sys.modules if one.split(".")[0] == "bokeh"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bokeh", None)


def test_without_bokeh_the_page_is_a_table_and_says_so(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_bokeh(monkeypatch)
    found = report(RunFolder(finished), tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "40: 37 accepted, 3 rejected" in text
    assert "<script" not in text
    assert [line for line in found.unknown if "Bokeh cannot draw" in line]


def test_a_folder_of_somebody_else_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StoreError):
        report(RunFolder(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command_prints_one_object(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from daskt2i.workflow import app

    done = CliRunner().invoke(app, ["report", "--out", str(finished), "--json"])
    assert done.exit_code == 0
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["encode"]["rejected"] == {"missing-file": 1, "unreadable-image": 2}


def test_a_killed_stage_is_not_shown_as_running(copy: RunFolder) -> None:
    path = copy.local_path(EVENTS)
    lines = [line for line in path.read_text().splitlines() if '"kind": "end"' not in line]
    path.write_text("\n".join(lines) + "\n")
    found = report(copy)
    assert found.state.stages == {"encode": "stopped"}
    (killed,) = found.unknown
    said = "encode did not tell its end, and no process works on this folder now, so it was killed. Its last message is"
    assert killed.startswith(said)
    with lock.hold(copy, "encode", lambda text: None):
        assert report(copy).state.stages == {"encode": "running"}


def test_a_killed_encode_is_not_running_beside_a_later_stage(copy: RunFolder) -> None:
    path = copy.local_path(EVENTS)
    lines = [line for line in path.read_text().splitlines() if '"kind": "end"' not in line]
    later = Messages("r", "/x").begin("sample")
    path.write_text("\n".join([*lines, json.dumps(later[0])]) + "\n")
    assert report(copy).state.stages == {"encode": "stopped", "sample": "running"}
    later = Messages("r", "/x").begin("train")
    path.write_text("\n".join([*lines, json.dumps(later[0])]) + "\n")
    assert report(copy).state.stages == {"encode": "stopped", "train": "stopped"}


def test_odd_numbers_of_events_do_not_reach_the_json_of_a_report(copy: RunFolder) -> None:
    head = '{"v":1,"run":"x","stage":"encode","at":2,'
    odd = [
        '"kind":"estimate","seconds":NaN,"per_hour":{"a":Infinity,"b":2},"prices":{"a":NaN}',
        '"kind":"workers","workers":1,"threads":1,"memory_limit":null',
        '"kind":"model","device":"cpu","precision":"p","engine":"e","batch":1,"min_psnr":NaN',
        '"kind":"chunks","rejected":{},"states":{},"strip":"W","rate":NaN,"eta":[NaN,1,2],"parts":{"read":Infinity},'
        '"workers":{"w":{"rate":NaN,"memory":-Infinity}},"workers_seen":1,"psnr":{"counts":[],"lowest":NaN},"newest":[]',
        '"kind":"state","state":{"rate":NaN,"estimate":{"bytes":NaN},"workers":{"w":{"rate":Infinity}}}',
    ]
    with copy.local_path(EVENTS).open("a") as file:
        file.writelines(f"{head}{one}}}\n" for one in odd)
    found = report(copy)
    json.dumps(found.to_json(), allow_nan=False)
    assert (found.to_json()["estimate"] or {}).get("forecast", {}).get("seconds") is None
