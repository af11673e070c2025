"""Which worker of a cluster gets the next item, so that workers of different speed end together.

Covers: seconds of an item on each worker, how many items a worker has in hand, who gets none near the end.
Does not cover: submitting items (`flight`), which workers may run them (`dask`). It reads no clock.

A busy worker has one more item in hand, so that it does not wait for the driver. Near the end that item may wait behind
a long one, while other workers have nothing to do. So a worker gets an item only if the others could not finish all
items that are left before this worker would finish this one. That is the greedy rule "each item to the worker that
finishes it first". For items of equal size it gives the shortest time. docs/why/scaling.md has the figures.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import median

IN_HAND = 2
"""Items of a worker: one that runs, and one that waits."""

UNEQUAL = 1.5
"""Workers are of different speed if the slowest needs so many times as long for an item as the fastest. Less may be
chance: the pictures of chunks have different sizes."""

_LOOKS = 8
"""How often the speeds of all workers are compared while each of them does one item: with thousands it takes time."""

_NEW = 0.4
"""Weight of the newest item in the seconds of a worker."""


@dataclass(slots=True)
class _Lane:
    """One worker.

    Attributes:
        in_hand: number of its items that have not ended.
        since: when its oldest item began, as far as the driver knows.
        first: seconds of its first item. It is slower: code is imported, and a machine warms up.
        seconds: seconds of an item; None until one has ended.
        ended: number of items that have ended.
    """

    in_hand: int = 0
    since: float = 0.0
    first: float | None = None
    seconds: float | None = None
    ended: int = 0

    def free_at(self, seconds: float, now: float) -> float:
        """When it will have nothing in hand, if an item takes it so many seconds."""
        if not self.in_hand:
            return now
        running = max(0.1 * seconds, self.since + seconds - now)
        return now + running + (self.in_hand - 1) * seconds


@dataclass(slots=True)
class Lanes:
    """The workers that may run items, by their addresses. Times are those of the caller's clock."""

    _lanes: dict[str, _Lane] = field(default_factory=dict)
    _away: dict[str, _Lane] = field(default_factory=dict)
    _free: dict[str, None] = field(default_factory=dict)
    _new: int = 0

    def __len__(self) -> int:
        return len(self._lanes)

    def use(self, workers: Collection[str]) -> None:
        """Give items to these workers only. One that comes back keeps its seconds."""
        for address in [one for one in self._lanes if one not in workers]:
            self._away[address] = self._lanes.pop(address)
            self._free.pop(address, None)
        for address in workers:
            if address not in self._lanes:
                self._lanes[address] = self._away.pop(address, _Lane())
                self._offer(address)

    def empty(self) -> None:
        """No worker has an item in hand. What is known of their speed stays."""
        self._away = {address: lane for address, lane in self._away.items() if lane.ended}
        for lane in (*self._lanes.values(), *self._away.values()):
            lane.in_hand = 0
        self._free = dict.fromkeys(self._lanes)

    def are_unequal(self) -> bool:
        """Whether the workers are known to be of different speed. It looks only after every few items."""
        if _LOOKS * self._new < len(self._lanes):
            return False
        self._new = 0
        lanes = self._lanes.values()
        firsts = [lane.first for lane in lanes if lane.first is not None]
        later = [lane.seconds for lane in lanes if lane.seconds is not None and lane.ended > 1]
        return any(len(them) > 1 and max(them) > UNEQUAL * min(them) for them in (firsts, later))

    def choose(self, left: int | None, now: float) -> str | None:
        """The worker that gets the next item; None if each has enough.

        Args:
            left: number of items that are left, with this one; None if it is not known.
        """
        best: dict[bool, tuple[float, str]] = {}  # of workers with nothing in hand, and of those with something
        for address in self._free:
            lane = self._lanes[address]
            if lane.seconds is None:
                if not lane.in_hand:
                    return address
                continue  # nothing is known of it, so nothing waits behind its first item
            found = lane.free_at(lane.seconds, now) + lane.seconds, address
            has = lane.in_hand > 0
            best[has] = min(found, best.get(has, found))
        for has in sorted(best):
            if left is None or self._needed(best[has][1], left, now):
                return best[has][1]
        busy = any(lane.in_hand for lane in self._lanes.values())
        return None if busy or not best else best[False][1]

    def least(self) -> str:
        """The worker with the fewest items in hand; "" if there is none."""
        return min(self._lanes, key=lambda address: self._lanes[address].in_hand, default="")

    def given(self, address: str, now: float) -> None:
        """A worker got an item."""
        if (lane := self._lanes.get(address)) is None:
            return
        if not lane.in_hand:
            lane.since = now
        lane.in_hand += 1
        if lane.in_hand >= IN_HAND:
            self._free.pop(address, None)

    def returned(self, address: str, now: float) -> None:
        """An item of a worker ended, or was taken from it."""
        lane = self._lanes.get(address) or self._away.get(address)
        if lane is not None and lane.in_hand:
            lane.in_hand, lane.since = lane.in_hand - 1, now
            self._offer(address)

    def took(self, address: str, seconds: float) -> None:
        """An item took a worker so many seconds."""
        if (lane := self._lanes.get(address)) is not None:
            old, seconds = lane.seconds, max(1e-3, seconds)
            lane.seconds = seconds if old is None or lane.ended < 2 else (1 - _NEW) * old + _NEW * seconds
            lane.first = seconds if lane.first is None else lane.first
            lane.ended += 1
            self._new += 1

    def _offer(self, address: str) -> None:
        if address in self._lanes and self._lanes[address].in_hand < IN_HAND:
            self._free[address] = None

    def _needed(self, address: str, left: int, now: float) -> bool:
        """Whether the others cannot finish what is left before this worker would finish one more item.

        An item that would wait must have another one after it. A guess may be wrong by one item, and an item in the
        hand of a slow worker is lost to the others.
        """
        lane = self._lanes[address]
        assert lane.seconds is not None
        more = 1 + (lane.in_hand > 0)
        end = lane.free_at(lane.seconds, now) + more * lane.seconds
        usual, need = None, left - (more - 1)
        for name, other in self._lanes.items():
            if need <= 0:
                return False
            if name != address:
                if (seconds := other.seconds) is None:
                    usual = usual or median(one.seconds for one in self._lanes.values() if one.seconds is not None)
                    seconds = max(usual, now - other.since if other.in_hand else 0.0)  # it takes so long already
                need -= max(0, int((end - other.free_at(seconds, now)) / seconds - 1e-9))
        return need > 0
