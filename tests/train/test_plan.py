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
