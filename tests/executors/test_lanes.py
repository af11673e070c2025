"""Who gets the next item, by a small simulation of workers: no processes, no clock."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Sequence

import pytest

from daskt2i.executors.window.lanes import IN_HAND, Lanes


class Simulation:
    """Items on workers that need a stated time for each. `got` counts the items of each worker.

    Args:
        seconds: of an item, for each worker.
        items: number of items.
        noise: spread of the time of an item: 0.2 for 80 % to 120 %.
        known: whether the driver knows the speed of each worker from earlier items.
    """

    def __init__(self, seconds: Sequence[float], items: int, noise: float = 0.0, known: bool = False) -> None:
        self.seconds, self.left, self.noise = dict(enumerate(seconds)), items, noise
        self.lanes, self.now, self.most = Lanes(), 0.0, 0
        self.got = [0] * len(seconds)
        self.lanes.use([str(i) for i in self.seconds])
        for i, each in self.seconds.items() if known else ():
            self.lanes.took(str(i), each)
        self._random, self._ends, self._order = (
            random.Random(7),
            list[tuple[float, int, int, float]](),
            itertools.count(),
        )
        self._hands = {i: deque[float]() for i in self.seconds}

    def run(self) -> float:
        """Seconds until the last item ended."""
        self._fill()
        while self._ends:
            self.now, _, i, took = heapq.heappop(self._ends)
            self._hands[i].popleft()
            self.lanes.returned(str(i), self.now)
            self.lanes.took(str(i), took)
            self._begin(i)
            self._fill()
        assert not self.left, "items were left, and no worker had one"
        return self.now

    def _fill(self) -> None:
        while self.left and (place := self.lanes.choose(self.left, self.now)) is not None:
            i = int(place)
            self.lanes.given(place, self.now)
            self.left -= 1
            self.got[i] += 1
            self._hands[i].append(self.seconds[i] * self._random.uniform(1 - self.noise, 1 + self.noise))
            self.most = max(self.most, len(self._hands[i]))
            if len(self._hands[i]) == 1:
                self._begin(i)

    def _begin(self, i: int) -> None:
        if self._hands[i]:
            took = self._hands[i][0]
            heapq.heappush(self._ends, (self.now + took, next(self._order), i, took))


def shortest(seconds: Sequence[float], items: int) -> float:
    """The shortest time in which workers can do so many items of equal size."""
    ends = sorted(each * n for each in seconds for n in range(1, items + 1))
    return ends[items - 1]


CASES = [
    pytest.param([1.0, 1.0, 1.0, 1.0], 18, id="equal"),
    pytest.param([1.0, 4.0, 4.0, 4.0], 28, id="one fast"),
    pytest.param([1.0, 10.0, 10.0, 10.0], 20, id="one very fast"),
    pytest.param([1.0, *[20.0] * 8], 100, id="a GPU and eight CPUs"),
    pytest.param([1 + i / 16 for i in range(32)], 320, id="all different"),
]


@pytest.mark.parametrize(("seconds", "items"), CASES)
def test_workers_of_known_speed_need_the_shortest_time(seconds: list[float], items: int) -> None:
    simulation = Simulation(seconds, items, known=True)
    assert simulation.run() == pytest.approx(shortest(seconds, items), rel=0.01)
    assert sum(simulation.got) == items
    assert simulation.most <= IN_HAND


@pytest.mark.parametrize(("seconds", "items"), CASES)
def test_workers_of_unknown_speed_end_within_one_item_of_the_fastest_where_times_vary(
    seconds: list[float], items: int
) -> None:
    unknown = max(shortest(seconds, items), max(seconds))  # each worker gets an item before its speed is known
    assert Simulation(seconds, items, noise=0.2).run() <= 1.2 * unknown + min(seconds)


def test_near_the_end_a_slow_worker_gets_nothing() -> None:
    lanes = Lanes()
    lanes.use(["fast", "slow"])
    lanes.took("fast", 1.0)
    lanes.took("slow", 10.0)
    assert lanes.choose(100, 0.0) == "fast"
    lanes.given("fast", 0.0)
    assert lanes.choose(99, 0.0) == "slow"
    assert lanes.choose(8, 0.0) in ("fast", None)  # the fast one ends all of them earlier
    lanes.given("fast", 0.0)
    assert lanes.choose(7, 0.0) is None


def test_an_item_waits_behind_another_one_only_while_there_are_more_and_the_worker_is_known() -> None:
    lanes = Lanes()
    lanes.use(["a", "b"])
    for place in ("a", "b"):
        assert lanes.choose(50, 0.0) == place
        lanes.given(place, 0.0)
    assert lanes.choose(50, 0.0) is None  # nothing is known of them
    for place in ("a", "b"):
        lanes.returned(place, 1.0)
        lanes.took(place, 1.0)
        lanes.given(place, 1.0)
    assert lanes.choose(50, 1.0) in ("a", "b")
    assert lanes.choose(2, 1.0) is None


def test_without_a_number_of_items_each_known_worker_has_two() -> None:
    lanes = Lanes()
    lanes.use(["a", "b"])
    for place in ("a", "b"):
        lanes.took(place, 1.0)
    given = []
    while (place := lanes.choose(None, 0.0)) is not None:
        lanes.given(place, 0.0)
        given.append(place)
    assert sorted(given) == ["a", "a", "b", "b"]


def test_a_worker_that_comes_back_keeps_its_speed_and_one_that_is_gone_gets_nothing() -> None:
    lanes = Lanes()
    lanes.use(["a", "b"])
    lanes.took("a", 1.0)
    lanes.took("b", 9.0)
    lanes.use(["a"])
    assert len(lanes) == 1
    lanes.given("b", 0.0)  # too late: it is gone
    assert lanes.choose(1, 0.0) == "a"
    lanes.use(["a", "b"])
    assert lanes.choose(2, 0.0) == "a"
    assert lanes.are_unequal()


def test_speeds_are_unequal_only_beyond_what_chance_explains() -> None:
    lanes = Lanes()
    lanes.use(["a", "b"])
    lanes.took("a", 1.0)
    assert not lanes.are_unequal()
    lanes.took("b", 1.3)
    assert not lanes.are_unequal()
    lanes.took("b", 3.0)  # its second item; the other one has had only its first, which is slower
    assert not lanes.are_unequal()
    lanes.took("a", 1.1)
    assert lanes.are_unequal()


def test_when_nothing_runs_somebody_gets_the_next_item() -> None:
    rng = random.Random(3)
    for _ in range(200):
        lanes = Lanes()
        names = [str(i) for i in range(rng.randint(1, 6))]
        lanes.use(names)
        for name in names:
            for _ in range(rng.randint(0, 3)):
                lanes.took(name, rng.uniform(0.001, 100))
        assert lanes.choose(rng.randint(1, 4), rng.uniform(0, 50)) in names
