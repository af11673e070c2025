"""The notebooks of the documentation: they are short and plain, their saved outputs fit into the pages, and they run.

With `--pages`, as in `.ci/run`, two run on few rows and steps. With `--slow` all do, and the first one as it is, too.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.kernels import run_notebook
from builders.runs import TINY

from daskt2i.cli.front import parse_sets

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"

CAME_FOR = {
    "first-steps": set(),
    "your-own-data": set(),
    "a-cluster": {"distributed"},
    "latents-to-another-trainer": {"numpy", "torch"},
    "look-at-a-data-set": {"pandas"},
}
"""Notebook -> packages that a reader of it came for. Any other import but daskt2i is plumbing."""

MOST_BYTES = 300_000

FEW = {key: value for key, value in parse_sets(TINY).items() if not key.startswith("scenes")}
ROWS = {"scenes.rows": 20, **FEW}
SMALL = {
    "first-steps": {'daskt2i.Run("demo")': f'daskt2i.Run("demo", scheduler="local:1", settings={ROWS!r})'},
    "your-own-data": {
        "rows=120": "rows=20",
        "rows=32": "rows=4",
        'captions="photos/captions.json",': f'captions="photos/captions.json", settings={FEW!r},',
    },
    "a-cluster": {'{"scenes.rows": 300, "train.steps": 40}': repr(ROWS)},
    "latents-to-another-trainer": {
        '{"scenes.rows": 300}': repr({**ROWS, "scenes.rows": 40}),
        "range(120)": "range(12)",
    },
    "look-at-a-data-set": {'{"scenes.rows": 400}': repr({**ROWS, "scenes.rows": 40})},
}
"""Notebook -> changes of its code that make it small."""


def cells_of(name: str) -> list[dict[str, Any]]:
    notebook: dict[str, Any] = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def code_of(name: str) -> list[str]:
    return ["".join(cell["source"]) for cell in cells_of(name)]


def plumbing(code: str, came_for: set[str]) -> Iterator[str]:
    """Lines that serve the program and not the reader."""
    for node in ast.walk(ast.parse(code)):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
        yield from (name for name in names if name.partition(".")[0] not in {"daskt2i", *came_for})
        if isinstance(node, ast.Try | ast.With | ast.AsyncWith | ast.AsyncFunctionDef | ast.Await):
            yield type(node).__name__
        elif isinstance(node, ast.Attribute) and node.attr in ("close", "environ", "shutdown", "filterwarnings"):
            yield f".{node.attr}"


def test_each_notebook_is_known_here_and_listed_on_the_page() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == CAME_FOR.keys() == SMALL.keys()
    page = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert all(f"]({name}.ipynb)" in page and f"\n{name}\n" in page for name in CAME_FOR)


@pytest.mark.parametrize("name", CAME_FOR)
def test_a_notebook_is_short_and_has_no_plumbing(name: str) -> None:
    code = code_of(name)
    assert len(code) <= 12
    assert [found for one in code for found in plumbing(one, CAME_FOR[name])] == []
    assert not any(one.lstrip().startswith(("!", "%")) for one in code)


@pytest.mark.parametrize(
    "line",
    ["import os", "from asyncio import run", "run.close()", "try:\n    1\nfinally:\n    2", "with client:\n    pass"],
)
def test_plumbing_is_recognised(line: str) -> None:
    assert list(plumbing(line, {"numpy"})) != []
    assert list(plumbing("import numpy as np\nimport daskt2i\nfrom daskt2i.sources import x", {"numpy"})) == []


@pytest.mark.parametrize("name", CAME_FOR)
def test_saved_outputs_are_small_without_errors_paths_addresses_and_requests(name: str) -> None:
    assert (FOLDER / f"{name}.ipynb").stat().st_size < MOST_BYTES
    outputs = [output for cell in cells_of(name) for output in cell["outputs"]]
    assert len(outputs) > 3
    assert {output["output_type"] for output in outputs} <= {"display_data", "execute_result", "stream"}
    assert {output.get("name") for output in outputs} <= {None, "stdout"}
    text = json.dumps(outputs)
    assert re.findall(r"[^\w.](/(?:tmp|home|root|work|Users|usr|opt)/[\w./-]*|[A-Z]:\\\\)", text) == []
    assert re.findall(r"\d+\.\d+\.\d+\.\d+(?::\d+)?", text) == []
    assert re.findall(r"(?:src|href)=[\\\"']+https?://", text) == []
    assert "<script" not in text
    assert "\\u001b" not in text


@pytest.fixture(
    scope="module",
    params=[*SMALL, pytest.param("whole", marks=pytest.mark.timeout(3600))],
)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, list[Any]]]:
    """The name of a notebook, and what each of its cells shows, by its code."""
    name = "first-steps" if request.param == "whole" else request.param
    cells = {code: code for code in code_of(name)}
    for old, new in () if request.param == "whole" else SMALL[name].items():
        assert any(old in code for code in cells), old
        cells = {code: small.replace(old, new) for code, small in cells.items()}
    return name, run_notebook(cells, tmp_path_factory.mktemp("notebook"))


def shown(outputs: dict[str, list[Any]], begin: str) -> tuple[str, str]:
    """Text and HTML of the result of the cell that is this, or begins so."""
    (code,) = [code for code in outputs if code == begin] or [code for code in outputs if code.startswith(begin)]
    results = [one for one in outputs[code] if one["output_type"] == "execute_result"]
    assert len(results) == 1, outputs[code]
    return results[0]["data"]["text/plain"], results[0]["data"].get("text/html", "")


@pytest.mark.slow
def test_a_notebook_runs_and_each_cell_shows_what_was_saved(ran: tuple[str, dict[str, list[Any]]]) -> None:
    """A line of progress is a display. One that ends within half a second is not shown."""
    name, outputs = ran
    for cell, (code, listed) in zip(cells_of(name), outputs.items(), strict=True):
        told = [one for one in listed if one.get("name") != "stderr"]  # Dask warns of a port that is taken
        new, saved = ({one["output_type"] for one in found} for found in (told, cell["outputs"]))
        assert new ^ saved <= {"display_data"}, (code, listed)
        text = json.dumps([dict(one) for one in listed])
        assert "\\u001b" not in text, code
        if "store" not in code:  # xarray's and Dask's own
            assert "<script" not in text, code
            assert re.search(r'(src|href)=\\?"https?://(?!127\.0\.0\.1)', text) is None, code


@pytest.mark.slow
def test_each_stage_of_the_first_notebook_shows_one_line_and_one_table(ran: tuple[str, dict[str, list[Any]]]) -> None:
    name, outputs = ran
    if name != "first-steps":
        pytest.skip("about the first notebook")
    for begin in ("run.encode", "run.train"):
        (code,) = [code for code in outputs if code.startswith(begin)]
        assert [one["output_type"] for one in outputs[code]] == ["display_data", "execute_result"]
        line = outputs[code][0]["data"]["text/plain"]
        assert re.fullmatch(r"(encoded|trained) [\d,]+ (rows|steps) in .*", line)
    assert "2 workers" in shown(outputs, "run.plan")[0] or "1 worker" in shown(outputs, "run.plan")[0]
    assert "<table>" in shown(outputs, "run.plan")[1]
    assert "latent_mean" in shown(outputs, "run.store")[0]
    assert "insights.html" in shown(outputs, "run.insights")[0]
    text, html = shown(outputs, "run.train")
    assert re.search(r"loss +\d", text)
    assert "<polyline" in html
    _, html = shown(outputs, "run.sample")
    assert html.count("<img ") == 8
    assert html.count("a red circle on a blue background (") == 2 * 4, "below each, and as its alternative text"
    text, html = shown(outputs, "run")
    assert "accepted" in text
    assert "<img " in html


@pytest.mark.slow
def test_a_damaged_picture_of_the_users_data_is_rejected_and_then_repaired(
    ran: tuple[str, dict[str, list[Any]]],
) -> None:
    name, outputs = ran
    if name != "your-own-data":
        pytest.skip("about another notebook")
    assert "unreadable-image" in shown(outputs, "rows = run.manifest")[0]
    (again,) = [code for code in outputs if "retry_rejected" in code]
    assert re.search(r"accepted, 0 rejected", shown(outputs, again)[0])
    assert "in order" in shown(outputs, "run.verify")[0]
