"""The rate of the last minute, from recorded times: without start-up, steady with groups of results, low in stalls."""

from __future__ import annotations

import random

import pytest
from builders.stages import DEMO

from daskt2i.display.rate import RecentRate


def test_there_is_no_rate_before_the_first_result() -> None:
    rate = RecentRate(workers=4)
    assert rate.per_second(10.0) is None
    assert rate.seconds_left(10.0, 100) is None


def test_one_result_without_work_seconds_gives_no_rate_because_it_includes_the_start_up() -> None:
    rate = RecentRate()
    rate.add(60.0, 64)
    assert rate.seconds_left(60.0, 1000) is None
    rate.add(61.0, 64)
    assert rate.per_second(61.0) == pytest.approx(64)


def test_after_the_first_result_of_the_demo_the_time_left_is_right_to_a_third() -> None:
    """An older version, which counted from the start, predicted 2 min 16 s at this point. It took 12 s."""
    rate = RecentRate(workers=2)
    at, rows, work = DEMO[0]
    rate.add(at, rows, work)
    left = rate.seconds_left(at, sum(rows for _, rows, _ in DEMO[1:]))
    assert left == pytest.approx(DEMO[-1][0] - at, rel=1 / 3)


def test_all_later_estimates_of_the_demo_are_close_although_the_second_worker_started_late() -> None:
    rate = RecentRate(workers=2)
    remaining, end = sum(rows for _, rows, _ in DEMO), DEMO[-1][0]
    for at, rows, work in DEMO:
        rate.add(at, rows, work)
        remaining -= rows
        left = rate.seconds_left(at, remaining)
        assert left is not None
        assert abs(left - (end - at)) < 4.0, at


@pytest.mark.parametrize("workers", [1, 2, 8, 64])
@pytest.mark.parametrize("pause", [0.5, 7.0, 25.0, 150.0])
def test_the_rate_is_steady_when_results_arrive_in_groups(workers: int, pause: float) -> None:
    """N workers deliver at nearly the same time. Some cases have fewer than two such groups in a minute."""
    draw = random.Random(0)
    rate = RecentRate(workers)
    seen = []
    for lump in range(1, 13):
        for late in sorted(draw.uniform(0, pause / 20) for _ in range(workers)):
            now = 30.0 + lump * pause + late
            rate.add(now, 64)
            seen.append(rate.per_second(now))
    assert set(seen[:workers]) == {None}
    known = [value for value in seen[workers:] if value is not None]
    assert len(known) == 11 * workers
    truth = 64 * workers / pause
    assert truth / 1.1 < min(known) <= max(known) < truth * 1.1


def test_the_rate_follows_a_change_within_a_minute() -> None:
    rate = RecentRate()
    now = 0.0
    for _ in range(300):
        now += 1.0
        rate.add(now, 10)
    for _ in range(31):
        now += 2.0
        rate.add(now, 10)
    assert rate.per_second(now) == pytest.approx(5.0)


def test_an_overdue_result_lowers_the_rate_and_the_time_left_is_never_negative() -> None:
    rate = RecentRate()
    for now in (0.0, 10.0, 20.0):
        rate.add(now, 50)
    assert rate.per_second(29.0) == rate.per_second(20.0) == pytest.approx(5.0)
    assert rate.seconds_left(25.0, 100) == pytest.approx(15.0)
    assert rate.per_second(130.0) == pytest.approx(100 / 120)
    assert rate.seconds_left(29.0, 1) == 0.0


def test_the_time_left_never_counts_upwards_between_two_results() -> None:
    """A short encode on workers of which one still loads: 16 of 80 rows came, and then nothing for twenty seconds."""
    rate = RecentRate(workers=2)
    rate.add(100.0, 16, work_seconds=4.0)
    seen = [rate.seconds_left(100.0 + tenth / 10, 64) for tenth in range(200)]
    known = [left for left in seen if left is not None]
    assert known == sorted(known, reverse=True)
    assert len(known) > 100
    assert seen[-1] is None, "nobody knows when it comes"


def test_a_failure_takes_time_and_adds_no_amount() -> None:
    rate = RecentRate()
    for now, rows in ((0.0, 50), (10.0, 0), (20.0, 50)):
        rate.add(now, rows)
    assert rate.per_second(20.0) == pytest.approx(50 / 20)


def test_only_failures_give_no_rate() -> None:
    rate = RecentRate()
    for now in (0.0, 10.0, 20.0):
        rate.add(now, 0)
    assert rate.per_second(20.0) is None
    assert rate.seconds_left(20.0, 10) is None


def test_only_the_newest_of_a_thousand_results_a_second_are_kept() -> None:
    rate = RecentRate()
    for i in range(50_000):
        rate.add(i / 1000, 1)
    assert rate.per_second(49.999) == pytest.approx(1000)
    assert len(rate._arrivals) < 5_000
