"""The first notebook runs from its top to its end, and shows at each step what its text says.

With `--pages`, as in `.ci/run`, on few rows and few steps. With `--slow` also as it is.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from builders.kernels import run_notebook
from builders.runs import TINY

from daskt2i.cli.front import parse_sets

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "first-steps.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]

SMALL = f'daskt2i.Run("demo", scheduler="local:1", settings={parse_sets(TINY)!r})'


def test_it_is_short_and_is_kept_without_outputs() -> None:
    assert len(CODE) <= 10
    assert all(1 <= len([line for line in code.splitlines() if line]) <= 3 for code in CODE)
    assert all(cell["outputs"] == [] for cell in CELLS if cell["cell_type"] == "code")
    assert "\n".join(CODE).count("import ") == 1


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["small", pytest.param("whole", marks=pytest.mark.timeout(3600))])
def outputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each cell shows, by its code."""
    small = request.param == "small"
    cells = {code: code.replace('daskt2i.Run("demo")', SMALL) if small else code for code in CODE}
    assert not small or cells != dict(zip(CODE, CODE, strict=True))
    return run_notebook(cells, tmp_path_factory.mktemp("notebook"))


def shown(outputs: dict[str, list[Any]], begin: str) -> tuple[str, str]:
    """Text and HTML of the result of the cell that is this, or begins so."""
    (code,) = [code for code in outputs if code == begin] or [code for code in outputs if code.startswith(begin)]
    results = [one for one in outputs[code] if one["output_type"] == "execute_result"]
    assert len(results) == 1, outputs[code]
    return results[0]["data"]["text/plain"], results[0]["data"]["text/html"]


def test_no_cell_fails_or_prints(outputs: dict[str, list[Any]]) -> None:
    kinds = {one["output_type"] for listed in outputs.values() for one in listed}
    assert kinds == {"display_data", "execute_result"}


def test_each_stage_shows_one_line_and_one_table(outputs: dict[str, list[Any]]) -> None:
    for begin in ("run.encode", "run.train"):
        (code,) = [code for code in outputs if code.startswith(begin)]
        assert [one["output_type"] for one in outputs[code]] == ["display_data", "execute_result"]
        line = outputs[code][0]["data"]["text/plain"]
        assert re.fullmatch(r"(encoded|trained) [\d,]+ (rows|steps) in .*", line)


def test_outputs_hold_no_escape_codes_scripts_or_requests(outputs: dict[str, list[Any]]) -> None:
    for code, listed in outputs.items():
        text = json.dumps([dict(one) for one in listed])
        assert "\\u001b" not in text, code
        if code != "run.store":  # xarray's and Dask's own
            assert "<script" not in text, code
            assert re.search(r'(src|href)=\\?"https?://(?!127\.0\.0\.1)', text) is None, code


def test_the_plan_the_store_and_the_report_are_tables(outputs: dict[str, list[Any]]) -> None:
    assert "2 workers" in shown(outputs, "run.plan")[0] or "1 worker" in shown(outputs, "run.plan")[0]
    assert "<table>" in shown(outputs, "run.plan")[1]
    assert "latent_mean" in shown(outputs, "run.store")[0]
    assert "insights.html" in shown(outputs, "run.insights")[0]


def test_training_shows_its_loss_as_a_curve(outputs: dict[str, list[Any]]) -> None:
    text, html = shown(outputs, "run.train")
    assert re.search(r"loss +\d", text)
    assert "<polyline" in html


def test_pictures_show_themselves_with_their_prompts(outputs: dict[str, list[Any]]) -> None:
    _, html = shown(outputs, "run.sample")
    assert html.count("<img ") == 8
    assert html.count("a red circle on a blue background (") == 2 * 4, "below each, and as its alternative text"


def test_the_run_shows_how_far_it_is(outputs: dict[str, list[Any]]) -> None:
    text, html = shown(outputs, "run")
    assert "accepted" in text
    assert "<img " in html
