"""The comparison of two recordings: what it tells, and what it lets pass.

Does not cover: recording, which takes minutes (`tests/golden/record.py`).
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent / "golden"

OLD = {"demo/exit": 0, "demo/stdout": "one\ntwo\nthree", "demo/json:rows": 20, "demo/json:out": "<scratch>/demo"}


def compare(folder: Path, new: dict[str, Any], allow: str | None = None) -> subprocess.CompletedProcess[str]:
    for name, kept in (("before", OLD), ("after", new)):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "golden.json").write_text(json.dumps(kept))
    more: list[str] = []
    if allow is not None:
        (folder / "allow").write_text(allow)
        more = ["--allow", str(folder / "allow")]
    command = [sys.executable, str(HERE / "compare.py"), str(folder / "before"), str(folder / "after"), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_equal_recordings_have_no_difference(tmp_path: Path) -> None:
    done = compare(tmp_path, dict(reversed(OLD.items())))
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"demo/json:rows": 19}, "demo/json:rows  20  ->  19\n"),
        ({"demo/json:rows": None}, "demo/json:rows  20  ->  null\n"),
        ({"demo/json:rows": "20"}, 'demo/json:rows  20  ->  "20"\n'),
        ({"demo/stdout": "one\ntwo and a half\nthree"}, 'demo/stdout  "two"  ->  "two and a half"\n'),
        ({"demo/stdout": "one\ntwo"}, 'demo/stdout  "three"  ->  "(nothing)"\n'),
        ({"demo/new": True}, 'demo/new  "(nothing)"  ->  true\n'),
    ],
    ids=["value", "null", "kind", "line", "line gone", "new"],
)
def test_a_difference_is_one_line_and_exit_code_1(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    done = compare(tmp_path, OLD | change)
    assert (done.returncode, done.stdout) == (1, line)


def test_a_value_that_went_is_a_difference(tmp_path: Path) -> None:
    done = compare(tmp_path, {key: value for key, value in OLD.items() if key != "demo/exit"})
    assert (done.returncode, done.stdout) == (1, 'demo/exit  0  ->  "(nothing)"\n')


def test_keys_that_are_meant_to_differ_pass_and_the_others_do_not(tmp_path: Path) -> None:
    allow = "# of the next version\n^demo/json:\n\n^nowhere\n"
    done = compare(tmp_path, OLD | {"demo/json:rows": 19}, allow)
    assert (done.returncode, done.stdout) == (0, "")
    assert "^nowhere fits no difference" in done.stderr
    done = compare(tmp_path, OLD | {"demo/json:rows": 19, "demo/exit": 1}, allow)
    assert (done.returncode, done.stdout) == (1, "demo/exit  0  ->  1\n")


@pytest.mark.parametrize("name", ["record.py", "compare.py"])
def test_it_imports_nothing_of_what_it_compares(name: str) -> None:
    tree = ast.parse((HERE / name).read_text(encoding="utf-8"))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert [module for module in imported if module.startswith("daskt2i")] == []
