"""What the report of a run tells a user to do works."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from builders.advice import told
from builders.workflows import small_settings

import daskt2i


def test_an_encode_and_another_file_give_the_report_that_a_message_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] == "bokeh"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bokeh", None)  # a page without figures takes less time
    run = daskt2i.Run(small_settings(), tmp_path / "run", scheduler="serial", progress=False)
    with told("dashboard/report/rebuild.py:rebuild StoreMissing"):
        run.report()
    run.encode()
    assert run.report().state.rows_done == 4
    folder = tmp_path / "folder"
    folder.mkdir()
    with told("dashboard/report/page_file.py:writing_page StoreError"):
        run.report(html=folder)
    assert list(folder.iterdir()) == []
    assert Path(run.report(html=folder / "report.html").html).is_file()
    settings = tmp_path / "run" / "workflow.yaml"
    before = settings.read_bytes()
    with told("dashboard/report/result.py:_refuse StoreError"):
        run.report(html=settings)
    assert settings.read_bytes() == before
    assert Path(run.report(html=tmp_path / "run" / "report.html").html).is_file()


def test_a_page_takes_the_place_of_no_pipe_and_no_file_of_a_similar_name(tmp_path: Path) -> None:
    run = daskt2i.Run(small_settings(), tmp_path / "run", scheduler="serial", progress=False)
    run.encode()
    os.mkfifo(tmp_path / "pipe")
    with told("dashboard/report/result.py:_refuse StoreError"):
        run.report(html=tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / ".page.html.part").write_text("mine")
    (tmp_path / "real.html").write_text("old")
    (tmp_path / "page.html").symlink_to("real.html")
    run.report(html=tmp_path / "page.html")
    assert (tmp_path / ".page.html.part").read_text() == "mine"
    assert (tmp_path / "page.html").is_symlink()
    assert (tmp_path / "real.html").read_text() != "old"


def test_events_that_cannot_be_read_cost_one_line_of_the_report(tmp_path: Path) -> None:
    run = daskt2i.Run(small_settings(), tmp_path / "run", scheduler="serial", progress=False)
    run.encode()
    events = tmp_path / "run" / "events.jsonl"
    odd = [
        '{"kind":"note","at":1e300,"text":"x"',
        '{"kind":"estimate","at":1,"seconds":null',
        '{"kind":"state","at":1,"state":{"stages":5}',
    ]
    with events.open("a") as file:
        file.writelines(f'{one},"v":1,"run":"x","stage":"encode"}}\n' for one in odd)
    with events.open("a") as file:
        file.write('{"v":1,"run":"x","stage":"encode","kind":"note","at":2,"text":"\\u001b[31mred\\u202e"}\n')
    text = run.report().view().text()
    assert "red" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    events.unlink()
    events.mkdir()
    found = run.report()
    assert found.state.rows_done == 4
    assert len(found.unknown) == 1
    events.rmdir()
    os.mkfifo(events)
    assert run.report().state.rows_done == 4


def test_events_of_an_earlier_run_do_not_call_a_later_one_failed(tmp_path: Path) -> None:
    run = daskt2i.Run(small_settings(), tmp_path / "run", scheduler="serial", progress=False)
    run.encode()
    events = tmp_path / "run" / "events.jsonl"
    begin = events.read_text().splitlines()[0]
    end = '{"v":1,"run":"x","stage":"encode","kind":"end","at":2,"how":"failed","error":"The disk is full."}'
    events.write_text(f"{begin}\n{end}\n")
    found = run.report()
    assert "disk" not in found.view().text()
    assert "Chunks were written after the end of events.jsonl" in found.view().text()


def test_a_run_that_the_user_stopped_is_not_called_failed(tmp_path: Path) -> None:
    run = daskt2i.Run(small_settings(), tmp_path / "run", scheduler="serial", progress=False)
    run.encode()
    events = tmp_path / "run" / "events.jsonl"
    with events.open("a") as file:
        file.write('{"v":1,"run":"x","stage":"encode","kind":"end","at":2,"how":"stopped","error":"Stopped."}\n')
    text = run.report().view().text()
    assert "encode: Stopped." in text
    assert "FAILED" not in text
