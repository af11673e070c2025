"""The result of `doctor`: problems first, then the facts.

Covers: what `--json` prints; whether a run could start.
Does not cover: the lines of the page (`page`), collecting and concluding (`driver`, `rules`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daskt2i.doctor.bare import private
from daskt2i.doctor.facts import Found, Problem, Worker
from daskt2i.doctor.page import page
from daskt2i.encode.prepare import EncodePlan
from daskt2i.redact import without_secrets
from daskt2i.view import View, Viewed

VERSION = 1
"""Of the object that `--json` prints. A change that a reader of it must know of makes it higher."""


@dataclass(frozen=True, slots=True, repr=False)
class DoctorResult(Viewed):
    """What a run would find.

    Attributes:
        problems: the worst first.
        found: the facts.
        plan: what `encode` would do; None if that cannot be planned.
        workflow: its name.
        out: the run folder.
        when: ISO 8601, UTC.
        seconds: how long the look took.
        ranks: processes of a training; 0 if it is not known.
    """

    problems: tuple[Problem, ...]
    found: Found
    plan: EncodePlan | None
    workflow: str
    out: str
    when: str
    seconds: float
    ranks: int = 0

    @property
    def ok(self) -> bool:
        """Whether a run could start."""
        return not any(one.severity == "stops" for one in self.problems)

    def to_json(self) -> dict[str, Any]:
        """The object that `doctor --json` prints. It holds no secrets, and no names of users."""
        found = self.found
        return without_secrets(
            private(
                {
                    "doctor": VERSION,
                    "ok": self.ok,
                    "when": self.when,
                    "seconds": round(self.seconds, 2),
                    "workflow": self.workflow,
                    "out": self.out,
                    "problems": [one.to_json() for one in self.problems],
                    "driver": dict(found.here),
                    "scheduler": None
                    if not found.address
                    else {
                        "address": found.address,
                        "dashboard": found.dashboard,
                        "started_here": found.owned,
                        "look": None if found.scheduler is None else dict(found.scheduler),
                    },
                    "workers": [_worker(one) for one in found.workers],
                    "speeds": [one.to_json() for one in found.speeds],
                    "plan": None if self.plan is None else self.plan.to_json(),
                    "ranks": self.ranks,
                }
            )
        )

    def view(self) -> View:
        """One page: problems, machines, versions, network, plan."""
        return page(self.found, self.problems, self.plan, ranks=self.ranks, out=self.out, seconds=self.seconds)


def _worker(worker: Worker) -> dict[str, Any]:
    clock = worker.clock
    return {
        "address": worker.address,
        "name": worker.name,
        "host": worker.host,
        "threads": worker.threads,
        "memory_limit": worker.memory_limit,
        "answers": worker.look is not None,
        "look": None if worker.look is None else dict(worker.look),
        "sees": None if worker.sight is None else {name: dict(part) for name, part in worker.sight.items()},
        "clock": None if clock is None else {"ahead": round(clock.ahead, 4), "error": round(clock.error, 4)},
    }
