"""The plan of a whole run shows what will be drawn, and a run whose drawing would fail is refused before it starts."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from builders.runs import tiny_workflow
from rich.console import Console

from daskt2i.display.tables import result_table
from daskt2i.encode.prepare import prepare
from daskt2i.errors import ConfigError
from daskt2i.train.plan import TrainPlan
from daskt2i.train.whole_run import RunPlan, check_whole_run


def plan_of(out: Path, *settings: str) -> RunPlan:
    encode = prepare(tiny_workflow(*settings), out, draw=False)
    workflow = encode.workflow
    return RunPlan(encode, TrainPlan(str(out), 10, 1, 1, workflow.train, workflow.launch))


def test_the_plan_shows_the_prompts_and_how_they_are_drawn(tmp_path: Path) -> None:
    prompts = ["a [red] circle", *(f"star {number}" for number in range(20))]
    ways = ("sample.steps=7", "sample.seed=3", "sample.sampler=ddim", "sample.guidance=3")
    plan = plan_of(tmp_path, f"sample.prompts={prompts}", *ways)
    shown = io.StringIO()
    Console(width=80, file=shown).print(result_table(plan))
    for text in (shown.getvalue(), plan.view().text()):
        assert "21: 7 steps of ddim, guidance 3, seed 3" in text
        assert "a [red] circle" in text
        assert "star 14" in text
        assert "star 15" not in text
        assert "and 5 more" in text
    how = {"seed": 3, "steps": 7, "guidance": 3.0, "sampler": "ddim"}
    assert plan.to_json()["sample"] == {"prompts": prompts, **how}


def test_a_seed_that_torch_does_not_take_is_refused_before_the_encode(tmp_path: Path) -> None:
    wrong = plan_of(tmp_path, f"sample.seed={2**63 - 1}")
    with pytest.raises(ConfigError, match="Give a number from 0, below"):
        check_whole_run(wrong.encode)
    check_whole_run(plan_of(tmp_path, "sample.seed=5").encode)
