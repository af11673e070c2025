"""The limits of retries, as pure functions. These tests start no process."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

from daskt2i import retries
from daskt2i.executors.attempts import Attempts, lost
from daskt2i.launch.launcher import launch

TOP = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("deaths", "suspect"), [(0, False), (1, False), (2, False), (3, True), (4, True)])
def test_an_item_is_suspected_after_three_deaths(deaths: int, suspect: bool) -> None:
    assert retries.is_suspect(deaths) is suspect


def test_an_item_whose_worker_died_is_drawn_before_fresh_ones_until_it_is_a_suspect() -> None:
    books = Attempts("abc")
    assert books.draw() == (0, "a")
    for _ in range(2):
        books.died([0])
        assert (books.draw(), list(books.suspects)) == ((0, "a"), [])
    books.died([0])
    assert (books.draw(), list(books.suspects)) == ((1, "b"), [0])


def test_the_message_of_a_lost_item_names_the_limit() -> None:
    assert f"died {retries.ALLOWED_DEATHS} times" in str(lost("item"))


@pytest.mark.parametrize(("attempt", "seconds"), [(0, 2.0), (1, 4.0), (2, 6.0)])
def test_the_pause_before_a_round_grows(attempt: int, seconds: float) -> None:
    assert retries.pause(attempt) == seconds


@pytest.mark.parametrize(
    ("in_a_row", "workers", "open_chunks", "hopeless"),
    [
        (3, 1, 100, False),
        (4, 1, 100, True),
        (3, 0, 100, False),
        (4, 0, 100, True),
        (7, 2, 100, False),
        (8, 2, 100, True),
        (4, 1, 5, True),
        (4, 1, 4, False),
        (5, 2, 5, False),
    ],
    ids=[
        "one failure short",
        "four in a row",
        "no worker counted, one short",
        "no worker counted",
        "of two workers, one short",
        "of two workers",
        "one chunk more than the limit",
        "all chunks have failed",
        "fewer chunks than the limit",
    ],
)
def test_a_run_stops_after_too_many_failures_in_a_row(
    in_a_row: int, workers: int, open_chunks: int, hopeless: bool
) -> None:
    assert retries.is_hopeless(in_a_row, workers, open_chunks) is hopeless


@pytest.mark.parametrize(
    ("size", "sizes"), [(1, [1]), (2, [2, 1]), (32, [32, 16, 8, 4, 2, 1]), (7, [7, 3, 1])], ids=str
)
def test_a_batch_is_halved_down_to_one(size: int, sizes: list[int]) -> None:
    tried = [size]
    while (smaller := retries.smaller_batch(tried[-1])) is not None:
        tried.append(smaller)
    assert tried == sizes


@pytest.mark.parametrize(
    ("so_far", "before", "step", "then"),
    [(0, -1, -1, 1), (1, 40, 40, 2), (2, 40, 60, 0), (2, -1, 20, 0)],
    ids=["none was written", "none beyond the last", "a further one", "the first"],
)
def test_a_new_checkpoint_resets_the_count_of_attempts(so_far: int, before: int, step: int, then: int) -> None:
    assert retries.attempts_without_progress(so_far, before, step) == then


def test_the_shipped_clusters_allow_as_many_deaths_as_the_other_executors() -> None:
    for name in ("local", "simulation"):
        said = yaml.safe_load((TOP / f"clusters/{name}.yaml").read_text(encoding="utf-8"))
        assert said["config"]["distributed.scheduler.allowed-failures"] == retries.ALLOWED_DEATHS


def test_a_workflow_and_a_launch_by_hand_have_the_same_number_of_attempts() -> None:
    defaults = yaml.safe_load((TOP / "daskt2i/config/defaults.yaml").read_text(encoding="utf-8"))
    assert defaults["daskt2i"]["launch"]["max_restarts"] == retries.LAUNCH_ATTEMPTS - 1
    assert inspect.signature(launch).parameters["attempts"].default == retries.LAUNCH_ATTEMPTS
