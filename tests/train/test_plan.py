"""The plan of a training says what its numbers count."""

from __future__ import annotations

import pytest

from daskt2i.config.workflow_file import load_workflow
from daskt2i.train.plan import TrainPlan


@pytest.mark.parametrize(
    ("ranks", "threads", "expected"),
    [
        (2, 1, "2 ranks (processes) with 1 thread each"),
        (1, 2, "1 rank (a process) with 2 threads"),
        (0, 0, "one rank (a process) on each worker, with all threads of its worker"),
    ],
)
def test_ranks_and_the_threads_of_each_are_told_apart(ranks: int, threads: int, expected: str) -> None:
    workflow = load_workflow("demo")
    plan = TrainPlan("out", 100, ranks, threads, workflow.train, workflow.launch)
    assert dict(plan.view().rows)["ranks"] == expected


@pytest.mark.parametrize(
    ("done", "words"),
    [(0, "epochs"), (40, "goes on from the checkpoint of step 40"), (300, "300 steps are done, so nothing is left")],
)
def test_a_plan_says_the_model_where_checkpoints_go_and_from_which_one_it_goes_on(done: int, words: str) -> None:
    workflow = load_workflow("demo", {"train.steps": 300})
    rows = dict(TrainPlan("out", 100, 2, 1, workflow.train, workflow.launch, done=done).view().rows)
    assert rows["model"] == "demo, about 4.1 M parameters"
    assert rows["checkpoints"].endswith("kept in train/checkpoints")
    assert rows["steps"].endswith(words)


def test_a_model_of_your_own_has_no_number_of_parameters_in_the_plan() -> None:
    workflow = load_workflow("demo", {"train.model": {"preset": None, "config": {"layers_per_block": 1}}})
    rows = dict(TrainPlan("out", 100, 2, 1, workflow.train, workflow.launch).view().rows)
    assert rows["model"] == "UNet of train.model.config"


@pytest.mark.parametrize(
    ("schedule", "words"),
    [("cosine", "then a cosine down"), ("constant", "then constant"), ("wsd", "then constant, and down at the end")],
)
def test_the_plan_says_how_the_rate_goes_on_after_the_warm_up(schedule: str, words: str) -> None:
    workflow = load_workflow("demo", {"train.schedule": schedule})
    rows = dict(TrainPlan("out", 100, 2, 1, workflow.train, workflow.launch).view().rows)
    assert rows["rate"] == f"0.004 after 10 steps, {words}"
