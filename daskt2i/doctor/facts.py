"""What `doctor` found out, before anything is concluded from it.

Covers: a worker, a measured speed, a clock, a problem with what to do.
Does not cover: collecting them (`asking`, `sight`, `speeds`), the rules (`rules`), how they look (`result`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["stops", "slows", "note"]
"""`stops`: no run can start, or it may end early. `slows`: it works, and could be faster or safer. `note`: good to
know."""

SEVERITIES: tuple[Severity, ...] = ("stops", "slows", "note")


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding.

    Attributes:
        severity: how bad it is.
        about: the subject, one or two words with dashes.
        text: what was found, one sentence or more.
        advice: what to do.
        workers: addresses of the workers that it is about; empty for the driver, the scheduler or the workflow.
    """

    severity: Severity
    about: str
    text: str
    advice: str
    workers: tuple[str, ...] = ()

    def words(self) -> str:
        """Text and advice."""
        return f"{self.text} {self.advice}".strip()

    def to_json(self) -> dict[str, Any]:
        """As in `doctor --json`."""
        return {
            "severity": self.severity,
            "about": self.about,
            "text": self.text,
            "advice": self.advice,
            "workers": list(self.workers),
        }


@dataclass(frozen=True, slots=True)
class Clock:
    """The difference of a clock to that of the driver.

    Attributes:
        ahead: seconds that the clock is ahead; negative if it is behind.
        error: the true difference is at most so many seconds away from it: half of the round trip.
    """

    ahead: float
    error: float

    @classmethod
    def of(cls, asked: float, told: float, answered: float) -> Clock:
        """From one round trip: the other clock was read between the two times of ours."""
        return cls(told - (asked + answered) / 2, max(0.0, answered - asked) / 2)

    def surely_off_by(self) -> float:
        """Seconds by which it is off at the least."""
        return max(0.0, abs(self.ahead) - self.error)


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker.

    Attributes:
        address: of the worker, `tcp://10.0.0.7:40123`; "" for this process, where no cluster is.
        threads: tasks that Dask runs there at once, and the torch threads unless settings say otherwise.
        memory_limit: bytes; 0 for none.
        look: see `bare.look`; None if it did not answer.
        sight: see `sight.see`; None if it was not asked, or did not answer.
        blind: why it could not be asked what it sees; "" if it was.
        clock: None if it did not answer.
        name: as `run.only` reads it; "" if it has none but its address.
        known_host: name of its machine, as another worker with the same network address says it; "" if none does.
    """

    address: str
    threads: int
    memory_limit: int
    look: Mapping[str, Any] | None = None
    sight: Mapping[str, Any] | None = None
    blind: str = ""
    clock: Clock | None = None
    known_host: str = ""
    name: str = ""

    @property
    def known_as(self) -> str:
        """Name and address: `"gpu-1 (10.0.0.7:40123)"`, or the address alone."""
        place = self.address.partition("://")[2]
        return f"{self.name} ({place})" if self.name else place

    @property
    def ip(self) -> str:
        """The network address of its machine; "" if it has none."""
        return self.address.partition("://")[2].rpartition(":")[0].strip("[]")

    @property
    def host(self) -> str:
        """Name of its machine, or its network address."""
        return str(self.said("host") or self.known_host or self.ip or "this machine")

    def said(self, *names: str) -> Any:
        """A value of `look` by the names that lead to it; None if it was not said."""
        found: Any = self.look
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found


@dataclass(frozen=True, slots=True)
class Speed:
    """A measured connection.

    Attributes:
        kind: `driver-worker` (through the scheduler), `worker-worker`, `run-folder`.
        start, end: addresses of the two workers, or "" for the driver and the run folder.
        seconds: of one small message and its answer, or of writing a small object.
        there, back: bytes a second, to `end` and from it; None if it was not measured.
        error: why it does not work; "" if it does.
    """

    kind: str
    start: str
    end: str
    seconds: float | None = None
    there: float | None = None
    back: float | None = None
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """As in `doctor --json`."""
        return {
            "kind": self.kind,
            "from": self.start,
            "to": self.end,
            "seconds": self.seconds,
            "bytes_per_second": self.there,
            "bytes_per_second_back": self.back,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Found:
    """All facts of one look.

    Attributes:
        here: the driver, as `bare.look`.
        scheduler: its look; None without a scheduler, or if it did not answer.
        address, dashboard: of the scheduler; "" without one.
        dashboard_error: why the dashboard does not answer this process; "" if it does.
        owned: whether daskt2i started the cluster for this look.
        workers: what works: the workers of the cluster; without a cluster this process alone.
        need: memory that a worker needs, bytes; 0 if there is no plan.
        threads: torch threads of a worker, as a run would set them; 0 if each worker's own. `threads_set`: whether the
            settings say so.
        remote_folder: whether the run folder is behind an address.
        named: what the driver knows of the workflow: `versions`, the identities of the weights, the name of an image,
            `min_fit`: `run.min_fit_workers`, `sends`: bytes of the models that an encode sends to hosts that lack
            them, 0 if it sends none.
    """

    here: Mapping[str, Any]
    scheduler: Mapping[str, Any] | None = None
    address: str = ""
    dashboard: str = ""
    dashboard_error: str = ""
    owned: bool = False
    workers: tuple[Worker, ...] = ()
    speeds: tuple[Speed, ...] = ()
    need: int = 0
    threads: int = 0
    threads_set: bool = False
    remote_folder: bool = False
    named: Mapping[str, Any] = field(default_factory=dict)


def who(workers: Iterable[Worker], of: int) -> str:
    """Words for some workers at the beginning of a sentence, with their hosts: `"2 of 8 workers (node3)"`."""
    some = list(workers)
    hosts = list(dict.fromkeys(one.host for one in some))
    where = ", ".join(hosts[:3]) + (f" and {len(hosts) - 3:,} more" if len(hosts) > 3 else "")
    if len(some) == 1:
        port = "" if of == 1 else f"{some[0].known_as} "
        return f"The worker {port}on {where}"
    if len(some) == of:
        return f"All {of:,} workers"
    return f"{len(some):,} of {of:,} workers ({where})"


def some_only(workers: Sequence[Worker], found: Found) -> str:
    """What becomes of a run if only some workers lack what it needs: the first worker that it asks may be one of them.

    (`faults.suspects` sets a worker aside that fails where others do not.)
    """
    if len(workers) == len(found.workers):
        return ""
    return " A run that begins there may end; one that begins elsewhere goes on without it."
