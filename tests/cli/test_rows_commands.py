"""`append`, `remove` and `replace` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.command_line import one_error, one_object, run
from builders.workflows import fake_settings, finish, write_workflow


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run folder of 20 rows, beside a workflow of 24 rows and a file of ids."""
    finish(fake_settings(rows=20), tmp_path / "run")
    write_workflow(tmp_path / "grown.yaml", rows=24)
    (tmp_path / "ids.txt").write_text("3\n00000004.bmp\nnobody\n", encoding="utf-8")
    return tmp_path / "run"


def test_rows_are_appended_replaced_and_removed(out: Path) -> None:
    grown = ["--workflow", str(out.parent / "grown.yaml"), "--out", str(out)]
    serial, ids = ["--scheduler", "serial"], ["--ids", str(out.parent / "ids.txt")]
    plan = one_object(run("append", *grown, *serial, "--dry-run", "--json"))
    assert (plan["dry_run"], plan["new"], plan["known"], plan["rows"]) == (True, 4, 20, 20)
    done = one_object(run("append", *grown, *serial, "--json"))
    assert (done["part"], done["accepted"], done["rows"], done["chunks"]) == ("0001", 4, 24, {"done": 1, "skipped": 0})
    done = one_object(run("replace", *grown, *serial, *ids, "--json"))
    assert (done["accepted"], done["removed"], done["unknown"], done["rows"]) == (2, 2, ["nobody"], 24)
    done = one_object(run("remove", "--out", str(out), *ids, "--json"))
    assert (done["named"], done["removed"], done["gone"], done["rows"]) == (3, 2, 2, 22)
    shown = run("remove", "--out", str(out), "--where", "image_id > 22")
    assert shown.returncode == 0
    assert "20 accepted rows are in the store" in shown.stdout


def test_a_command_without_rows_ends_with_one_error(out: Path) -> None:
    assert "give one of them (--ids, --where)" in one_error(run("remove", "--out", str(out)))
    assert "cannot be read" in one_error(run("remove", "--out", str(out), "--ids", "none.txt"))
