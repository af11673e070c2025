"""A run in a real JupyterLab: cells are run in a browser, stopped, left alone, and their kernel is restarted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders.lab import Lab, jupyterlab
from builders.workflows import fake_data

pytestmark = pytest.mark.slow

ROWS = 120
BEGIN, ENCODE, STATUS = range(3)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A notebook that encodes for some seconds."""
    (tmp_path / "slow.yaml").write_text(json.dumps(fake_data(rows=ROWS, rows_per_chunk=4, image={"seconds": 0.1})))
    cells = [
        'import daskt2i\nrun = daskt2i.Run("slow.yaml", "run", scheduler="local:1")\nrun',
        "run.encode()",
        "run.status()",
    ]
    with jupyterlab(tmp_path, cells) as opened:
        opened.run(BEGIN)
        yield opened


def rows_done(lab: Lab) -> int:
    """The number of rows in the line of progress."""
    found = [re.search(rf"(\d+) of {ROWS} rows", text) for text in lab.shown(ENCODE)]
    return max((int(match[1]) for match in found if match), default=0)


def encode_until(lab: Lab, rows: int) -> None:
    """Run the cell that encodes, until so many rows are done."""
    lab.start(ENCODE)
    lab.wait(lambda: rows_done(lab) >= rows, "the line of progress does not move")


def test_the_stop_button_ends_the_cell_with_one_sentence_and_the_same_cell_goes_on(lab: Lab) -> None:
    encode_until(lab, 8)
    assert "images/s" in lab.shown(ENCODE)[0]
    lab.stop()
    lab.wait(lambda: not lab.running(ENCODE), "the cell does not stop")
    lab.wait(lambda: len(lab.shown(ENCODE)) == 3, "the outputs are not there")
    line, traceback, said = lab.shown(ENCODE)
    assert re.fullmatch(rf"encoding was stopped after .*: \d+ of {ROWS} rows are done", line.strip())
    assert traceback.strip() == "Traceback", "it is folded"
    assert re.fullmatch(r"Interrupted: Stopped\. .* Encode again to continue with the other chunks\.", said.strip())
    stopped = rows_done(lab)
    lab.run(ENCODE)
    line, table = lab.shown(ENCODE)
    before = int(re.search(r"; (\d+) were encoded before", line)[1])  # type: ignore[index]
    assert stopped <= before < ROWS
    assert f"{ROWS} accepted" in table.replace("\n", " ") or f"{ROWS}: {ROWS} accepted" in table


def test_a_kernel_restart_in_the_middle_loses_no_finished_chunk(lab: Lab) -> None:
    encode_until(lab, 8)
    done = rows_done(lab)
    lab.restart()
    lab.run(BEGIN)
    assert f"of {ROWS}" in lab.shown(BEGIN)[0]
    lab.run(ENCODE)
    line, table = lab.shown(ENCODE)
    assert int(re.search(r"; (\d+) were encoded before", line)[1]) >= done  # type: ignore[index]
    assert "0 failed" in table


def test_an_encode_goes_on_while_the_page_is_closed_and_the_cell_then_shows_its_result(lab: Lab) -> None:
    encode_until(lab, 4)
    lab.leave()
    lab.open()
    lab.run(STATUS)  # the kernel answers when the encode ends
    assert "The encode is complete" in lab.shown(STATUS)[0]
    lab.run(ENCODE)
    line, table = lab.shown(ENCODE)
    assert line.strip() == f"all {ROWS} rows were encoded before"
    assert "0 failed" in table
