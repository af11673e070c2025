"""What the report of a run tells a user to do works."""

from __future__ import annotations

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
    with told("dashboard/report/result.py:_writing StoreError"):
        run.report(html=folder)
    assert list(folder.iterdir()) == []
    assert Path(run.report(html=folder / "report.html").html).is_file()
