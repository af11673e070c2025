"""Who is to blame for failed chunks: the chunk, or the worker that failed it.

Covers: failures in a row, by worker and by host; when a worker gets no more chunks, when it gets chunks again, when the
run must end.
Does not cover: running chunks, telling an executor (`encode.chunks`), the kinds of errors (`kinds`).

A worker that fails in milliseconds takes chunk after chunk, while good workers finish one. So it is set aside after a
few, before anybody knows better. Its chunks go to others. If another worker in good standing fails one of them too, the
chunk is the cause, and the worker is absolved.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field

from daskt2i.faults.kinds import POLICIES, Kind
from daskt2i.retries import is_hopeless

_MANY = 3
"""So many workers that have the same error of the setup, before any chunk was finished, are enough: it is the setup."""

_EXCUSES = 2
"""A try does not count for a chunk so often at most. So a run always ends, also where new workers come for ever."""


class Step(enum.Enum):
    """What to do after a failure."""

    COUNT = "the try counts for the chunk"
    EXCUSE = "the try does not count"
    AVOID = "the worker gets no more chunks, and its tries do not count"
    END = "the run ends"


@dataclass(slots=True)
class Suspects:
    """The failures of a run.

    Args:
        open_chunks: number of open chunks when the run began.
        replaceable: whether the workers are processes of a pool on one machine: a new process may do better, but not
            after an error of the setup.

    Attributes:
        aside: worker -> what its last error said, for workers that get no more chunks.
    """

    open_chunks: int
    replaceable: bool = False
    aside: dict[str, str] = field(default_factory=dict)
    # `_total`: number of finished chunks. `_finished`: worker -> this number at its last one. `_since`: workers of the
    # failures since the last finished chunk. `_streaks`: worker -> chunks that it failed in a row.
    _total: int = 0
    _finished: dict[str, int] = field(default_factory=dict)
    _streaks: dict[str, set[int]] = field(default_factory=dict)
    _since: list[str] = field(default_factory=list)
    _accused: dict[int, str] = field(default_factory=dict)
    _failed_on: dict[int, set[str]] = field(default_factory=dict)
    _excuses: Counter[int] = field(default_factory=Counter)
    _set_aside: int = 0

    def finished(self, chunk: int, worker: str) -> None:
        """A worker finished a chunk."""
        self._total += 1
        self._finished[worker] = self._total
        self._streaks.pop(worker, None)
        self._since.clear()
        self._set_aside = 0
        self._accused.pop(chunk, None)
        self._failed_on.pop(chunk, None)

    def failed(self, chunk: int, worker: str, kind: Kind, said: str, left: int) -> Step:
        """A worker failed a chunk.

        Args:
            worker: `host:pid`; "" if it is not known.
            said: what the error says.
            left: number of workers that get chunks now.
        """
        policy = POLICIES[kind]
        if policy.ends == "at once":
            return Step.END
        if worker in self.aside:  # it had this chunk already when it was set aside
            self._accused[chunk] = worker
            return Step.EXCUSE if self._may_excuse(chunk) else Step.COUNT
        if not policy.worker:
            return Step.COUNT
        self._since.append(worker)
        streak = self._streaks.setdefault(worker, set())
        before = self._failed_on.setdefault(chunk, set())
        if not any(one != worker and one not in self.aside for one in before):  # else the chunk is the suspect
            streak.add(chunk)
        before.add(worker)
        # A new process that fails like the one before shows that the processes are not to blame.
        many = self.replaceable and self._set_aside >= max(2, left)
        if worker and left > 1 and not many and self._is_suspect(worker, kind):
            self._set_aside += 1
            self.aside[worker] = said
            self._accused |= dict.fromkeys(streak, worker)
            return Step.AVOID
        return Step.END if self._is_over(kind, left) else Step.COUNT

    def absolved(self, chunk: int, worker: str) -> str | None:
        """The worker that was set aside for this chunk, if this failure shows that it is not to blame."""
        accused = self._accused.get(chunk)
        if accused is None or accused == worker or worker in self.aside or not self._finished.get(worker):
            return None
        for one in [one for one, of in self._accused.items() if of == accused]:
            del self._accused[one]
        self._streaks.pop(accused, None)
        return accused if self.aside.pop(accused, None) is not None else None

    @property
    def in_a_row(self) -> int:
        """Number of failures since a chunk was finished, without those of workers that are set aside."""
        return sum(worker not in self.aside for worker in self._since)

    def excused(self, worker: str) -> list[int]:
        """The chunks that a worker failed in a row before it was set aside. Their tries do not count."""
        return [chunk for chunk in sorted(self._streaks.pop(worker, set())) if self._may_excuse(chunk)]

    def _may_excuse(self, chunk: int) -> bool:
        self._excuses[chunk] += 1
        return self._excuses[chunk] <= _EXCUSES

    def _is_suspect(self, worker: str, kind: Kind) -> bool:
        streak = self._streaks[worker]
        if kind is Kind.SETUP:
            return not self.replaceable and not self._is_common(kind)
        if not streak:
            return False
        if POLICIES[kind].worker == 1:  # it tried for a long time, and the others did better meanwhile
            return self._total > self._finished.get(worker, 0)
        host = worker.rpartition(":")[0]
        bad_host = sum(name.rpartition(":")[0] == host for name in self.aside) > 1 and any(
            name.rpartition(":")[0] != host for name in self._finished
        )
        return len(streak) >= (1 if bad_host else POLICIES[kind].worker)

    def _is_common(self, kind: Kind) -> bool:
        return not self._finished and len(self.aside) + 1 >= _MANY

    def _is_over(self, kind: Kind, left: int) -> bool:
        if kind is Kind.SETUP:
            return True
        failures = [worker for worker in self._since if worker not in self.aside]
        if POLICIES[kind].worker == 1:
            return len(set(failures)) >= max(1, left)
        return is_hopeless(len(failures), left, self.open_chunks)
