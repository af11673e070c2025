"""Failures are blamed on a worker or on a chunk, and a run ends when no worker does better."""

from __future__ import annotations

import pytest

from daskt2i.faults.kinds import Kind
from daskt2i.faults.suspects import Step, Suspects


def failures(suspects: Suspects, *given: tuple[int, str], kind: Kind = Kind.OTHER, left: int = 4) -> list[Step]:
    return [suspects.failed(chunk, worker, kind, "no", left) for chunk, worker in given]


def test_a_worker_that_fails_three_chunks_in_a_row_is_set_aside_and_its_tries_do_not_count() -> None:
    suspects = Suspects(100)
    assert failures(suspects, (0, "a:1"), (1, "a:1"), (2, "a:1")) == [Step.COUNT, Step.COUNT, Step.AVOID]
    assert suspects.excused("a:1") == [0, 1, 2]
    assert suspects.aside == {"a:1": "no"}
    assert failures(suspects, (3, "a:1")) == [Step.EXCUSE]
    assert suspects.in_a_row == 0


def test_a_success_between_them_clears_a_worker() -> None:
    suspects = Suspects(100)
    failures(suspects, (0, "a:1"), (1, "a:1"))
    suspects.finished(2, "a:1")
    assert failures(suspects, (3, "a:1"), (3, "a:1"), (4, "a:1")) == [Step.COUNT] * 3


def test_the_last_worker_is_not_set_aside_and_the_run_ends_after_four() -> None:
    steps = failures(Suspects(100), *((chunk, "a:1") for chunk in range(4)), left=1)
    assert steps == [Step.COUNT, Step.COUNT, Step.COUNT, Step.END]


def test_a_run_of_few_chunks_tries_all_of_them() -> None:
    assert Step.END not in failures(Suspects(4), *((chunk, "a:1") for chunk in range(4)), left=1)


def test_a_chunk_that_fails_on_a_good_worker_too_absolves_the_first() -> None:
    suspects = Suspects(100)
    suspects.finished(9, "b:1")
    failures(suspects, (0, "a:1"), (1, "a:1"), (2, "a:1"))
    suspects.excused("a:1")
    assert suspects.absolved(1, "c:1") is None, "c has not finished any chunk"
    assert suspects.absolved(1, "b:1") == "a:1"
    assert suspects.aside == {}
    assert suspects.absolved(2, "b:1") is None


def test_a_chunk_that_another_worker_finishes_leaves_the_first_aside() -> None:
    suspects = Suspects(100)
    suspects.finished(9, "b:1")
    failures(suspects, (0, "a:1"), (1, "a:1"), (2, "a:1"))
    suspects.finished(1, "b:1")
    assert suspects.absolved(1, "b:1") is None
    assert list(suspects.aside) == ["a:1"]


@pytest.mark.parametrize("kind", [Kind.TRANSPORT, Kind.DEVICE])
def test_a_worker_that_waited_in_vain_while_others_finished_is_set_aside_at_once(kind: Kind) -> None:
    suspects = Suspects(100)
    suspects.finished(9, "a:1")
    suspects.finished(8, "b:1")
    assert failures(suspects, (0, "a:1"), kind=kind) == [Step.AVOID]


def test_when_every_worker_waited_in_vain_the_run_ends() -> None:
    steps = failures(Suspects(2), (0, "a:1"), (1, "a:1"), (1, "b:1"), kind=Kind.TRANSPORT, left=2)
    assert steps == [Step.COUNT, Step.COUNT, Step.END]


def test_one_worker_without_the_images_is_set_aside_and_several_end_the_run() -> None:
    steps = failures(Suspects(9), (0, "a:1"), (1, "b:1"), (2, "c:1"), kind=Kind.SETUP, left=3)
    assert steps == [Step.AVOID, Step.AVOID, Step.END]
    assert failures(Suspects(9), (0, "a:1"), kind=Kind.SETUP, left=1) == [Step.END]


def test_an_error_of_the_setup_ends_the_run_where_all_processes_are_of_one_machine() -> None:
    assert failures(Suspects(9, replaceable=True), (0, "a:1"), kind=Kind.SETUP) == [Step.END]


def test_a_third_worker_of_a_host_with_two_bad_ones_is_set_aside_at_once() -> None:
    suspects = Suspects(100)
    suspects.finished(9, "good:1")
    for worker in ("bad:1", "bad:2"):
        failures(suspects, *((chunk, worker) for chunk in range(3)), left=8)
    assert failures(suspects, (5, "bad:3"), left=8) == [Step.AVOID]
    assert failures(suspects, (6, "good:2"), left=8) == [Step.COUNT]


def test_a_final_error_ends_the_run_and_unknown_workers_are_never_set_aside() -> None:
    assert failures(Suspects(9), (0, "a:1"), kind=Kind.FINAL) == [Step.END]
    assert Step.AVOID not in failures(Suspects(100), *((chunk, "") for chunk in range(9)))


def test_new_processes_that_fail_like_the_old_ones_end_the_run() -> None:
    suspects, steps = Suspects(100, replaceable=True), list[Step]()
    for chunk in range(60):
        worker = f"a:{len(suspects.aside)}"
        steps.append(suspects.failed(chunk, worker, Kind.OTHER, "no", 2))
        if steps[-1] is Step.AVOID:
            suspects.excused(worker)
        if steps[-1] is Step.END:
            break
    assert steps.count(Step.AVOID) == 2
    assert len(steps) == 3 + 3 + 8


def test_a_chunk_is_excused_twice_at_the_most() -> None:
    suspects = Suspects(100)
    excused = []
    for worker in ("a:1", "b:1", "c:1", "d:1"):
        steps = failures(suspects, (0, worker), (1, worker), (2, worker), left=9)
        assert steps[-1] is Step.AVOID
        excused.append(suspects.excused(worker))
    assert excused == [[0, 1, 2], [0, 1, 2], [], []]


def test_a_chunk_that_failed_elsewhere_before_says_nothing_about_the_next_worker() -> None:
    suspects = Suspects(100)
    failures(suspects, (0, "a:1"), (1, "a:1"))
    assert failures(suspects, (0, "b:1"), (1, "b:1"), (2, "b:1")) == [Step.COUNT] * 3
    assert failures(suspects, (3, "b:1"), (4, "b:1")) == [Step.COUNT, Step.AVOID]
    assert suspects.excused("b:1") == [2, 3, 4]
